//! Sockets in namespaces: what an application would see.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;

use crate::ns::Ns;
use crate::process::Process;
use crate::{Net, PATIENCE, eventually, sys};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Any free port will do: each net has its own.
pub const PORT: u16 = 7007;

/// Bytes that no other position has.
fn pattern(len: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b1).to_be_bytes())
        .take(len)
        .collect()
}

fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => "0.0.0.0".parse().expect("any"),
        IpAddr::V6(_) => "::".parse().expect("any"),
    }
}

/// Sends `bytes` from `client` to the server at `address` in `server` and as many back, and checks
/// each. Returns the address that the server saw.
///
/// # Errors
///
/// Says what went wrong.
pub fn tcp(server: &Ns, address: IpAddr, client: &Ns, bytes: usize) -> Result<IpAddr, String> {
    let listener = listen(server, address);
    let data = &pattern(bytes);
    let given_up = &AtomicBool::new(false);
    thread::scope(|scope| {
        let served = scope.spawn(move || -> Result<IpAddr, String> {
            let (mut stream, from) = accept(&listener, given_up)?;
            bound(&stream)?;
            let mut got = vec![0; data.len()];
            stream
                .read_exact(&mut got)
                .map_err(|error| format!("server reads: {error}"))?;
            if got != *data {
                return Err("the server got other bytes than were sent".into());
            }
            stream
                .write_all(data)
                .map_err(|error| format!("server writes: {error}"))?;
            Ok(from.ip())
        });
        let asked = connect(client, address).and_then(|mut stream| {
            bound(&stream)?;
            stream
                .write_all(data)
                .map_err(|error| format!("client writes: {error}"))?;
            let mut got = vec![0; data.len()];
            stream
                .read_exact(&mut got)
                .map_err(|error| format!("client reads: {error}"))?;
            if got != *data {
                return Err("the client got other bytes than were sent".into());
            }
            Ok(())
        });
        given_up.store(asked.is_err(), Ordering::Relaxed);
        let served = served
            .join()
            .map_err(|_| "the server panicked".to_owned())?;
        asked.and(served)
    })
}

/// Where who is asked by [`ask`] listens, and says what he hears. RFC 862.
pub const ECHO: u16 = 7;

/// Starts an echo in `server`.
pub fn echo(server: &Ns) -> Process {
    // It goes on for as long as the other end takes to read what it gets back.
    server.spawn(&format!(
        "socat -t 60 TCP6-LISTEN:{ECHO},ipv6only=0,fork,reuseaddr EXEC:cat"
    ))
}

/// Sends `bytes` to an echo, and checks what comes back.
///
/// # Errors
///
/// Says what went wrong.
pub fn ask(client: &Ns, address: IpAddr, bytes: usize) -> Result<(), String> {
    let to = SocketAddr::new(address, ECHO);
    // It may have been started just now.
    let mut connected = Err("no time".to_owned());
    let _: bool = eventually(PATIENCE, || {
        let stream = client.enter(|| TcpStream::connect_timeout(&to, TIMEOUT));
        connected = stream.map_err(|error| format!("connect to {to}: {error}"));
        connected.is_ok()
    });
    let mut stream = connected?;
    bound(&stream)?;
    let mut mouth = stream.try_clone().map_err(|error| error.to_string())?;
    let data = &pattern(bytes);
    thread::scope(|scope| {
        let said = scope.spawn(move || {
            mouth.write_all(data)?;
            mouth.shutdown(Shutdown::Write)
        });
        let mut got = Vec::new();
        let heard = stream.read_to_end(&mut got);
        let said = said.join().map_err(|_| "the writer panicked")?;
        said.map_err(|error| format!("write to {to}: {error}"))?;
        let _: usize = heard.map_err(|error| format!("read from {to}: {error}"))?;
        match got == *data {
            true => Ok(()),
            false => Err(format!("{to}: {} other bytes came back", got.len())),
        }
    })
}

fn bound(stream: &TcpStream) -> Result<(), String> {
    stream
        .set_read_timeout(Some(TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(TIMEOUT)))
        .map_err(|error| error.to_string())
}

