//! `ipvlan stats [ [ dev ] { DEV | PARENT } ]`: the frames that died, and of what. What came from the
//! wire is the parent's, the rest is of the device that sent it.

use ipvlan_abi::DropReason;
use ipvlan_control::{Place, Shown, ShownPort};
use ipvlan_netlink::{Link, Netlink};

use crate::args::{Words, is_help};
use crate::json::Value;
use crate::link::{has_name, not_ours};
use crate::view::View;
use crate::{Command, Error, Options, Topic, out, text};

/// Show what was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Of this device or parent only.
    pub name: Option<String>,
}

pub(crate) fn parse(words: &mut Words<'_>) -> Result<Command, Error> {
    let mut target = crate::link::Target::default();
    while let Some(word) = words.next() {
        if is_help(word) {
            return Ok(Command::Help(Topic::Stats));
        }
        target.take(word, words)?;
    }
    let name = target.0.map(str::to_owned);
    Ok(Command::Stats(Stats { name }))
}

impl Stats {
    pub(crate) fn run(&self, options: &Options) -> Result<(), Error> {
        let shown = ipvlan_control::show()?;
        let mut netlink = Netlink::open().map_err(ipvlan_control::Error::from)?;
        let fits = |shown: &&Shown| {
            let name = self.name.as_ref();
            name.is_none_or(|name| has_name(&shown.link, name))
        };
        let shown: Vec<_> = shown.iter().filter(fits).collect();
        let mut ports = ipvlan_control::show_ports()?;
        ports.retain(|port| {
            let name = self.name.as_ref();
            name.is_none_or(|name| has_name(&port.parent, name))
        });
        let nothing = shown.is_empty() && ports.is_empty();
        if let Some(name) = self.name.as_ref().filter(|_| nothing) {
            let link = netlink.link_by_name(name);
            not_ours(
                name,
                link.map_err(ipvlan_control::Error::from)?.as_ref(),
                false,
            )?;
        }
        let mut here = |index| netlink.link(index, None).ok().flatten();
        out::print(&render(&shown, &ports, options, &mut here))
    }
}

fn render(
    shown: &[&Shown],
    ports: &[ShownPort],
    options: &Options,
    here: &mut dyn FnMut(u32) -> Option<Link>,
) -> String {
    let views = shown.iter().map(|shown| View::new(shown, here));
    if options.json {
        let devices = views.map(|view| json(&view));
        Value::List(devices.chain(ports.iter().map(port_json)).collect()).print(options.pretty)
    } else {
        let devices = views.map(|view| lines(&view, options));
        let ports = ports.iter().map(|port| port_lines(port, options));
        devices.chain(ports).collect()
    }
}

fn port_json(port: &ShownPort) -> Value {
    Value::Object(vec![
        ("ifindex", Value::number(port.parent.index)),
        ("ifname", Value::text(&*port.parent.name)),
        ("drops", text::drops_json(&port.drops)),
    ])
}

fn port_lines(port: &ShownPort, options: &Options) -> String {
    let ShownPort {
        parent, mode, flag, ..
    } = port;
    let head = format!("{}: {}: parent {mode} {flag}", parent.index, parent.name);
    drop_lines(head, &port.drops, options)
}

fn json(view: &View<'_>) -> Value {
    let mut object = vec![
        ("ifindex", Value::number(view.shown.link.index)),
        text::parent_json(view),
        ("ifname", Value::text(&*view.shown.link.name)),
    ];
    object.extend(text::netns_json(&view.shown.place));
    object.push(("drops", text::drops_json(&view.shown.drops)));
    Value::Object(object)
}

fn lines(view: &View<'_>, options: &Options) -> String {
    let shown = view.shown;
    let place = match &shown.place {
        Place::Here => String::new(),
        place => text::netns(place).map_or_else(String::new, |place| format!(" {place}")),
    };
    let head = format!(
        "{}: {}: {} {}{place}",
        shown.link.index,
        text::at_parent(view),
        shown.mode,
        shown.flag
    );
    drop_lines(head, &shown.drops, options)
}

fn drop_lines(head: String, drops: &[(DropReason, u64)], options: &Options) -> String {
    let mut lines = vec![head];
    lines.extend(drops.iter().map(|(reason, count)| {
        let word = reason.as_str();
        format!("    {word:<16} {count:>10}  {}", meaning(*reason))
    }));
    if drops.is_empty() {
        lines.push("    nothing was dropped".to_owned());
    }
    lines.join(if options.oneline { "\\" } else { "\n" }) + "\n"
}

