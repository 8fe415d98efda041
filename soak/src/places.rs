//! Every namespace has ears and a mouth here, all in one thread.
//!
//! A tap (a packet socket on all interfaces) hears each frame that gets into a namespace, before the
//! stack there says that it is none of its business: a socket alone would never hear what is
//! delivered to a wrong namespace. Sockets answer and ask.
//!
//! What is heard is judged by the time at which it may have come: after the moment at which the
//! socket was last seen empty, and before now. So it does not matter how late this thread is.

use std::collections::{BTreeMap, VecDeque};
use std::io::{IoSlice, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use ipvlan_tests::packet::mac_text;
use ipvlan_tests::traffic::PORT;
use ipvlan_tests::{Dice, HOST4, HOST6, LAN4, LAN6, Ns, Seen, Sniffer};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6,
    SockaddrStorage, bind, connect, recv, sendmsg, sendto, setsockopt, socket, sockopt,
};

use crate::Shared;
use crate::model::{
    BROADCAST, Fact, Flag, GUEST, GUEST_MAC, Home, LAN_BROADCAST, Mode, Time, address, guest_mac,
    is_broadcast, is_of_pool,
};
use crate::payload::{Kind, LEN, Payload, mapped, read};

/// How soon a probe without an answer is sent again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a connection may take that nobody waits for.
const CONNECTION: Duration = Duration::from_secs(3);
/// Connections at a time, of a namespace.
const CONNECTIONS: usize = 20;
/// Pings that wait for their answers, of a namespace.
const PINGS: usize = 40;
/// A socket that is closed is gone at once.
const LINGER: libc::linger = libc::linger {
    l_onoff: 1,
    l_linger: 0,
};
/// Frames that are read of one tap before the next one's turn.
const TURN: usize = 1000;
/// Index of `lo`, the first interface of any namespace.
const LOOPBACK: u32 = 1;

/// Somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot {
    Home(Home),
    Lan,
    /// The parent's namespace. Its tap would hear what the programs take before its stack does, so
    /// it has none.
    Host,
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Home(guest) if *guest >= GUEST => write!(f, "the guest of d{guest}"),
            Self::Home(home) => write!(f, "namespace n{home}"),
            Self::Lan => f.write_str("the LAN"),
            Self::Host => f.write_str("the host"),
        }
    }
}

/// The sockets in one namespace. They keep it alive: they go before it is killed.
#[derive(Debug)]
pub(crate) struct Place {
    /// For connections, which need a socket each.
    ns: ipvlan_netlink::NetNs,
    tap: Option<Sniffer>,
    /// When nothing was left to be read.
    emptied: Time,
    udp: UdpSocket,
    tcp: TcpListener,
    connections: Vec<Connection>,
    pings: VecDeque<OwnedFd>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// What the client is still to send.
    ask: Option<Payload>,
    got: Vec<u8>,
    until: Time,
    served: bool,
}

