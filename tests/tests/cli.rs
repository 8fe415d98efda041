//! The command line, held against `ip` itself: what `ip` answers for macvlan, which this kernel
//! has, is what `ipvlan` has to answer.

#![expect(
    clippy::expect_used,
    reason = "clippy knows a test by its attribute, not the functions beside it"
)]

use ipvlan_tests::{Done, Mode, Net, PATIENCE, eventually};

/// Neither a link nor state nor an agent: as if nothing had been called.
#[track_caller]
fn assert_untouched(net: &Net, line: &str) {
    let mut links = net.host.links();
    links.sort();
    assert_eq!(links, ["eth0", "lo"], "`{line}` leaves no link");
    let gone = eventually(PATIENCE, || {
        !net.state().exists() && net.agents().is_empty()
    });
    assert!(
        gone,
        "`{line}` leaves no state and no agent: {:?}",
        net.agents()
    );
}

fn one_line(done: &Done) -> bool {
    !done.stderr.is_empty()
        && done.stderr.ends_with('\n')
        && done.stderr.trim_end().lines().count() == 1
}

#[test]
fn every_order_and_spelling_of_ip_makes_a_device() {
    let net = Net::new(Mode::L2).build();
    let target = net.namespace("target");
    let place = target.name();
    for line in [
        "link add link eth0 name v0 type ipvlan mode l2",
        "link add link eth0 v0 type ipvlan mode l2",
        "link add link eth0 v0 type ipvlan mode L3",
        "link add link eth0 dev v0 type ipvlan",
        "link add v0 link eth0 type ipvlan mode l2 bridge",
        "link add name v0 link eth0 type ipvlan mode l2 private",
        "link add dev v0 link eth0 type ipvlan vepa",
        "link add name v0 up link eth0 type ipvlan mode l2",
        "link add up link eth0 name v0 type ipvlan mode l2",
        "link add link eth0 mtu 1400 name v0 type ipvlan mode l2",
        "link add link eth0 name v0 mtu 1400 txqueuelen 100 type ipvlan mode l2",
        "link add link eth0 name v0 address 02:00:00:00:00:01 type ipvlan mode l2",
        "link a link eth0 name v0 type ipvlan mode l2",
        "l a l eth0 name v0 ty ipvlan m l2 b",
        "li ad lin eth0 name v0 typ ipvlan mod l2 bri",
        "link add eth0 v0 type ipvlan mode l2",
        "link new link eth0 name v0 type ipvlan mode l2",
    ] {
        let done = net.ipvlan(line);
        if line.starts_with("link new") && !done.ok() {
            // Not a verb of iproute2's.
            continue;
        }
        done.expect_quiet();
        let link = net.host.link("v0");
        assert_eq!(
            link.mac,
            Some(net.mac()),
            "`{line}`: the parent's MAC address"
        );
        assert_eq!(
            link.is_up(),
            line.contains(" up "),
            "`{line}`: up only if asked"
        );
        assert_eq!(
            link.mtu,
            if line.contains("1400") { 1400 } else { 1500 },
            "`{line}`: MTU"
        );
        net.ipvlan("link del v0").expect_quiet();
        assert_untouched(&net, line);
    }
    for line in [
        format!("link add link eth0 netns {place} name v0 type ipvlan mode l2"),
        format!("link add link eth0 name v0 netns {place} up type ipvlan mode l2"),
    ] {
        net.ipvlan(&line).expect_quiet();
        assert_eq!(target.link("v0").is_up(), line.contains(" up "), "`{line}`");
        assert!(net.host.find_link("v0").is_none(), "`{line}`: not here");
        net.ipvlan(&format!("-n {place} link del v0"))
            .expect_quiet();
        net.assert_clean();
    }
    let sleeper = target.spawn("sleep 600");
    net.ipvlan(&format!(
        "link add link eth0 name v0 netns {} type ipvlan mode l2",
        sleeper.pid()
    ))
    .expect_quiet();
    assert!(target.find_link("v0").is_some(), "netns PID");
    target.sh("ip link del v0");
    net.assert_clean();
    // Without a name, as the driver.
    net.ipvlan("link add link eth0 type ipvlan").expect_quiet();
    net.ipvlan("link add link eth0 type ipvlan").expect_quiet();
    assert!(net.host.find_link("ipvlan0").is_some() && net.host.find_link("ipvlan1").is_some());
    for verb in ["del", "delete"] {
        net.ipvlan(&format!(
            "link {verb} dev ipvlan{}",
            usize::from(verb == "del")
        ))
        .expect_quiet();
    }
    assert_untouched(&net, "link delete");
}

