//! `deps`: the crates form layers, and arrows point downwards only.
//!
//! ```text
//! cli -> control -> netlink, datapath-bpf -> core -> abi
//!                                     bpf -> core -> abi
//! ```

use crate::run::{Result, fail, note};
use crate::workspace::Graph;

/// Each crate and the ones right below it; what those may use, it may use too.
const ARROWS: &[(&str, &[&str])] = &[
    ("ipvlan", &["ipvlan-control"]),
    ("ipvlan-control", &["ipvlan-netlink", "ipvlan-datapath-bpf"]),
    ("ipvlan-netlink", &["ipvlan-core"]),
    ("ipvlan-datapath-bpf", &["ipvlan-core"]),
    ("ipvlan-bpf", &["ipvlan-core"]),
    ("ipvlan-core", &["ipvlan-abi"]),
    ("ipvlan-abi", &[]),
];

/// These look at everything, so nothing may lean on them.
const OUTSIDE: &[&str] = &[
    "ipvlan-tests",
    "ipvlan-bench",
    "ipvlan-fuzz",
    "ipvlan-soak",
    "xtask",
];

/// `cargo xtask deps`
pub(crate) fn deps() -> Result {
    let graph = Graph::load()?;
    let mut wrong = Vec::new();
    let mut count = 0_usize;
    for package in graph.packages.iter().filter(|package| package.ours) {
        if OUTSIDE.contains(&package.name.as_str()) {
            continue;
        }
        if below(&package.name).is_none() {
            wrong.push(format!(
                "{} has no place in xtask/src/deps.rs",
                package.name
            ));
        }
        for edge in &package.dependencies {
            let Some(other) = graph.packages.get(edge.package).filter(|other| other.ours) else {
                continue;
            };
            count += 1;
            if !allowed(&package.name, &other.name) {
                wrong.push(format!("{} -> {}", package.name, other.name));
            }
        }
    }
    if !wrong.is_empty() {
        let wrong = wrong.join(", ");
        return Err(fail(format!("arrows that do not point downwards: {wrong}")));
    }
    note(format!("{count} arrows between crates, all downwards"));
    Ok(())
}

fn below(name: &str) -> Option<&'static [&'static str]> {
    ARROWS
        .iter()
        .find(|(from, _)| *from == name)
        .map(|(_, to)| *to)
}

fn allowed(from: &str, to: &str) -> bool {
    below(from).is_some_and(|next| next.iter().any(|&next| next == to || allowed(next, to)))
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn arrows_point_downwards_and_may_skip_a_layer() {
        assert!(allowed("ipvlan", "ipvlan-control"));
        assert!(allowed("ipvlan", "ipvlan-abi"));
        assert!(allowed("ipvlan-bpf", "ipvlan-abi"));
        assert!(!allowed("ipvlan-core", "ipvlan-netlink"));
        assert!(!allowed("ipvlan-netlink", "ipvlan-datapath-bpf"));
        assert!(!allowed("ipvlan-control", "ipvlan-bpf"));
        assert!(!allowed("ipvlan-abi", "ipvlan-abi"));
        assert!(!allowed("ipvlan", "ipvlan-tests"));
    }
}