impl Place {
    /// In this namespace.
    pub(crate) fn new(ns: &Ns, spot: Spot, now: Time) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let (udp, tcp) = ns.enter(|| (UdpSocket::bind(any), TcpListener::bind(any)));
        let (udp, tcp) = (udp.expect("a free port"), tcp.expect("a free port"));
        udp.set_broadcast(true).expect("SO_BROADCAST");
        udp.set_nonblocking(true).expect("O_NONBLOCK");
        tcp.set_nonblocking(true).expect("O_NONBLOCK");
        Self {
            ns: ns.handle().try_clone().expect("a second descriptor"),
            tap: (spot != Spot::Host).then(|| Sniffer::everywhere(ns)),
            emptied: now,
            udp,
            tcp,
            connections: Vec::new(),
            pings: VecDeque::new(),
        }
    }

    /// Sends; whether anything arrives is another matter.
    fn say(&mut self, payload: &Payload, now: Time) -> bool {
        let bytes = payload.bytes();
        match payload.kind {
            Kind::Udp | Kind::UdpAnswer | Kind::Broadcast => {
                say_from(&self.udp, payload, &bytes).is_ok()
            }
            Kind::Icmp => match self.ping(payload, &bytes) {
                Ok(socket) => {
                    self.pings.push_back(socket);
                    // Whoever has not answered by then never will.
                    if self.pings.len() > PINGS {
                        drop(self.pings.pop_front());
                    }
                    true
                }
                Err(_) => false,
            },
            Kind::Tcp if self.connections.len() >= CONNECTIONS => false,
            Kind::Tcp => match self.connect(payload) {
                Ok(stream) => {
                    self.connections.push(Connection {
                        stream,
                        ask: Some(*payload),
                        got: Vec::new(),
                        until: now + CONNECTION,
                        served: false,
                    });
                    true
                }
                Err(_) => false,
            },
            Kind::TcpAnswer => false,
        }
    }

    /// A socket of its own, with the address that is sent from.
    fn socket(&self, kind: SockType, icmp: bool, payload: &Payload) -> Result<OwnedFd, Errno> {
        let (family, protocol) = match payload.to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = icmp.then_some(protocol);
        let made = self.ns.enter(|| socket(family, kind, flags, protocol));
        let fd = made.map_err(|_| Errno::ENOENT)??;
        bind(fd.as_raw_fd(), &endpoint(payload.from, 0))?;
        Ok(fd)
    }

    /// Asks the kernel that has the address. A socket for many addresses would not do: the kernel
    /// chooses another one for ICMPv6 than it is told.
    fn ping(&self, payload: &Payload, bytes: &[u8]) -> Result<OwnedFd, Errno> {
        let fd = self.socket(SockType::Datagram, true, payload)?;
        let kind = if payload.to.is_ipv4() { 8 } else { 128 };
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], bytes].concat();
        let to = endpoint(payload.to, 0);
        let _: usize = sendto(fd.as_raw_fd(), &message, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(fd)
    }

    fn connect(&self, payload: &Payload) -> Result<TcpStream, Errno> {
        let fd = self.socket(SockType::Stream, false, payload)?;
        // Nothing lingers after it is closed.
        setsockopt(&fd, sockopt::Linger, &LINGER)?;
        match connect(fd.as_raw_fd(), &endpoint(payload.to, PORT)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd.into()),
            Err(errno) => Err(errno),
        }
    }
}

fn endpoint(address: IpAddr, port: u16) -> SockaddrStorage {
    SockaddrStorage::from(SocketAddr::new(address, port))
}

/// A datagram from one of the addresses that the namespace has.
fn say_from(socket: &UdpSocket, payload: &Payload, bytes: &[u8]) -> Result<usize, Errno> {
    let info = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: mapped(payload.from).octets(),
        },
        ipi6_ifindex: 0,
    };
    let to = SockaddrIn6::from(SocketAddrV6::new(mapped(payload.to), PORT, 0, 0));
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &[ControlMessage::Ipv6PacketInfo(&info)],
        MsgFlags::MSG_DONTWAIT,
        Some(&to),
    )
}

/// Whether a frame tells the MAC address of a guest that does not live there.
fn tells_guest(seen: &Seen, spot: Spot) -> bool {
    let lives_there = |mac: &[u8]| match spot {
        Spot::Home(home) if home >= GUEST => guest_mac(home, 0).starts_with(mac),
        Spot::Home(_) | Spot::Lan | Spot::Host => false,
    };
    // The last byte counts its starts.
    let mut windows = seen.bytes.windows(GUEST_MAC.len() + 1);
    windows.any(|mac| mac.starts_with(&GUEST_MAC) && !lives_there(mac))
}

/// Something that should be answered, asked until it is.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) spot: Spot,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Of a broadcast: how many copies each namespace should hear.
    pub(crate) copies: BTreeMap<Home, usize>,
    ids: Vec<u64>,
    next: Time,
    pub(crate) answered: bool,
    /// Of a broadcast: what was heard instead.
    pub(crate) instead: Option<BTreeMap<Home, usize>>,
}

