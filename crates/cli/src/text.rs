//! A device as text and as JSON, both from its [`View`]. The layout is that of iproute2 6.1.

use ipnet::IpNet;
use ipvlan_abi::DropReason;
use ipvlan_control::{Place, words};
use ipvlan_netlink::LinkStats;

use crate::Options;
use crate::json::Value;
use crate::view::{Parent, View, mac};

/// Without `-j`.
pub(crate) fn text(view: &View<'_>, options: &Options) -> String {
    if options.brief {
        return brief(view);
    }
    let link = &view.shown.link;
    let mut lines = vec![head(view), addresses(view, options.details)];
    if options.details {
        lines.push(details(view));
    }
    if let Some(alias) = &link.alias {
        lines.push(format!("    alias {alias}"));
    }
    if let Some(stats) = link.stats.filter(|_| options.statistics > 0) {
        lines.extend(table(&stats, link.carrier_changes, options.statistics > 1));
    }
    lines.extend(
        link.alt_names
            .iter()
            .map(|name| format!("    altname {name}")),
    );
    lines.extend(ours(view, options));
    lines.join(if options.oneline { "\\" } else { "\n" }) + "\n"
}

pub(crate) fn at_parent(view: &View<'_>) -> String {
    let name = &view.shown.link.name;
    match view.parent {
        Parent::Name(parent) => format!("{name}@{parent}"),
        Parent::Index(index) => format!("{name}@if{index}"),
    }
}

fn brief(view: &View<'_>) -> String {
    let name = at_parent(view);
    let mac = view.shown.link.mac.map(mac).unwrap_or_default();
    let flags = view.flags.join(",");
    let netns = netns(&view.shown.place).map(|place| format!("{place} "));
    let netns = netns.unwrap_or_default();
    format!("{name:<16} {:<14} {mac} <{flags}> {netns}\n", view.state)
}

fn head(view: &View<'_>) -> String {
    let link = &view.shown.link;
    let mut line = format!(
        "{}: {}: <{}> mtu {} ",
        link.index,
        at_parent(view),
        view.flags.join(","),
        link.mtu
    );
    if let Some(qdisc) = &link.qdisc {
        line += &format!("qdisc {qdisc} ");
    }
    if let Some(master) = &view.master {
        line += &format!("master {master} ");
    }
    line += &format!(
        "state {} mode {} group {} ",
        view.state, view.link_mode, view.group
    );
    if link.txqlen > 0 {
        line += &format!("qlen {}", link.txqlen);
    }
    line
}

fn addresses(view: &View<'_>, details: bool) -> String {
    let link = &view.shown.link;
    let mut line = "    link/ether".to_owned();
    if let Some(address) = link.mac {
        line += &format!(" {}", mac(address));
    }
    if let Some(address) = link.broadcast {
        line += &format!(" brd {}", mac(address));
    }
    if let Some(address) = view.permanent_mac.filter(|_| details) {
        line += &format!(" permaddr {}", mac(address));
    }
    if let Some(place) = &view.parent_netns {
        match (place.name, place.id) {
            (Some(name), _) => line += &format!(" link-netns {name}"),
            (None, Some(id)) => line += &format!(" link-netnsid {id}"),
            (None, None) => {}
        }
    }
    if let Some(place) = netns(&view.shown.place) {
        line += &format!(" {place}");
    }
    if details {
        if let Some(count) = link.promiscuity {
            line += &format!(" promiscuity {count} ");
        }
        if let Some(count) = link.allmulti {
            line += &format!(" allmulti {count} ");
        }
        if let Some(mtu) = link.min_mtu {
            line += &format!("minmtu {mtu} ");
        }
        if let Some(mtu) = link.max_mtu {
            line += &format!("maxmtu {mtu} ");
        }
    }
    line
}

pub(crate) fn netns(place: &Place) -> Option<String> {
    match place {
        Place::Here => None,
        Place::Named(name) => Some(format!("netns {name}")),
        Place::Unnamed(id) => Some(format!("netns-id {id}")),
    }
}

