//! What the usage texts say.

use ipvlan_abi::ABI_VERSION;

use crate::args::Words;
use crate::{Command, Error};

/// A usage text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// `ipvlan help`.
    Program,
    /// `ipvlan link help`.
    Link,
    /// `ipvlan link help ipvlan`, or ipvtap.
    Kind,
    /// `ipvlan stats help`.
    Stats,
    /// `ipvlan agent help`.
    Agent,
    /// `ipvlan addr help`.
    Addr,
}

pub(crate) fn parse(words: &mut Words<'_>) -> Result<Command, Error> {
    let topic = match words.next() {
        None => Topic::Program,
        Some("link") => Topic::Link,
        Some("ipvlan" | "ipvtap") => Topic::Kind,
        Some("stats") => Topic::Stats,
        Some("agent") => Topic::Agent,
        Some("addr" | "address") => Topic::Addr,
        Some(noun) => return Err(Error::Noun(noun.to_owned())),
    };
    Ok(Command::Help(topic))
}

/// `-V`.
pub(crate) fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("ipvlan {version}, eBPF maps version {ABI_VERSION}, grammar of iproute2\n")
}

impl Topic {
    /// The text, several lines.
    pub fn text(self) -> &'static str {
        match self {
            Self::Program => PROGRAM,
            Self::Link => LINK,
            Self::Kind => KIND,
            Self::Stats => STATS,
            Self::Agent => AGENT,
            Self::Addr => ADDR,
        }
    }
}

const PROGRAM: &str = "\
ipvlan: many network namespaces behind the MAC address of one network card,
on kernels without the ipvlan driver. It takes the place of \"ip\" for these
devices; everything else (addresses, routes, up, netns) stays with \"ip\".

Usage: ipvlan [ OPTIONS ] link { add | del | set | show | help }
       ipvlan [ OPTIONS ] addr { add | del | show | help }
       ipvlan [ OPTIONS ] stats [ DEV | PARENT ]
       ipvlan agent [ --foreground ]
       ipvlan help [ link | ipvlan | ipvtap | addr | stats | agent ]

Start here, with eth0 as the parent:
    ip netns add ns0
    ipvlan link add link eth0 name ipvl0 type ipvlan mode l2
    ip link set dev ipvl0 netns ns0
    ip -n ns0 link set dev ipvl0 up
    ip -n ns0 addr add 192.168.1.50/24 dev ipvl0

OPTIONS, each of which may be cut short or written with two dashes:
    -d[etails]      everything about a device
    -s[tatistics]   counters; twice: errors and drops too
    -j[son]         JSON, with the keys of \"ip -j\"
    -p[retty]       JSON for people
    -br[ief]        a line for each device
    -o[neline]      a line for each device, with \\ for an end of line
    -n[etns] NAME   work in the namespace NAME of \"ip netns\"
    -c[olor]        taken and ignored
    --no-agent      do not start the agent (may stand anywhere)
    -V[ersion]      the version
    -h[elp]         this

Exit status: 0 done, 1 no such device, 2 refused, 255 not understood.
";

const LINK: &str = "\
Usage: ipvlan link add [ link ] PARENT [ name ] NAME
                       [ mtu BYTES ] [ txqueuelen PACKETS ] [ index NUMBER ]
                       [ numtxqueues COUNT ] [ numrxqueues COUNT ]
                       [ address MAC ] [ netns { NAME | PID } ] [ up ]
                       type TYPE [ mode { l3 | l3s | l2 } ]
                                 [ bridge | private | vepa ]
                                 [ user USER ] [ group GROUP ]
       ipvlan link del [ dev ] DEV
       ipvlan link set [ dev ] { DEV | PARENT }
                       type TYPE [ mode { l3 | l3s | l2 } ]
                                 [ bridge | private | vepa ]
                                 [ learning { on | off } ]
       ipvlan link show [ [ dev ] DEV ] [ link PARENT ] [ type TYPE ] [ up ]
       ipvlan link help [ TYPE ]

TYPE := { ipvlan | ipvtap }

add   makes a device NAME beside its PARENT, whose MAC address and MTU it gets.
      Without NAME it is ipvlan0, ipvlan1, ...; an address given is ignored.
      An ipvtap is for a virtual machine, and for USER and GROUP to open.
      The HOWTO's order works too: ipvlan link add link eth0 ipvl0 type ipvlan
del   deletes it, also from within another namespace.
set   changes mode or flag of all devices of a parent; names one of them, or it.
      Learning is the device's own. All else of it is for \"ip link set\".
show  lists the devices of this namespace, and those in others whose parent is
      here. With -d also the addresses that a device owns.

What type, mode and flag do: ipvlan link help ipvlan
";

const KIND: &str = "\
Usage: ... type ipvlan [ mode { l3 | l3s | l2 } ] [ bridge | private | vepa ]
       ... type ipvtap [ mode { l3 | l3s | l2 } ] [ bridge | private | vepa ]
                       [ learning { on | off } ] [ user USER ] [ group GROUP ]