impl Probe {
    pub(crate) fn new(kind: Kind, spot: Spot, from: IpAddr, to: IpAddr) -> Self {
        Self {
            kind,
            spot,
            from,
            to,
            copies: BTreeMap::new(),
            ids: Vec::new(),
            next: Time::ZERO,
            answered: false,
            instead: None,
        }
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            spot,
            from,
            to,
            ..
        } = self;
        write!(f, "{} from {spot} ({from}) to {to}", kind.word())?;
        if self.kind == Kind::Broadcast {
            write!(
                f,
                ": copies by namespace {:?}, not {:?}",
                self.instead.clone().unwrap_or_default(),
                self.copies
            )?;
        }
        Ok(())
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) all: BTreeMap<Spot, Place>,
    pub(crate) probes: Vec<Probe>,
    /// Who may say something without being asked to, and from which address.
    pub(crate) talkers: Vec<(Spot, IpAddr)>,
    /// Addresses that may be spoken to, whether or not somebody has them.
    pool: usize,
    dice: Dice,
    last: u64,
    /// Copies of each broadcast.
    copies: BTreeMap<u64, BTreeMap<Home, usize>>,
    buf: Vec<u8>,
}

impl Places {
    pub(crate) fn new(pool: usize, dice: Dice) -> Self {
        Self {
            all: BTreeMap::new(),
            probes: Vec::new(),
            talkers: Vec::new(),
            pool,
            dice,
            last: 0,
            copies: BTreeMap::new(),
            buf: vec![0; 1 << 16],
        }
    }

    /// One round: listens everywhere, answers, asks.
    pub(crate) fn turn(&mut self, shared: &Shared) {
        let spots: Vec<Spot> = self.all.keys().copied().collect();
        for spot in spots {
            let Some(mut place) = self.all.remove(&spot) else {
                continue;
            };
            self.listen(spot, &mut place, shared);
            let _: Option<Place> = self.all.insert(spot, place);
        }
        self.probe(shared);
        self.chat(shared);
    }

    fn listen(&mut self, spot: Spot, place: &mut Place, shared: &Shared) {
        let started = shared.now();
        let mut count = 0;
        let mut buf = std::mem::take(&mut self.buf);
        if let Some(tap) = &place.tap {
            while count < TURN
                && let Some((interface, seen)) = tap.next_in(&mut buf)
            {
                count += 1;
                if !seen.outgoing && interface != LOOPBACK {
                    self.inspect(spot, &seen, place.emptied, shared);
                }
            }
        }
        while let Ok((len, _)) = place.udp.recv_from(&mut buf) {
            let found = buf.get(..len).and_then(Payload::find);
            let Some(payload) = found else { continue };
            self.hear(spot, &payload, payload.to, place.emptied, shared);
            if payload.kind == Kind::Udp {
                let _: bool = place.say(&payload.answer(), started);
            }
        }
        place.pings.retain(|ping| {
            let flags = MsgFlags::MSG_DONTWAIT;
            let Ok(len) = recv(ping.as_raw_fd(), &mut buf, flags) else {
                return true;
            };
            if let Some(payload) = buf.get(..len).and_then(Payload::find) {
                // It comes back as it went.
                self.hear(spot, &payload, payload.from, place.emptied, shared);
            }
            false
        });
        self.buf = buf;
        while let Ok((stream, _)) = place.tcp.accept() {
            let _: nix::Result<()> = setsockopt(&stream, sockopt::Linger, &LINGER);
            if stream.set_nonblocking(true).is_ok() {
                place.connections.push(Connection {
                    stream,
                    ask: None,
                    got: Vec::new(),
                    until: started + CONNECTION,
                    served: true,
                });
            }
        }
        let mut connections = std::mem::take(&mut place.connections);
        connections.retain_mut(|connection| {
            self.serve(spot, connection, place.emptied, shared) && connection.until > started
        });
        place.connections = connections;
        if count < TURN {
            place.emptied = started;
        }
    }