fn details(view: &View<'_>) -> String {
    let shown = view.shown;
    let kind = shown.kind.as_str();
    let mut line = format!("    {kind}  mode {} {} ", shown.mode, shown.flag);
    if let Some(mode) = shown.link.addr_gen_mode {
        line += &format!("addrgenmode {} ", mode.as_str());
    }
    for (_, key, value) in sizes(view) {
        line += &format!("{key} {value} ");
    }
    if let Some(bus) = &shown.link.parent_bus {
        line += &format!("parentbus {bus} ");
    }
    if let Some(dev) = &shown.link.parent_dev {
        line += &format!("parentdev {dev} ");
    }
    line
}

/// Those that the kernel told: JSON key, word, value.
fn sizes(view: &View<'_>) -> impl Iterator<Item = (&'static str, &'static str, u32)> {
    let link = &view.shown.link;
    [
        ("num_tx_queues", "numtxqueues", link.num_tx_queues),
        ("num_rx_queues", "numrxqueues", link.num_rx_queues),
        ("gso_max_size", "gso_max_size", link.gso_max_size),
        ("gso_max_segs", "gso_max_segs", link.gso_max_segs),
        ("tso_max_size", "tso_max_size", link.tso_max_size),
        ("tso_max_segs", "tso_max_segs", link.tso_max_segs),
        ("gro_max_size", "gro_max_size", link.gro_max_size),
    ]
    .into_iter()
    .filter_map(|(key, word, value)| Some((key, word, value?)))
}

/// What the driver has no words for.
fn ours(view: &View<'_>, options: &Options) -> Vec<String> {
    let mut lines = Vec::new();
    if options.details {
        let shown = view.shown;
        lines.extend(behind_tap(view));
        for (word, addresses) in [
            ("owns", prefixes(&shown.owned)),
            (
                "refused",
                shown.refused.iter().map(ToString::to_string).collect(),
            ),
            ("granted", prefixes(&shown.granted)),
        ] {
            if !addresses.is_empty() {
                lines.push(format!("    {word} {}", addresses.join(" ")));
            }
        }
        if let Some(identity) = view.shown.dhcp_identity {
            lines.push(format!("    dhcp-identity {}", mac(identity)));
        }
    }
    if with_drops(options) && !view.shown.drops.is_empty() {
        let drops = view.shown.drops.iter();
        let drops: Vec<_> = drops
            .map(|(reason, count)| format!("{} {count}", reason.as_str()))
            .collect();
        lines.push(format!("    drops {}", drops.join(" ")));
    }
    lines
}

fn prefixes(all: &[IpNet]) -> Vec<String> {
    all.iter().map(|prefix| words(*prefix)).collect()
}

fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// Who is behind an ipvtap, and who may open it.
fn behind_tap(view: &View<'_>) -> Option<String> {
    let tap = view.shown.link.tap?;
    let words = [
        ("learning", Some(on_off(view.shown.learning))),
        ("guest", view.shown.guest.map(mac)),
        ("user", tap.owner.map(|number| number.to_string())),
        ("group", tap.group.map(|number| number.to_string())),
    ];
    let words = words.into_iter();
    let words = words.filter_map(|(word, value)| Some(format!(" {word} {}", value?)));
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| format!("   {}", words.concat()))
}

fn with_drops(options: &Options) -> bool {
    options.statistics > 1 || options.statistics > 0 && options.details
}

/// Widths of the columns, and a rule to widen them.
struct Columns([usize; 7]);

impl Columns {
    /// As wide as the headings, the first as "RX errors:".
    const NARROW: Self = Self([10, 7, 6, 7, 7, 7, 10]);
    /// Of a column that is there only where it has something to say.
    const RARE: usize = 9;

    fn fit(&mut self, row: [u64; 7]) {
        for (width, number) in self.0.iter_mut().zip(row) {
            *width = (*width).max(number.to_string().len());
        }
    }