#[test]
fn the_default_mode_is_the_driver_s() {
    let net = Net::new(Mode::L2).build();
    let mode = |name: &str| {
        let text = net.ipvlan(&format!("-j -d link show {name}")).expect();
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json[0]["linkinfo"]["info_data"]["mode"]
            .as_str()
            .unwrap_or("?")
            .to_owned()
    };
    net.ipvlan("link add link eth0 name a type ipvlan")
        .expect_quiet();
    assert_eq!(mode("a"), "l3", "row C01");
    net.ipvlan("link add link eth0 name b type ipvlan mode l2")
        .expect_quiet();
    assert_eq!(
        [mode("a"), mode("b")],
        ["l2", "l2"],
        "mode belongs to the port"
    );
    // A device of ours as parent stands for its own parent: row C13.
    net.ipvlan("link add link a name c type ipvlan mode l2")
        .expect_quiet();
    let text = net.ipvlan("-j link show c").expect();
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json[0]["link"], "eth0", "{json}");
    for name in ["a", "b", "c"] {
        net.ipvlan(&format!("link del {name}")).expect_quiet();
    }
    assert_untouched(&net, "link del");
}

#[test]
fn what_ip_refuses_is_refused_with_its_words() {
    let net = Net::new(Mode::L2).build();
    for line in [
        "link add",
        "link add link",
        "link add link eth0",
        "link add link eth0 name",
        "link add link eth0 name v0",
        "link add link eth0 name v0 type",
        "link add link nope name v0 type KIND",
        "link add link eth0 name eth0 type KIND",
        "link add link eth0 name lo type KIND",
        "link add link eth0 name sixteen-bytes-xx type KIND",
        "link add link eth0 name a/b type KIND",
        "link add link eth0 name . type KIND",
        "link add link eth0 name .. type KIND",
        "link add link eth0 name v0 mtu x type KIND",
        "link add link eth0 name v0 mtu -1 type KIND",
        "link add link eth0 name v0 mtu 67 type KIND",
        "link add link eth0 name v0 mtu 65536 type KIND",
        "link add link eth0 name v0 mtu 1400 mtu 1400 type KIND",
        "link add link eth0 name v0 txqueuelen x type KIND",
        "link add link eth0 name v0 netns nope type KIND",
        "link add link eth0 name v0 netns 999999999 type KIND",
        "link add link eth0 name v0 address nonsense type KIND",
        "link add link eth0 name v0 name v1 type KIND",
        "link add link eth0 name v0 numtxqueues x type KIND",
        "link add link eth0 name v0 index x type KIND",
        "link del",
        "link del nope",
        "link del dev",
        "link del sixteen-bytes-xx",
        "link show nope",
        "link show dev",
        "link frobnicate",
        "frobnicate",
        "-frobnicate link show",
        "-n nope link show",
    ] {
        let ours = net.ipvlan(&line.replace("KIND", "ipvlan"));
        let ip = net
            .host
            .try_sh(&format!("ip {}", line.replace("KIND", "macvlan")));
        let same = |text: &str| {
            let text = text
                .replace("macvlan", "ipvlan")
                .replace("\"ip ", "\"ipvlan ");
            text.trim_end().to_owned()
        };
        assert_eq!(
            ours.status, ip.status,
            "`{line}`: exit status: {ours:?}, {ip:?}"
        );
        assert_eq!(ours.stdout, "", "`{line}`: nothing on standard output");
        // Usage texts are our own.
        if !ip.stderr.contains("Usage:") {
            assert_eq!(
                same(&ours.stderr),
                same(&ip.stderr),
                "`{line}`: the words of ip"
            );
        }
        assert!(
            ours.stderr.contains("Usage:") || one_line(&ours),
            "`{line}`: one line: {ours:?}"
        );
        assert_untouched(&net, line);
    }
}