    /// Goes on with a connection; false when it is over.
    fn serve(
        &mut self,
        spot: Spot,
        connection: &mut Connection,
        since: Time,
        shared: &Shared,
    ) -> bool {
        if let Some(payload) = connection.ask {
            // All of it or nothing: the buffer of a new connection has room.
            match connection.stream.write_all(&payload.bytes()) {
                Ok(()) => connection.ask = None,
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
        let mut buf = [0; 2 * LEN];
        match connection.stream.read(&mut buf) {
            Ok(0) => return false,
            Ok(len) => connection.got.extend(buf.get(..len).unwrap_or_default()),
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
        if connection.got.len() < LEN {
            return true;
        }
        let Some(payload) = Payload::find(&connection.got) else {
            let what = format!("{spot}: a TCP connection carries other bytes than were sent");
            shared.found(what);
            return false;
        };
        self.hear(spot, &payload, payload.to, since, shared);
        if !connection.served {
            return false;
        }
        connection.got.clear();
        let answer = payload.answer();
        if connection.stream.write_all(&answer.bytes()).is_ok() {
            shared.report().sent(answer.kind);
        }
        // The client closes.
        true
    }

    /// An application has got a payload. Whose it is the frame has said already; here it is about
    /// what the stack made of it, and about answers.
    fn hear(&mut self, spot: Spot, payload: &Payload, to: IpAddr, since: Time, shared: &Shared) {
        shared.report().received(payload.kind);
        let now = shared.now();
        let right = is_broadcast(to)
            || match spot {
                Spot::Lan => [IpAddr::V4(LAN4), IpAddr::V6(LAN6)].contains(&to),
                Spot::Host => [IpAddr::V4(HOST4), IpAddr::V6(HOST6)].contains(&to),
                // A guest talks to itself by addresses that nobody learns of; that is never a frame.
                Spot::Home(home) if home >= GUEST => true,
                // Nor is what stays in a namespace, where the address of a device that is down is local.
                Spot::Home(home) => [to, payload.from]
                    .into_iter()
                    .any(|address| shared.facts().belongs(since, now, home, address)),
            };
        shared.report().checked("addressee", 1);
        if !right {
            shared.found(format!("{spot} gets {payload:?}, which is for {to}"));
        }
        let answers = matches!(payload.kind, Kind::UdpAnswer | Kind::TcpAnswer | Kind::Icmp);
        if answers
            && let Some(probe) = self
                .probes
                .iter_mut()
                .find(|probe| probe.ids.contains(&payload.id))
        {
            probe.answered = true;
        }
    }

    /// A frame has come to a namespace, or to the LAN.
    fn inspect(&mut self, spot: Spot, seen: &Seen, since: Time, shared: &Shared) {
        let now = shared.now();
        let letter = read(seen);
        let mut wrong = Vec::new();
        let facts = shared.facts();
        let could = |fact| facts.could(since, now, fact);
        let own = matches!(spot, Spot::Home(home) if home >= GUEST);
        if tells_guest(seen, spot) {
            wrong.push(format!("{spot} sees a guest's MAC address"));
        }
        match spot {
            Spot::Lan => {
                for (place, mac) in letter.macs {
                    if !could(Fact::Mac(mac)) {
                        wrong.push(format!("the wire sees {} in {place}", mac_text(mac)));
                    }
                }
            }
            Spot::Home(home) => {
                let Some((from, to)) = letter.ip else { return };
                let elsewhere = [LAN4.into(), LAN6.into(), HOST4.into(), HOST6.into()];
                if is_broadcast(to) && !could(Fact::Mode(Mode::L2)) {
                    wrong.push(format!("{spot} gets a broadcast in a mode without"));
                }
                // To a group devices talk under vepa, too, as the driver's do.
                let allowed = match is_broadcast(to) {
                    true => could(Fact::Flag(Flag::Bridge)) || could(Fact::Flag(Flag::Vepa)),
                    false => could(Fact::Flag(Flag::Bridge)),
                };
                // In l3 the parent answers a guest's solicitation, for whomever it is.
                let by_parent = own
                    && letter.is_advertisement
                    && (could(Fact::Mode(Mode::L3)) || could(Fact::Mode(Mode::L3s)));
                let to_sibling = is_of_pool(to) || is_broadcast(to);
                // Its address may be one that nobody learns.
                let belongs = !is_of_pool(to) || by_parent || facts.belongs(since, now, home, to);
                if elsewhere.contains(&to) || !belongs {
                    wrong.push(format!("{spot} gets a frame for {to}, which is not there"));
                }
                if is_of_pool(from) && to_sibling && !allowed && !by_parent {
                    wrong.push(format!(
                        "{spot} gets a frame of a sibling ({from}) although devices are isolated"
                    ));
                }
                if let Some((payload, named)) = letter.payload {
                    if named != to {
                        wrong.push(format!("{spot} gets {payload:?} in a frame for {to}"));
                    }
                    if payload.kind == Kind::Broadcast {
                        *self
                            .copies
                            .entry(payload.id)
                            .or_default()
                            .entry(home)
                            .or_default() += 1;
                    }
                }
            }
            Spot::Host => {}
        }
        drop(facts);
        shared.report().checked(
            if spot == Spot::Lan {
                "frame-on-wire"
            } else {
                "frame-in-place"
            },
            1,
        );
        for what in wrong {
            shared.found(format!("{what}\n{seen:?}"));
        }
    }

    fn id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn say(&mut self, spot: Spot, payload: &Payload, shared: &Shared) {
        let said = self
            .all
            .get_mut(&spot)
            .is_some_and(|place| place.say(payload, shared.now()));
        if said {
            shared.report().sent(payload.kind);
        }
    }

    fn probe(&mut self, shared: &Shared) {
        let now = shared.now();
        let mut probes = std::mem::take(&mut self.probes);
        for probe in probes
            .iter_mut()
            .filter(|probe| !probe.answered && probe.next <= now)
        {
            if let (Kind::Broadcast, Some(id)) = (probe.kind, probe.ids.last()) {
                let heard = self.copies.get(id).cloned().unwrap_or_default();
                probe.answered = heard == probe.copies;
                if probe.answered {
                    continue;
                }
                probe.instead = Some(heard);
            }
            let payload = Payload {
                kind: probe.kind,
                id: self.id(),
                from: probe.from,
                to: probe.to,
            };
            probe.ids.push(payload.id);
            probe.next = now + AGAIN;
            self.say(probe.spot, &payload, shared);
        }
        // An answer may have come for what was taken out meanwhile: it is asked for again.
        self.probes = probes;
        while self.copies.len() > 1000 {
            let _: Option<_> = self.copies.pop_first();
        }
    }

    /// Somebody says something to an address that may or may not be there.
    fn chat(&mut self, shared: &Shared) {
        if self.talkers.is_empty() || self.dice.roll(2) == 0 {
            return;
        }
        let (spot, from) = *self.dice.pick(&self.talkers);
        let pool = u64::try_from(self.pool).unwrap_or(u64::MAX);
        let mut to = address(usize::try_from(self.dice.roll(pool)).unwrap_or(0));
        let kind = match self.dice.roll(40) {
            0 if from.is_ipv4() => {
                to = IpAddr::V4(if spot == Spot::Lan {
                    LAN_BROADCAST
                } else {
                    BROADCAST
                });
                Kind::Broadcast
            }
            0..=7 => Kind::Tcp,
            8..=19 => Kind::Icmp,
            _ => Kind::Udp,
        };
        if self.dice.roll(6) == 0 && spot != Spot::Lan && kind != Kind::Broadcast {
            to = *self.dice.pick(&[LAN4.into(), LAN6.into()]);
        }
        if to.is_ipv4() == from.is_ipv4() {
            let payload = Payload {
                kind,
                id: self.id(),
                from,
                to,
            };
            self.say(spot, &payload, shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use ipvlan_tests::packet::{BROADCAST, ethernet, ethertype};

    use super::*;

    #[test]
    fn a_guest_sees_its_own_mac_address_and_nobody_elses() {
        let tells = |number, spot| {
            let bytes = ethernet(BROADCAST, guest_mac(number, 9), ethertype::ARP, &[0; 28]);
            let outgoing = false;
            tells_guest(&Seen { bytes, outgoing }, spot)
        };
        assert!(!tells(GUEST, Spot::Home(GUEST)));
        for spot in [Spot::Home(GUEST + 1), Spot::Home(0), Spot::Lan] {
            assert!(tells(GUEST, spot), "{spot}");
        }
        let bytes = ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], ethertype::ARP, &[0; 28]);
        let outgoing = false;
        assert!(!tells_guest(&Seen { bytes, outgoing }, Spot::Lan));
    }
}