    /// "    RX: " and headings; `label` is inside of the first column.
    fn heading(&self, label: &str, names: [&str; 7]) -> String {
        let mut line = format!("    {label}");
        for (place, (width, name)) in self.0.iter().zip(names).enumerate() {
            let width = width - if place == 0 { label.len() } else { 0 };
            let space = if place == 0 { "" } else { " " };
            line += &format!("{space}{name:>width$}");
        }
        line
    }

    /// Numbers; the last one is left out where it is 0.
    fn row(&self, numbers: [u64; 7]) -> String {
        let mut line = "    ".to_owned();
        for (place, (width, number)) in self.0.iter().zip(numbers).enumerate() {
            if place < 6 || number > 0 {
                line += &format!("{number:>width$} ");
            }
        }
        line
    }

    /// A table of two lines for errors: five columns, and those that are rare.
    fn errors(&self, label: &str, columns: &[(&str, u64)], rare: &[(&str, u64)]) -> [String; 2] {
        let first = self.0[0];
        let mut names = format!("    {label:<first$}");
        let mut numbers = format!("    {:first$} ", "");
        for ((name, number), width) in columns.iter().zip(&self.0[1..]) {
            names += &format!(" {name:>width$}");
            numbers += &format!("{number:>width$} ");
        }
        for (name, number) in rare.iter().filter(|(_, number)| *number > 0) {
            let width = Self::RARE;
            names += &format!(" {name:>width$}");
            numbers += &format!("{number:>width$} ");
        }
        [names, numbers]
    }
}

fn table(stats: &LinkStats, carrier_changes: Option<u32>, errors: bool) -> Vec<String> {
    let rx = [
        stats.rx_bytes,
        stats.rx_packets,
        stats.rx_errors,
        stats.rx_dropped,
        stats.rx_missed_errors,
        stats.multicast,
        stats.rx_compressed,
    ];
    let tx = [
        stats.tx_bytes,
        stats.tx_packets,
        stats.tx_errors,
        stats.tx_dropped,
        stats.tx_carrier_errors,
        stats.collisions,
        stats.tx_compressed,
    ];
    let rx_errors = [
        ("length", stats.rx_length_errors),
        ("crc", stats.rx_crc_errors),
        ("frame", stats.rx_frame_errors),
        ("fifo", stats.rx_fifo_errors),
        ("overrun", stats.rx_over_errors),
    ];
    let rare = [
        ("nohandler", stats.rx_nohandler),
        ("otherhost", stats.rx_otherhost_dropped),
    ];
    let mut tx_errors = vec![
        ("aborted", stats.tx_aborted_errors),
        ("fifo", stats.tx_fifo_errors),
        ("window", stats.tx_window_errors),
        ("heartbt", stats.tx_heartbeat_errors),
    ];
    tx_errors.extend(carrier_changes.map(|count| ("transns", u64::from(count))));

    let mut columns = Columns::NARROW;
    columns.fit(rx);
    columns.fit(tx);
    if errors {
        for row in [&rx_errors[..], &tx_errors] {
            let mut numbers = [0; 7];
            for (place, (_, number)) in numbers[1..].iter_mut().zip(row) {
                *place = *number;
            }
            columns.fit(numbers);
        }
    }

    let compressed = |count| if count > 0 { "compressed" } else { "" };
    let common = ["bytes", "packets", "errors", "dropped"];
    let names = |fifth, sixth, last| {
        let [a, b, c, d] = common;
        [a, b, c, d, fifth, sixth, last]
    };
    let rx_names = names("missed", "mcast", compressed(stats.rx_compressed));
    let tx_names = names("carrier", "collsns", compressed(stats.tx_compressed));
    let mut lines = vec![columns.heading("RX:", rx_names), columns.row(rx)];
    if errors {
        lines.extend(columns.errors("RX errors:", &rx_errors, &rare));
    }
    lines.extend([columns.heading("TX:", tx_names), columns.row(tx)]);
    if errors {
        lines.extend(columns.errors("TX errors:", &tx_errors, &[]));
    }
    lines
}

