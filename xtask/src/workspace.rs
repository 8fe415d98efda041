//! Where the workspace is, its cargo, and what `cargo metadata` says about it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::run::{Result, fail, read};

/// The folder of the root manifest.
pub(crate) fn root() -> PathBuf {
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map(Path::to_path_buf).unwrap_or(xtask)
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let _: &mut Command = cargo.current_dir(root());
    cargo
}

/// A package of the dependency graph.
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// The folder of its manifest.
    pub(crate) folder: PathBuf,
    /// Whether it comes from the workspace itself.
    pub(crate) ours: bool,
    /// The first program it makes.
    pub(crate) program: Option<String>,
    /// Indices of the packages it depends on.
    pub(crate) dependencies: Vec<Dependency>,
}

/// An edge of the graph.
pub(crate) struct Dependency {
    pub(crate) package: usize,
    /// Whether it becomes part of the package: tests and build scripts do not.
    pub(crate) normal: bool,
}

/// Every package, and where build output goes.
pub(crate) struct Graph {
    pub(crate) packages: Vec<Package>,
    pub(crate) target: PathBuf,
}

impl Graph {
    pub(crate) fn load() -> Result<Self> {
        let text = read(cargo().args(["metadata", "--format-version=1"]))?;
        let json: Value = serde_json::from_str(&text)
            .map_err(|error| fail(format!("cargo metadata printed bad JSON: {error}")))?;
        Self::parse(&json).ok_or_else(|| fail("cargo metadata printed something unexpected"))
    }

    fn parse(json: &Value) -> Option<Self> {
        let mut packages = Vec::new();
        for package in json["packages"].as_array()? {
            packages.push(Package {
                id: package["id"].as_str()?.into(),
                name: package["name"].as_str()?.into(),
                version: package["version"].as_str()?.into(),
                folder: Path::new(package["manifest_path"].as_str()?)
                    .parent()?
                    .into(),
                ours: package["source"].is_null(),
                program: program(package).map(str::to_owned),
                dependencies: Vec::new(),
            });
        }
        for node in json["resolve"]["nodes"].as_array()? {
            let mut dependencies = Vec::new();
            for edge in node["deps"].as_array()? {
                let id = edge["pkg"].as_str()?;
                dependencies.push(Dependency {
                    package: packages.iter().position(|package| package.id == id)?,
                    normal: edge["dep_kinds"]
                        .as_array()?
                        .iter()
                        .any(|of| of["kind"].is_null()),
                });
            }
            let id = node["id"].as_str()?;
            packages
                .iter_mut()
                .find(|package| package.id == id)?
                .dependencies = dependencies;
        }
        Some(Self {
            packages,
            target: json["target_directory"].as_str()?.into(),
        })
    }

    /// A package of the workspace.
    pub(crate) fn ours(&self, name: &str) -> Result<&Package> {
        let found = self
            .packages
            .iter()
            .find(|package| package.ours && package.name == name);
        found.ok_or_else(|| fail(format!("no package {name} here")))
    }

    /// The package and all that becomes part of it, itself first.
    pub(crate) fn closure(&self, name: &str) -> Result<Vec<&Package>> {
        let first = self.ours(name)?;
        let first = self
            .packages
            .iter()
            .position(|package| package.id == first.id);
        let mut found: Vec<usize> = first.into_iter().collect();
        let mut next = 0;
        while let Some(package) = found.get(next).and_then(|&index| self.packages.get(index)) {
            for edge in &package.dependencies {
                if edge.normal && !found.contains(&edge.package) {
                    found.push(edge.package);
                }
            }
            next += 1;
        }
        Ok(found
            .iter()
            .filter_map(|&index| self.packages.get(index))
            .collect())
    }
}

fn program(package: &Value) -> Option<&str> {
    let is_program = |target: &&Value| target["kind"][0] == "bin";
    package["targets"].as_array()?.iter().find(is_program)?["name"].as_str()
}
