//! The command line of `ipvlan`: iproute2's grammar, words, layout and exit status.
//!
//! ```text
//! words ──► parse ──► Invocation ──► run ──► ipvlan-control ──► text or JSON
//!           pure: no system call              view.rs: one model, two prints
//! ```
//!
//! | file | what |
//! |---|---|
//! | `args.rs` | the cursor over the words, and how iproute2 compares and counts |
//! | `options.rs` | what stands before the noun |
//! | `link/` | `ipvlan link …`: one verb a file, as in `ip/iplink.c`; `kind.rs` is `ip/iplink_ipvlan.c` |
//! | `addr.rs`, `stats.rs`, `agent.rs` | the nouns of our own |
//! | `view.rs`, `text.rs`, `json.rs` | a device as iproute2 shows it: the values, and the two ways to print them |
//! | `help.rs` | what the usage texts say |
//! | `error.rs` | every error text and its exit status |
//! | `out.rs`, `logger.rs` | the only places that write |
//!
//! Exit status, as of `ip`: 0 done, 1 no such device, 2 refused, 255 not understood.

#![forbid(unsafe_code)]

pub mod addr;
pub mod agent;
mod args;
mod error;
mod help;
mod json;
pub mod link;
mod logger;
mod options;
mod out;
pub mod stats;
mod text;
mod view;

pub use error::{Error, NetNsOp};
pub use help::Topic;
pub use options::Options;

use args::{Words, matches};
use ipvlan_netlink::NetNs;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// How to do it: what stood before the noun.
    pub options: Options,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing was asked for: the usage text, as an error.
    Nothing,
    /// `help`.
    Help(Topic),
    /// `-V`.
    Version,
    /// `ipvlan link …`.
    Link(link::Command),
    /// `ipvlan stats …`.
    Stats(stats::Stats),
    /// `ipvlan agent …`.
    Agent(agent::Agent),
    /// `ipvlan address …`.
    Addr(addr::Command),
}