/// With `-j`.
pub(crate) fn json(view: &View<'_>, options: &Options) -> Value {
    let link = &view.shown.link;
    let mut object = vec![];
    if !options.brief {
        object.push(("ifindex", Value::number(link.index)));
    }
    object.push(parent_json(view));
    object.push(("ifname", Value::text(&*link.name)));
    if options.brief {
        object.push(("operstate", Value::text(&*view.state)));
        object.extend(
            link.mac
                .map(|address| ("address", Value::text(mac(address)))),
        );
        object.push(("flags", Value::texts(&view.flags)));
        object.extend(netns_json(&view.shown.place));
        return Value::Object(object);
    }
    object.push(("flags", Value::texts(&view.flags)));
    object.push(("mtu", Value::number(link.mtu)));
    object.extend(
        link.qdisc
            .as_deref()
            .map(|name| ("qdisc", Value::text(name))),
    );
    object.extend(
        view.master
            .as_deref()
            .map(|name| ("master", Value::text(name))),
    );
    object.push(("operstate", Value::text(&*view.state)));
    object.push(("linkmode", Value::text(&*view.link_mode)));
    object.push(("group", Value::text(&*view.group)));
    if link.txqlen > 0 {
        object.push(("txqlen", Value::number(link.txqlen)));
    }
    object.push(("link_type", Value::text("ether")));
    object.extend(
        link.mac
            .map(|address| ("address", Value::text(mac(address)))),
    );
    let broadcast = link.broadcast.map(mac);
    object.extend(broadcast.map(|address| ("broadcast", Value::text(address))));
    let permanent = view.permanent_mac.filter(|_| options.details).map(mac);
    object.extend(permanent.map(|address| ("permaddr", Value::text(address))));
    let id = view.parent_netns.as_ref().and_then(|place| place.id);
    object.extend(id.map(|id| ("link_netnsid", Value::number(id))));
    object.extend(netns_json(&view.shown.place));
    if options.details {
        details_json(view, &mut object);
    }
    object.extend(
        link.alias
            .as_deref()
            .map(|alias| ("ifalias", Value::text(alias))),
    );
    if let Some(stats) = link.stats.filter(|_| options.statistics > 0) {
        let stats = stats_json(&stats, link.carrier_changes, options.statistics > 1);
        object.push(("stats64", stats));
    }
    if !link.alt_names.is_empty() {
        object.push(("altnames", Value::texts(&link.alt_names)));
    }
    if options.details || with_drops(options) {
        object.push(("ipvlan", ours_json(view)));
    }
    Value::Object(object)
}

pub(crate) fn parent_json(view: &View<'_>) -> (&'static str, Value) {
    match view.parent {
        Parent::Name(name) => ("link", Value::text(name)),
        Parent::Index(index) => ("link_index", Value::number(index)),
    }
}

pub(crate) fn netns_json(place: &Place) -> Option<(&'static str, Value)> {
    match place {
        Place::Here => None,
        Place::Named(name) => Some(("netns", Value::text(&**name))),
        Place::Unnamed(id) => Some(("netns_id", Value::number(*id))),
    }
}

pub(crate) fn drops_json(drops: &[(DropReason, u64)]) -> Value {
    let drops = drops.iter();
    Value::Object(
        drops
            .map(|(reason, count)| (reason.as_str(), Value::number(*count)))
            .collect(),
    )
}