#[test]
fn what_only_we_can_refuse_is_refused_in_one_line() {
    let net = Net::new(Mode::L2).build();
    for (line, status, text) in [
        ("link add link lo name v0 type ipvlan", 2, "lo"),
        ("link add name v0 type ipvlan", 2, "link"),
        ("link add link eth0 name v0 type ipvlan mode l4", 1, "mode"),
        (
            "link add link eth0 name v0 type ipvlan mode",
            255,
            "not complete",
        ),
        ("link add link eth0 name v0 type macvlan", 2, "macvlan"),
        (
            "link add link eth0 name v0 type ipvlan user root",
            1,
            "user",
        ),
        ("link add link eth0 name v0 type ipvlan mtu 1400", 1, "mtu"),
        (
            "link add link eth0 name v0 type ipvlan private vepa",
            1,
            "vepa",
        ),
        ("link del eth0", 2, "not an ipvlan device"),
        (
            "link set eth0 type ipvlan mode l2",
            2,
            "not an ipvlan device",
        ),
        ("link set nope type ipvlan mode l2", 1, "nope"),
        ("link show eth0", 2, "not an ipvlan device"),
        ("stats nope", 1, "nope"),
        ("stats lo", 2, "not an ipvlan device"),
        ("agent nonsense", 255, "agent"),
        ("-n", 255, "not complete"),
    ] {
        let done = net.ipvlan(line);
        assert_eq!(done.status, status, "`{line}`: {done:?}");
        assert!(
            done.stderr.contains(text),
            "`{line}` names what is wrong: {done:?}"
        );
        assert!(
            one_line(&done) || done.stderr.contains("Usage:"),
            "`{line}`: one line: {done:?}"
        );
        assert_untouched(&net, line);
    }
    let tun = net.host.try_sh("ip tuntap add mode tun name tun0");
    if tun.ok() {
        let done = net.ipvlan("link add link tun0 name v0 type ipvlan");
        assert_eq!(done.status, 2, "a parent without MAC addresses: {done:?}");
        assert!(one_line(&done), "{done:?}");
        net.host.sh("ip link del tun0");
        assert_untouched(&net, "link tun0");
    }
}

#[test]
fn who_is_not_root_is_told_so() {
    let net = Net::new(Mode::L2).build();
    let program = net.program().path().to_owned();
    let drop =
        "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all";
    for line in ["link add link eth0 name v0 type ipvlan mode l2", "agent"] {
        let done = net.host.try_sh(&format!("{drop} {program} {line}"));
        if done.stderr.contains("setpriv") {
            eprintln!("the program cannot be read by others: {}", done.stderr);
            return;
        }
        assert_eq!(done.status, 2, "`{line}`: {done:?}");
        assert!(one_line(&done), "`{line}`: one line: {done:?}");
        assert!(
            done.stderr.to_lowercase().contains("not permitted"),
            "`{line}`: as ip says it: {done:?}"
        );
        assert_untouched(&net, line);
    }
    // Looking is for everybody.
    let done = net.host.try_sh(&format!("{drop} {program} link show"));
    assert!(done.ok() || one_line(&done), "{done:?}");
    // Root of a user namespace of its own, in the host's network namespace.
    let done = net.host.try_sh(&format!(
        "unshare -U -r {program} link add link eth0 name v0 type ipvlan"
    ));
    assert!(!done.ok() && one_line(&done), "{done:?}");
    assert_untouched(&net, "unshare -U");
}