ipvlan    for a network namespace
ipvtap    for a virtual machine, which opens it as a tap by its name and has any
          MAC address: the network sees that of the parent. What it owns is said
          by \"ipvlan addr add\", or learnt from its ARP, neighbour discovery and
          DHCP (learning; off unless said).
          USER and GROUP, names or numbers, may open it
          without being root; numtxqueues above 1 makes it multi-queue.

Mode and flag belong to the parent: all of its devices have the same.
Not said, they stay as they are; the first device of a parent gets l3 bridge.

mode l3   the parent's namespace routes for the devices; no broadcast, no ARP
mode l3s  the same, and it filters and tracks what they send and receive, as for
          any other traffic that it forwards (nftables, iptables, NAT)
mode l2   a device is on the parent's network like any host: ARP, broadcast,
          multicast, DHCP

bridge    devices of one parent talk to each other directly
private   they do not hear each other at all, broadcast and multicast included
vepa      they talk by way of the switch, which must send back what it gets

Example, two containers on the network of eth0:
    ipvlan link add link eth0 name ipvl0 type ipvlan mode l2
    ipvlan link add link eth0 name ipvl1 type ipvlan
    ip link set dev ipvl0 netns ns0
    ip link set dev ipvl1 netns ns1

And a virtual machine:
    ipvlan link add link eth0 name tap0 up type ipvtap mode l2 user qemu
    ipvlan addr add 192.168.1.60 dev tap0
    qemu-system-x86_64 ... -nic \\
        tap,ifname=tap0,script=no,downscript=no,model=virtio-net-pci
";

const ADDR: &str = "\
Usage: ipvlan addr add ADDRESS[/LENGTH] dev DEV
       ipvlan addr del ADDRESS[/LENGTH] dev DEV
       ipvlan addr show [ [ dev ] DEV ]

A device owns the addresses that it has, by \"ip addr add\" where it lives. Those
of the host, those of the next routers behind its parent, those that another
device had first, and in l3s those behind other interfaces of the host are
refused.

add   gives an address, or all of a prefix, to a device: while it is up, what is
      sent there reaches it, whether it has the address, has it on another
      interface, or routes to whoever has it. Nothing is added to the device:
      \"ip addr add\" and \"ip route add\" do that, where it lives. What
      the guest of an ipvtap has is said here: nobody else can tell.
del   takes that back.
show  lists, by device: owned (what is sent there reaches it), refused (it has
      the address, and somebody else gets what is sent there), granted (by add).

An address by hand goes before everything, also before the host's own (except in
l3s) and a next router's. A prefix goes behind: what the host, a next router or
another device has in it stays theirs, and so does a longer prefix. What was given
goes with the device.

Examples, a subnet behind a device and a service address on its \"lo\":
    ipvlan addr add 10.9.0.0/24 dev ipvl0
    ipvlan addr add 192.168.1.80 dev ipvl1
    ip -n ns1 addr add 192.168.1.80/32 dev lo
";

const STATS: &str = "\
Usage: ipvlan [ -j [ -p ] ] stats [ [ dev ] { DEV | PARENT } ]

How many frames of each device were dropped, and why; and of each parent,
those that came from the wire. Only reasons that happened.
The counters of delivered frames are those of \"ipvlan -s link show\".
";

const AGENT: &str = "\
Usage: ipvlan agent [ --foreground ]

Keeps the datapath equal to what \"ip\" changes: addresses inside the namespaces,
up and down, the parent's MAC address and MTU. \"ipvlan link add\" starts one when
none runs; it ends with the last device, and traffic never depends on it.

--foreground   log to standard error and stay without devices (for systemd).
               Otherwise it logs to the kernel's log.

IPVLAN_LOG=off|error|warn|info|debug|trace says how much; info is the default.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_fits_a_terminal() {
        let all = [
            Topic::Program,
            Topic::Link,
            Topic::Kind,
            Topic::Stats,
            Topic::Agent,
        ];
        for topic in all {
            for line in topic.text().lines() {
                assert!(line.len() <= 80, "{topic:?}: {line}");
            }
            assert!(topic.text().contains("Usage: "), "{topic:?}");
        }
    }

    #[test]
    fn a_topic_can_be_named() {
        let help = |word: &str| crate::parse(&["help", word]).map(|invocation| invocation.command);
        assert_eq!(help("link").expect("link"), Command::Help(Topic::Link));
        assert_eq!(help("ipvlan").expect("kind"), Command::Help(Topic::Kind));
        assert!(help("vlan").is_err());
    }

    #[test]
    fn every_example_is_understood() {
        for topic in [Topic::Program, Topic::Link, Topic::Kind] {
            let lines = topic.text().lines().map(str::trim_start);
            for line in lines.filter_map(|line| line.strip_prefix("ipvlan link add link ")) {
                let words: Vec<_> = "link add link "
                    .split_whitespace()
                    .chain(line.split_whitespace())
                    .collect();
                assert!(crate::parse(&words).is_ok(), "{line}");
            }
        }
    }
}