/// A connection from `client`.
///
/// # Errors
///
/// Says what went wrong.
pub fn connect(client: &Ns, address: IpAddr) -> Result<TcpStream, String> {
    client
        .enter(|| TcpStream::connect_timeout(&SocketAddr::new(address, PORT), TIMEOUT))
        .map_err(|error| format!("connect to {address}: {error}"))
}

/// Listens for [`connect`].
pub fn listen(server: &Ns, like: IpAddr) -> TcpListener {
    // A program that another test starts has our sockets, too, between fork and exec.
    let mut bound = None;
    let free = eventually(PATIENCE, || {
        bound = server.enter(|| TcpListener::bind((any(like), PORT)).ok());
        bound.is_some()
    });
    assert!(free, "port {PORT} is free");
    bound.expect("bound")
}

/// Waits for a connection, unless the one who was to make it has given up.
fn accept(
    listener: &TcpListener,
    given_up: &AtomicBool,
) -> Result<(TcpStream, SocketAddr), String> {
    listener
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    let end = Instant::now() + TIMEOUT;
    loop {
        match listener.accept() {
            Ok((stream, from)) => {
                stream
                    .set_nonblocking(false)
                    .map_err(|error| error.to_string())?;
                return Ok((stream, from));
            }
            Err(error)
                if error.kind() == ErrorKind::WouldBlock
                    && Instant::now() < end
                    && !given_up.load(Ordering::Relaxed) =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(format!("accept: {error}")),
        }
    }
}

/// A datagram socket on the port of all tests that hears broadcast and the groups it joins.
#[derive(Debug)]
pub struct Ear {
    socket: UdpSocket,
}

impl Ear {
    /// In `ns`, for the family of `like`.
    pub fn on(ns: &Ns, like: IpAddr) -> Self {
        // Whoever answered on the port before may not have gone yet.
        let mut bound = None;
        let free = eventually(PATIENCE, || {
            bound = ns.enter(|| UdpSocket::bind((any(like), PORT)).ok());
            bound.is_some()
        });
        assert!(free, "port {PORT} is free");
        let socket = bound.expect("bound");
        socket.set_broadcast(true).expect("SO_BROADCAST");
        Self { socket }
    }

    /// Joins a group on an interface of `ns`.
    pub fn join(&self, ns: &Ns, group: IpAddr, interface: &str) {
        match group {
            IpAddr::V4(group) => {
                let addresses = ns.read(&format!("ip -4 -o addr show dev {interface}"));
                let own = addresses
                    .split_whitespace()
                    .skip_while(|word| *word != "inet")
                    .nth(1);
                let own = own
                    .and_then(|own| own.split('/').next())
                    .expect("an address");
                let own = own.parse().expect("an address");
                self.socket.join_multicast_v4(&group, &own).expect("join");
            }
            IpAddr::V6(group) => {
                self.socket
                    .join_multicast_v6(&group, ns.index(interface))
                    .expect("join");
            }
        }
    }