/// The keys of the objects, in order.
fn keys(net: &Net, text: &str) -> Vec<String> {
    let file = std::env::temp_dir().join(format!("{}-keys.json", net.mark()));
    std::fs::write(&file, text).expect("a file");
    let keys = net
        .host
        .read(&format!("jq -r .[0]|keys_unsorted[] {}", file.display()));
    let _: std::io::Result<()> = std::fs::remove_file(&file);
    keys.lines().map(str::to_owned).collect()
}

#[test]
fn what_is_shown_is_laid_out_as_ip_does() {
    let net = Net::new(Mode::L2).build();
    let place = net.namespace("place");
    net.ipvlan("link add link eth0 name v0 type ipvlan mode l2")
        .expect_quiet();
    net.host
        .sh("ip link add link eth0 name m0 type macvlan mode bridge");
    net.ipvlan(&format!(
        "link add link eth0 name v1 netns {} type ipvlan mode l2",
        place.name()
    ))
    .expect_quiet();
    for options in ["-j", "-j -s", "-j -d", "-j -d -s", "-j -s -s"] {
        let ours = net.ipvlan(&format!("{options} link show v0")).expect();
        let ip = net.host.read(&format!("ip {options} link show m0"));
        let ours: Vec<String> = keys(&net, &ours)
            .into_iter()
            .filter(|key| key != "ipvlan")
            .collect();
        let ip: Vec<String> = keys(&net, &ip);
        let missing: Vec<_> = ip.iter().filter(|key| !ours.contains(key)).collect();
        assert!(
            missing.is_empty(),
            "{options}: keys of ip that are missing: {missing:?} of {ours:?}"
        );
    }
    for options in [
        "", "-d", "-s", "-s -s", "-d -s", "-o", "-br", "-o -d", "-br -d",
    ] {
        let line = format!("{options} link show v0");
        let ours = net.ipvlan(&line).expect();
        let ip = net.host.read(&format!("ip {options} link show m0"));
        if !options.contains("-d") && options != "-s -s" {
            let same = ours.replace("v0@eth0", "X").lines().count();
            assert_eq!(
                same,
                ip.lines().count(),
                "`{line}`: as many lines as ip\n{ours}\n{ip}"
            );
        }
        // The same words, but for numbers, names, addresses.
        let head = |text: &str| {
            text.split_whitespace()
                .nth(1)
                .unwrap_or_default()
                .replace("m0", "v0")
        };
        assert_eq!(head(&ours), head(&ip), "`{line}`");
        assert!(ours.contains("v0@eth0"), "`{line}`: {ours}");
        if options.contains("-d") && !options.contains("-br") {
            assert!(
                ours.contains("ipvlan") && ours.contains("mode l2 bridge"),
                "`{line}`, as ip -d: {ours}"
            );
        }
    }
    // -p is JSON that is laid out, and says the same.
    let plain: serde_json::Value =
        serde_json::from_str(&net.ipvlan("-j -d link show").expect()).expect("JSON");
    let pretty: serde_json::Value =
        serde_json::from_str(&net.ipvlan("-j -p -d link show").expect()).expect("JSON");
    assert_eq!(plain, pretty, "-p changes the layout only");
    assert_eq!(
        plain.as_array().map(Vec::len),
        Some(2),
        "both are shown, wherever they are: {plain}"
    );
    assert_eq!(plain[0]["linkinfo"]["info_kind"], "ipvlan", "{plain}");
    assert_eq!(plain[0]["linkinfo"]["info_data"]["mode"], "l2", "{plain}");
    assert!(
        plain[0]["linkinfo"]["info_data"].get("bridge").is_some(),
        "{plain}"
    );
    assert_eq!(plain[1]["netns"], place.name(), "{plain}");
    // Filters.
    let count = |line: &str| {
        let json: serde_json::Value =
            serde_json::from_str(&net.ipvlan(line).expect()).expect("JSON");
        json.as_array().map_or(0, Vec::len)
    };
    assert_eq!(count("-j link show type ipvlan"), 2);
    assert_eq!(count("-j link show link eth0"), 2);
    assert_eq!(count("-j link show up"), 0);
    assert_eq!(count("-j link show v1"), 1);
    assert_eq!(count("-j link"), 2, "show is the default");
    // From inside.
    let inside = net.program().run(&place, "-j -d link show v1").expect();
    let inside: serde_json::Value = serde_json::from_str(&inside).expect("JSON");
    assert_eq!(
        inside[0]["linkinfo"]["info_data"]["mode"], "l2",
        "a container sees its own: {inside}"
    );
    // Root of a user namespace, as in a container, has no say in the parent's namespace.
    let line = format!(
        "unshare --user --map-root-user {} link set v1 type ipvlan mode l3",
        net.program().path()
    );
    let denied = place.try_sh(&line);
    assert!(denied.status > 0, "but does not change all: {denied:?}");
    assert!(one_line(&denied), "{denied:?}");
    net.program().run(&place, "link del v1").expect_quiet();
    assert_eq!(net.ipvlan("link show v1").status, 1, "it is gone");
    net.host.sh("ip link del m0");
    net.ipvlan("link del v0").expect_quiet();
    assert_untouched(&net, "link del");
    assert_eq!(
        net.ipvlan("-j link show").expect().trim(),
        "[]",
        "none is an empty list"
    );
    assert_eq!(net.ipvlan("link show").expect(), "", "none is nothing");
}