/// What a user can make of it.
fn meaning(reason: DropReason) -> &'static str {
    match reason {
        DropReason::None => "not dropped",
        DropReason::Runt => "shorter than an Ethernet header",
        DropReason::Vlan => "sent with a VLAN tag; devices are untagged",
        DropReason::LinkLocalGroup => "sent to an address of bridges (STP, LACP, LLDP, PAUSE)",
        DropReason::ArpMalformed => "sent ARP that is not Ethernet and IPv4, or is cut short",
        DropReason::Rarp => "sent RARP",
        DropReason::NdMalformed => "sent a neighbour discovery message that cannot be checked",
        DropReason::ExtensionHeaders => "sent more IPv6 extension headers than are read",
        DropReason::Private => "from or to a sibling, and the port is private",
        DropReason::NotIp => "sent ARP, ND or something else than IP in mode l3",
        DropReason::Group => "sent broadcast or multicast in mode l3",
        DropReason::TooBig => "longer than the parent's MTU",
        DropReason::IpMalformed => "sent an IP header that is cut short or contradicts itself",
        DropReason::NoPort => "sent while the device was being made or deleted",
        DropReason::Copy => "no memory or queue for a copy of a broadcast",
        DropReason::Rewrite => "no memory to rewrite a MAC address",
        DropReason::Llc => "sent an IEEE 802.3 frame (LLC, SNAP)",
        DropReason::ChecksumPending => "sent ARP or ND with a checksum still to be written",
        DropReason::NotRouted => "sent in mode l3s while the parent was away",
        DropReason::Flood => "broadcast beyond its rate, not copied to devices; not lost otherwise",
        DropReason::Dhcp => "DHCP in a form that could hide whose it is",
        DropReason::DhcpServer => "a DHCP server's message to another device",
        DropReason::HostStack => "multicast or broadcast of the host's own stack to a guest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tests::shown;

    #[test]
    fn it_takes_a_device() {
        let parse = |words: &[&str]| crate::parse(words).map(|invocation| invocation.command);
        let stats = |name: Option<&str>| {
            Command::Stats(Stats {
                name: name.map(str::to_owned),
            })
        };
        assert_eq!(parse(&["stats"]).expect("all"), stats(None));
        assert_eq!(parse(&["s", "v"]).expect("one"), stats(Some("v")));
        assert_eq!(parse(&["st", "dev", "v"]).expect("one"), stats(Some("v")));
        let help = Command::Help(Topic::Stats);
        assert_eq!(parse(&["stats", "help"]).expect("help"), help);
        let error = parse(&["stats", "v", "w"]).expect_err("one only");
        assert!(matches!(error, Error::Garbage(word) if word == "w"));
    }

    #[test]
    fn drops_by_reason() {
        let mut elsewhere = shown();
        elsewhere.place = Place::Named("ns0".to_owned());
        elsewhere.drops = vec![(DropReason::Private, 12), (DropReason::TooBig, 3)];
        let here = shown();
        let both = [&here, &elsewhere];
        let mut parent = Link::default();
        (parent.index, parent.name) = (2, "eth0".to_owned());
        let ports = [ShownPort {
            parent,
            mode: ipvlan_abi::Mode::L2,
            flag: ipvlan_abi::Flag::Bridge,
            drops: vec![(DropReason::Flood, 7)],
        }];
        let print = |options: &Options| render(&both, &ports, options, &mut |_| None);
        let mut options = Options::default();
        assert_eq!(
            print(&options),
            "\
5: ipvl0@eth0: l2 bridge
    nothing was dropped
5: ipvl0@eth0: l2 bridge netns ns0
    private                  12  from or to a sibling, and the port is private
    too_big                   3  longer than the parent's MTU
2: eth0: parent l2 bridge
    flood                     7  broadcast beyond its rate, not copied to devices; not lost otherwise
"
        );
        options.json = true;
        assert_eq!(
            print(&options),
            "[{\"ifindex\":5,\"link\":\"eth0\",\"ifname\":\"ipvl0\",\"drops\":{}},\
             {\"ifindex\":5,\"link\":\"eth0\",\"ifname\":\"ipvl0\",\"netns\":\"ns0\",\
             \"drops\":{\"private\":12,\"too_big\":3}},\
             {\"ifindex\":2,\"ifname\":\"eth0\",\"drops\":{\"flood\":7}}]\n"
        );
    }
}