type Parse = fn(&mut Words<'_>) -> Result<Command, Error>;

/// A prefix of a noun means the first that it fits, so a new noun goes to the end.
const NOUNS: [(&str, Parse); 5] = [
    ("link", link::parse),
    ("stats", stats::parse),
    ("agent", agent::parse),
    ("help", help::parse),
    ("address", addr::parse),
];

/// Reads a command line, without the program's name. Pure: it asks the system nothing.
///
/// # Errors
///
/// [`Error`], with iproute2's words for it.
pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Invocation, Error> {
    // Ours, and the only one that may stand anywhere.
    let no_agent = |word: &&str| *word == "--no-agent";
    let rest: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let agent = !rest.iter().any(no_agent);
    let rest: Vec<&str> = rest.into_iter().filter(|word| !no_agent(word)).collect();

    let mut words = Words::new(&rest);
    let mut options = Options {
        agent,
        ..Options::default()
    };
    let command = match options.parse(&mut words)? {
        Some(command) => command,
        None => noun(&mut words)?,
    };
    Ok(Invocation { options, command })
}

fn noun(words: &mut Words<'_>) -> Result<Command, Error> {
    let Some(noun) = words.next() else {
        return Ok(Command::Nothing);
    };
    match NOUNS.iter().find(|(name, _)| matches(noun, name)) {
        Some((_, parse)) => parse(words),
        None => Err(Error::Noun(noun.to_owned())),
    }
}

/// The program, from its words to its exit status.
pub fn main(words: &[String]) -> u8 {
    let done = parse(words).and_then(|Invocation { options, command }| {
        logger::start(&command);
        if matches!(
            command,
            Command::Link(_) | Command::Stats(_) | Command::Agent(_) | Command::Addr(_)
        ) {
            // Before any name of a namespace is looked up: it may bring us to other mounts.
            ipvlan_control::prepare()?;
        }
        match &options.netns {
            None => run(&command, &options),
            Some(name) => in_netns(name, || run(&command, &options)),
        }
    });
    match done {
        Ok(()) => 0,
        Err(error) => {
            out::complain(&error.to_string());
            error.status()
        }
    }
}

/// This has one thread only, so all of the process goes there.
fn in_netns(name: &str, run: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    let failed = |op| {
        move |error: ipvlan_netlink::Error| Error::NetNs {
            op,
            name: name.to_owned(),
            errno: error.errno(),
        }
    };
    let netns = NetNs::by_name(name).map_err(failed(NetNsOp::Open))?;
    netns.enter(run).map_err(failed(NetNsOp::Enter))?
}

fn run(command: &Command, options: &Options) -> Result<(), Error> {
    match command {
        Command::Nothing => Err(Error::Nothing),
        Command::Help(topic) => out::print(topic.text()),
        Command::Version => out::print(&help::version()),
        Command::Link(link) => link.run(options),
        Command::Stats(stats) => stats.run(options),
        Command::Agent(agent) => agent.run(),
        Command::Addr(addr) => addr.run(options),
    }
}

#[cfg(test)]
mod against_ip;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(line: &str) -> Result<Command, Error> {
        let words: Vec<_> = line.split_whitespace().collect();
        parse(&words).map(|invocation| invocation.command)
    }

    #[test]
    fn a_noun_may_be_cut_short() {
        for line in ["l", "li", "link", "link show", "l sh"] {
            assert!(matches!(command(line), Ok(Command::Link(_))), "{line}");
        }
        for line in ["s", "stats", "st x"] {
            assert!(matches!(command(line), Ok(Command::Stats(_))), "{line}");
        }
        for line in ["a", "agent", "agent --foreground"] {
            assert!(matches!(command(line), Ok(Command::Agent(_))), "{line}");
        }
        for line in ["ad", "addr", "address show", "addr add 10.0.0.1 dev v"] {
            assert!(matches!(command(line), Ok(Command::Addr(_))), "{line}");
        }
        assert!(matches!(command("h"), Ok(Command::Help(Topic::Program))));
        assert!(matches!(command(""), Ok(Command::Nothing)));
    }

    #[test]
    fn an_unknown_noun_is_named() {
        let error = command("linkk show").expect_err("no such noun");
        assert_eq!(
            error.to_string(),
            "Object \"linkk\" is unknown, try \"ipvlan help\"."
        );
        assert_eq!(error.status(), 1);
        assert_eq!(
            parse(&[""])
                .expect_err("an empty word is no prefix")
                .to_string(),
            "Object \"\" is unknown, try \"ipvlan help\"."
        );
    }

    #[test]
    fn no_agent_stands_anywhere() {
        for line in [
            "--no-agent link add link e name v type ipvlan",
            "link --no-agent add link e name v type ipvlan",
            "link add link e name v type ipvlan --no-agent",
            "link add link e name --no-agent v type ipvlan mode --no-agent l2",
        ] {
            let words: Vec<_> = line.split_whitespace().collect();
            let options = parse(&words).expect(line).options;
            assert!(!options.agent, "{line}");
        }
        assert!(parse(&["link"]).expect("link").options.agent);
    }

    /// Words that lead far into the parser.
    fn word() -> impl Strategy<Value = String> {
        const KNOWN: [&str; 42] = [
            "link",
            "l",
            "stats",
            "agent",
            "help",
            "add",
            "a",
            "set",
            "del",
            "show",
            "list",
            "dev",
            "name",
            "type",
            "ipvlan",
            "ipvtap",
            "mode",
            "l2",
            "L3",
            "l3s",
            "bridge",
            "private",
            "p",
            "vepa",
            "mtu",
            "1400",
            "-1",
            "index",
            "txqlen",
            "numtxqueues",
            "netns",
            "address",
            "02:00:00:00:00:01",
            "up",
            "eth0",
            "-j",
            "-d",
            "-n",
            "--",
            "--no-agent",
            "t",
            "link",
        ];
        prop_oneof![
            8 => prop::sample::select(&KNOWN[..]).prop_map(str::to_owned),
            1 => any::<String>(),
            1 => "-{0,2}[a-z0-9x:/.]{0,6}",
        ]
    }

    proptest! {
        #[test]
        fn any_words_are_understood_or_refused(words in prop::collection::vec(word(), 0..16)) {
            if let Err(error) = parse(&words) {
                prop_assert!([1, 2, 255].contains(&error.status()));
                prop_assert!(!error.to_string().is_empty());
            }
        }

        #[test]
        fn so_are_those_of_link_add(words in prop::collection::vec(word(), 0..12)) {
            let start = ["link", "add", "link", "eth0"].map(str::to_owned);
            let words: Vec<_> = start.into_iter().chain(words).collect();
            if let Ok(Invocation { command: Command::Link(link::Command::Add(add)), .. }) = parse(&words) {
                prop_assert_eq!(add.parent, "eth0");
                prop_assert!(add.mtu.is_none_or(|mtu| (68..=65535).contains(&mtu)));
                prop_assert!(add.index.is_none_or(|index| index > 0));
            }
        }
    }
}