#[test]
fn help_teaches_and_fails_not() {
    let net = Net::new(Mode::L2).build();
    for line in [
        "help",
        "--help",
        "-h",
        "link help",
        "link add help",
        "link help ipvlan",
        "agent help",
        "stats help",
    ] {
        let done = net.ipvlan(line);
        assert!(done.ok() || done.status == 255, "`{line}`: {done:?}");
        let text = format!("{}{}", done.stdout, done.stderr);
        assert!(
            text.contains("sage:") && text.lines().count() > 3,
            "`{line}`: {text}"
        );
    }
    for line in ["-V", "-Version", "--version"] {
        assert!(
            net.ipvlan(line)
                .expect()
                .contains(env!("CARGO_PKG_VERSION")),
            "`{line}`"
        );
    }
    assert_untouched(&net, "help");
}

#[test]
fn the_agent_starts_with_the_first_device_and_ends_with_the_last() {
    let net = Net::new(Mode::L2).build();
    assert_eq!(net.agents().len(), 0, "none without devices");
    net.ipvlan("link add link eth0 name a type ipvlan mode l2")
        .expect_quiet();
    assert_eq!(net.agents().len(), 1, "one with the first");
    net.ipvlan("link add link eth0 name b type ipvlan mode l2")
        .expect_quiet();
    assert_eq!(net.agents().len(), 1, "one for all");
    let second = net.ipvlan("agent");
    assert_eq!(second.status, 2, "a second one is refused: {second:?}");
    assert!(one_line(&second), "{second:?}");
    net.ipvlan("link del a").expect_quiet();
    assert_eq!(net.agents().len(), 1, "as long as there is a device");
    net.ipvlan("link del b").expect_quiet();
    net.assert_clean();
    // In the foreground it waits.
    let mut agent = net
        .host
        .spawn(&format!("{} agent --foreground", net.program().path()));
    assert!(eventually(PATIENCE, || net.agents().len() == 1), "it runs");
    net.ipvlan("link add link eth0 name a type ipvlan mode l2")
        .expect_quiet();
    assert_eq!(net.agents().len(), 1, "and serves");
    net.ipvlan("link del a").expect_quiet();
    assert!(agent.is_alive(), "and stays");
    let _: String = agent.interrupt();
    net.ipvlan("--no-agent link add link eth0 name a type ipvlan mode l2")
        .expect_quiet();
    net.ipvlan("--no-agent link del a").expect_quiet();
    net.assert_clean();
}