fn details_json(view: &View<'_>, object: &mut Vec<(&'static str, Value)>) {
    let link = &view.shown.link;
    for (key, value) in [
        ("promiscuity", link.promiscuity),
        ("allmulti", link.allmulti),
        ("min_mtu", link.min_mtu),
        ("max_mtu", link.max_mtu),
    ] {
        object.extend(value.map(|value| (key, Value::number(value))));
    }
    let data = vec![
        ("mode", Value::text(view.shown.mode.as_str())),
        (view.shown.flag.as_str(), Value::Bool(true)),
    ];
    let info = vec![
        ("info_kind", Value::text(view.shown.kind.as_str())),
        ("info_data", Value::Object(data)),
    ];
    object.push(("linkinfo", Value::Object(info)));
    let mode = link.addr_gen_mode.map(|mode| Value::text(mode.as_str()));
    object.extend(mode.map(|mode| ("inet6_addr_gen_mode", mode)));
    object.extend(sizes(view).map(|(key, _, value)| (key, Value::number(value))));
    let bus = link.parent_bus.as_deref();
    object.extend(bus.map(|bus| ("parentbus", Value::text(bus))));
    let dev = link.parent_dev.as_deref();
    object.extend(dev.map(|dev| ("parentdev", Value::text(dev))));
}

fn stats_json(stats: &LinkStats, carrier_changes: Option<u32>, errors: bool) -> Value {
    let mut rx = vec![
        ("bytes", stats.rx_bytes),
        ("packets", stats.rx_packets),
        ("errors", stats.rx_errors),
        ("dropped", stats.rx_dropped),
        ("over_errors", stats.rx_over_errors),
        ("multicast", stats.multicast),
    ];
    let mut tx = vec![
        ("bytes", stats.tx_bytes),
        ("packets", stats.tx_packets),
        ("errors", stats.tx_errors),
        ("dropped", stats.tx_dropped),
        ("carrier_errors", stats.tx_carrier_errors),
        ("collisions", stats.collisions),
    ];
    let rare = |key, count| Some((key, count)).filter(|_| count > 0);
    rx.extend(rare("compressed", stats.rx_compressed));
    tx.extend(rare("compressed", stats.tx_compressed));
    if errors {
        rx.extend([
            ("length_errors", stats.rx_length_errors),
            ("crc_errors", stats.rx_crc_errors),
            ("frame_errors", stats.rx_frame_errors),
            ("fifo_errors", stats.rx_fifo_errors),
            ("missed_errors", stats.rx_missed_errors),
        ]);
        rx.extend(rare("nohandler", stats.rx_nohandler));
        rx.extend(rare("otherhost", stats.rx_otherhost_dropped));
        tx.extend([
            ("aborted_errors", stats.tx_aborted_errors),
            ("fifo_errors", stats.tx_fifo_errors),
            ("window_errors", stats.tx_window_errors),
            ("heartbeat_errors", stats.tx_heartbeat_errors),
        ]);
        tx.extend(carrier_changes.map(|count| ("carrier_changes", u64::from(count))));
    }
    let object = |counts: Vec<(&'static str, u64)>| {
        let counts = counts.into_iter();
        Value::Object(counts.map(|(key, n)| (key, Value::number(n))).collect())
    };
    Value::Object(vec![("rx", object(rx)), ("tx", object(tx))])
}

fn ours_json(view: &View<'_>) -> Value {
    let shown = view.shown;
    let mut fields = vec![("slot", Value::number(shown.slot))];
    if let Some(tap) = shown.link.tap {
        fields.push(("learning", Value::Bool(shown.learning)));
        let guest = shown.guest.map(mac).map(Value::text);
        let numbers = [("user", tap.owner), ("group", tap.group)];
        let numbers = numbers.map(|(key, number)| Some((key, Value::number(number?))));
        fields.extend(guest.map(|guest| ("guest", guest)));
        fields.extend(numbers.into_iter().flatten());
    }
    fields.extend([
        ("owns", Value::texts(prefixes(&shown.owned))),
        ("refused", Value::texts(&shown.refused)),
        ("granted", Value::texts(prefixes(&shown.granted))),
    ]);
    if let Some(identity) = shown.dhcp_identity {
        fields.push(("dhcp_identity", Value::text(mac(identity))));
    }
    fields.push(("drops", drops_json(&shown.drops)));
    Value::Object(fields)
}

#[cfg(test)]
#[path = "text_tests.rs"]
pub(crate) mod tests;
