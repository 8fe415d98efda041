//! What the grammar promises of every command line.
//!
//! Input: words, each ended by a NUL as in `/proc/PID/cmdline`.
//!
//! * It is understood or refused; a refusal has a text, and an exit status that `ip` has.
//! * What was understood, written down again in the longest and plainest way, is understood as the
//!   same.

use ipvlan_cli::{Command, Invocation, Options, Topic, addr, link, parse};
use ipvlan_control::Kind;

/// Reads a command line.
///
/// # Panics
///
/// Where a promise is broken.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // The last one needs no end.
    let words: Vec<&str> = text.split_terminator('\0').collect();
    let invocation = match parse(&words) {
        Ok(invocation) => invocation,
        Err(error) => {
            assert!([1, 2, 255].contains(&error.status()), "{error:?}");
            let text = error.to_string();
            assert!(!text.trim().is_empty(), "no words for {error:?}");
            return;
        }
    };
    let plain = plain(&invocation);
    match parse(&plain) {
        Ok(again) => assert_eq!(again, invocation, "written down as {plain:?}"),
        Err(error) => panic!("{invocation:?} written down as {plain:?}: {error}"),
    }
}

/// The words of the plainest command line that says the same.
fn plain(invocation: &Invocation) -> Vec<String> {
    let mut words = options(&invocation.options);
    match &invocation.command {
        Command::Nothing => {}
        Command::Help(topic) => {
            words.push("help".into());
            words.extend(
                match topic {
                    Topic::Program => None,
                    Topic::Link => Some("link"),
                    Topic::Kind => Some("ipvlan"),
                    Topic::Stats => Some("stats"),
                    Topic::Agent => Some("agent"),
                    Topic::Addr => Some("address"),
                }
                .map(str::to_owned),
            );
        }
        Command::Version => words.push("-Version".into()),
        Command::Link(command) => {
            words.push("link".into());
            link(&mut words, command);
        }
        Command::Stats(stats) => {
            words.push("stats".into());
            pair(&mut words, "dev", stats.name.as_deref());
        }
        Command::Agent(agent) => {
            words.push("agent".into());
            words.extend(agent.foreground.then(|| "--foreground".to_owned()));
        }
        Command::Addr(command) => {
            words.push("address".into());
            let (verb, name, prefix) = match command {
                addr::Command::Add(grant) => ("add", Some(&grant.name), Some(grant.prefix)),
                addr::Command::Del(grant) => ("delete", Some(&grant.name), Some(grant.prefix)),
                addr::Command::Show(show) => ("show", show.name.as_ref(), None),
            };
            words.push(verb.into());
            pair(&mut words, "local", prefix);
            pair(&mut words, "dev", name);
        }
    }
    words
}

fn options(options: &Options) -> Vec<String> {
    let Options {
        details,
        statistics,
        json,
        pretty,
        brief,
        oneline,
        netns,
        agent,
    } = options;
    let mut words = vec!["-statistics".to_owned(); usize::from(*statistics)];
    for (said, word) in [
        (*details, "-details"),
        (*json, "-json"),
        (*pretty, "-pretty"),
        (*brief, "-brief"),
        (*oneline, "-oneline"),
        (!*agent, "--no-agent"),
    ] {
        words.extend(said.then(|| word.to_owned()));
    }
    pair(&mut words, "-netns", netns.as_ref());
    words
}

fn link(words: &mut Vec<String>, command: &link::Command) {
    match command {
        link::Command::Add(add) => {
            words.push("add".into());
            pair(words, "link", Some(&add.parent));
            pair(words, "name", add.name.as_ref());
            pair(words, "mtu", add.mtu);
            pair(words, "index", add.index);
            // The kernel's 32 bits without a sign are an int on the command line.
            pair(words, "txqueuelen", add.txqlen.map(u32::cast_signed));
            pair(words, "numtxqueues", add.num_tx_queues);
            pair(words, "numrxqueues", add.num_rx_queues);
            pair(words, "netns", add.netns.as_ref());
            words.extend(add.up.then(|| "up".to_owned()));
            kind(words, &add.kind);
            let bounds = (68..=65535, 1..=4096);
            assert!(add.mtu.is_none_or(|mtu| bounds.0.contains(&mtu)));
            assert!(add.index.is_none_or(|index| index.cast_signed() > 0));
            for queues in [add.num_tx_queues, add.num_rx_queues] {
                assert!(queues.is_none_or(|queues| bounds.1.contains(&queues)));
            }
        }
        link::Command::Set(set) => {
            words.push("set".into());
            pair(words, "dev", Some(&set.name));
            kind(words, &set.kind);
        }
        link::Command::Del(del) => {
            words.push("delete".into());
            pair(words, "dev", Some(&del.name));
        }
        link::Command::Show(show) => {
            words.push("show".into());
            pair(words, "dev", show.name.as_ref());
            pair(words, "link", show.parent.as_ref());
            words.extend(show.up.then(|| "up".to_owned()));
            pair(words, "type", show.kind.map(Kind::as_str));
        }
    }
}

fn kind(words: &mut Vec<String>, kind: &link::Kind) {
    pair(words, "type", Some(kind.kind.as_str()));
    pair(words, "mode", kind.mode);
    words.extend(kind.flag.map(|flag| flag.to_string()));
    pair(words, "user", kind.user.as_ref());
    pair(words, "group", kind.group.as_ref());
}

/// A keyword and its value.
fn pair(words: &mut Vec<String>, keyword: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        words.extend([keyword.to_owned(), value.to_string()]);
    }
}