    /// Sends a datagram to an address, on an interface if that has to be said (IPv6 groups).
    pub fn say(&self, to: IpAddr, scope: u32, data: &[u8]) {
        self.try_say(to, scope, data)
            .unwrap_or_else(|error| panic!("send to {to}: {error}"));
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn try_say(&self, to: IpAddr, scope: u32, data: &[u8]) -> std::io::Result<()> {
        let to = match to {
            IpAddr::V4(to) => SocketAddr::from((to, PORT)),
            IpAddr::V6(to) => SocketAddr::V6(std::net::SocketAddrV6::new(to, PORT, 0, scope)),
        };
        self.socket.send_to(data, to).map(drop)
    }

    /// Whether `data` comes in time; from whom. Anything else is passed over.
    pub fn hears(&self, data: &[u8], timeout: Duration) -> Option<IpAddr> {
        let end = Instant::now() + timeout;
        let mut buf = vec![0; 70_000];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let is_last = left.is_zero();
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            match self.socket.recv_from(&mut buf) {
                Ok((len, from)) if buf.get(..len) == Some(data) => return Some(from.ip()),
                // Also what an ICMP error left on the socket.
                Ok(_) | Err(_) if is_last => return None,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// A datagram over IPv6, without a checksum, whose data its sender can still change after it was
/// sent: `sendfile(2)` puts the pages of the file into the packet as they are (since Linux 6.5;
/// before, it copies them).
#[derive(Debug)]
pub struct SharedDatagram {
    data: File,
}

impl SharedDatagram {
    /// Sends it from `client`.
    #[track_caller]
    pub fn send(client: &Ns, to: SocketAddr, data: &[u8]) -> Self {
        let file = memfd_create("data", MFdFlags::MFD_CLOEXEC).expect("memfd_create");
        let this = Self { data: file.into() };
        this.change(0, data);
        let socket = client.enter(|| UdpSocket::bind((any(to.ip()), 0)).expect("a socket"));
        sys::leave_checksum_out(socket.as_fd()).expect("UDP_NO_CHECK6_TX");
        socket.connect(to).expect("connect");
        let sent = sendfile(&socket, &this.data, None, data.len());
        assert_eq!(sent, Ok(data.len()), "sendfile");
        this
    }

    /// Writes over a part of its data, wherever they are by now.
    #[track_caller]
    pub fn change(&self, offset: u64, bytes: &[u8]) {
        self.data.write_all_at(bytes, offset).expect("write");
    }
}

/// Sends a datagram of `bytes` and waits for it; again if it is lost, a few times.
///
/// # Errors
///
/// Says what went wrong.
pub fn udp(server: &Ns, address: IpAddr, client: &Ns, bytes: usize) -> Result<IpAddr, String> {
    let ear = Ear::on(server, address);
    let mouth = Ear::on(client, address);
    let data = pattern(bytes);
    for _ in 0..3 {
        mouth
            .try_say(address, 0, &data)
            .map_err(|error| format!("send: {error}"))?;
        if let Some(from) = ear.hears(&data, Duration::from_secs(1)) {
            return Ok(from);
        }
    }
    Err(format!("{address} did not hear {bytes} bytes"))
}

/// The first address of the interface-local kind, `fe80::…`.
pub fn link_local(ns: &Ns, interface: &str) -> Option<Ipv6Addr> {
    let text = ns.read(&format!("ip -6 -o addr show dev {interface} scope link"));
    let own = text
        .split_whitespace()
        .skip_while(|word| *word != "inet6")
        .nth(1)?;
    own.split('/').next()?.parse().ok()
}

/// Two devices that talk until they are told to stop: bytes go round between the first two, and the
/// first and the LAN. Returns how often.
///
/// # Errors
///
/// A connection that ended, stood still for [`PATIENCE`], or lost or changed a byte.
pub fn chatter(net: &Net, stop: &AtomicBool) -> Result<usize, String> {
    let peers = [
        (&net.dev(1).ns, IpAddr::V4(net.dev(1).v4)),
        (&net.lan, IpAddr::V4(crate::topology::LAN4)),
    ];
    let mut pairs = Vec::new();
    for (server, address) in peers {
        let listener = listen(server, address);
        let client = connect(&net.dev(0).ns, address)?;
        let (served, _) = listener.accept().map_err(|error| error.to_string())?;
        for stream in [&client, &served] {
            stream
                .set_read_timeout(Some(PATIENCE))
                .map_err(|error| error.to_string())?;
        }
        pairs.push((client, served));
    }
    let mut rounds = 0;
    let mut buf = [0; 1000];
    while !stop.load(Ordering::Relaxed) {
        for (client, served) in &mut pairs {
            let write = |error| format!("write: {error}");
            let read = |error| format!("read: {error}");
            let sent = pattern(buf.len() + rounds % 100);
            let sent = &sent[rounds % 100..];
            client.write_all(sent).map_err(write)?;
            served.read_exact(&mut buf).map_err(read)?;
            served.write_all(&buf).map_err(write)?;
            client.read_exact(&mut buf).map_err(read)?;
            if buf != *sent {
                return Err(format!("round {rounds}: not what was sent"));
            }
        }
        rounds += 1;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(rounds)
}
