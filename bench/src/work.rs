//! One operation: something is sent at one end and received at the other, by the same thread.
//!
//! Nothing here blocks. What was sent has normally arrived when the call that sent it returns,
//! because the softirq that carries it runs before. Where it has not (an acknowledgement that is
//! late, work that went to ksoftirqd), the thread waits in poll, up to the cell's deadline, and the
//! wait is counted.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::libc::linger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, send, setsockopt,
    socket, sockopt,
};

use crate::error::{Error, Result};
use crate::sys;
use crate::topology::Ends;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Work {
    /// A datagram of 64 bytes, one way: what a small packet costs
    #[value(name = "udp-64")]
    Udp64,
    /// 56,000 bytes as 40 datagrams in one call (UDP_SEGMENT), one way: QUIC's way
    UdpGso,
    /// 64 KiB written to a TCP stream and read
    TcpStream,
    /// One byte there and one byte back on an open TCP connection
    TcpRr,
    /// A TCP connection: open, accept, one byte, close
    TcpConnect,
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp64 => "udp-64",
            Self::UdpGso => "udp-gso",
            Self::TcpStream => "tcp-stream",
            Self::TcpRr => "tcp-rr",
            Self::TcpConnect => "tcp-connect",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Udp64 => "UDP, 64 bytes one way",
            Self::UdpGso => "UDP GSO, 56 kB one way",
            Self::TcpStream => "TCP stream, 64 KiB",
            Self::TcpRr => "TCP request and answer, 1 byte",
            Self::TcpConnect => "TCP connect, 1 byte, close",
        }
    }

    /// Opens the sockets: the server's inside its namespace, the client's in the thread's own,
    /// which must be the client's and stay it.
    pub(crate) fn open(self, ends: &Ends<'_>) -> Result<Box<dyn Operation>> {
        Ok(match self {
            Self::Udp64 => Box::new(Datagrams::open(ends, 64, None)?),
            Self::UdpGso => Box::new(Datagrams::open(ends, 56_000, Some(1_400))?),
            Self::TcpStream => Box::new(Stream::open(ends)?),
            Self::TcpRr => Box::new(RequestAnswer::open(ends)?),
            Self::TcpConnect => Box::new(Connect(listen(ends)?)),
        })
    }
}

/// Opened once, then done many times.
pub(crate) trait Operation {
    fn once(&mut self, patience: &mut Patience) -> Result<()>;
}

/// How long an operation may still wait, and how often one had to.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Instant,
    pub(crate) waits: u32,
    lost: u32,
}

impl Patience {
    const LOST_MAX: u32 = 20;
    /// After this a datagram is lost: the way takes microseconds.
    const LOST_AFTER: Duration = Duration::from_millis(100);

    pub(crate) fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            waits: 0,
            lost: 0,
        }
    }

    /// Waits until `fd` is ready; fails at the deadline. A peer's reset counts as ready.
    fn wait(&mut self, fd: &impl AsFd, flags: PollFlags, what: &'static str) -> Result<()> {
        if self.ready_by(fd, flags, self.deadline)? {
            Ok(())
        } else {
            Err(Error::Stuck { what })
        }
    }

    /// Waits for a datagram; `false` when it is lost.
    fn datagram(&mut self, socket: &UdpSocket) -> Result<bool> {
        let by = self.deadline.min(Instant::now() + Self::LOST_AFTER);
        if self.ready_by(socket, PollFlags::POLLIN, by)? {
            return Ok(true);
        }
        self.lost += 1;
        if self.lost > Self::LOST_MAX {
            return Err(Error::Lost { lost: self.lost });
        }
        Ok(false)
    }

    fn ready_by(&mut self, fd: &impl AsFd, flags: PollFlags, by: Instant) -> Result<bool> {
        self.waits += 1;
        loop {
            sys::check_interrupt()?;
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // Rounded up, else the last millisecond would spin.
            let left = left + Duration::from_millis(1);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(fd.as_fd(), flags)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(Error::sys("poll")(errno)),
            }
        }
    }
}

/// One UDP socket pair; `bytes` in one call, cut into datagrams of `segment` by the kernel.
struct Datagrams {
    client: UdpSocket,
    server: UdpSocket,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Datagrams {
    fn open(ends: &Ends<'_>, bytes: usize, segment: Option<i32>) -> Result<Self> {
        let io = |source| Error::io(format!("UDP sockets for {}", ends.address), source);
        let server = ends
            .server
            .inside(|| UdpSocket::bind((ends.address, 0)))?
            .map_err(io)?;
        let client = UdpSocket::bind((any(ends.address), 0)).map_err(io)?;
        client
            .connect(server.local_addr().map_err(io)?)
            .map_err(io)?;
        setsockopt(&server, sockopt::RcvBufForce, &ROOM).map_err(Error::sys("SO_RCVBUFFORCE"))?;
        setsockopt(&client, sockopt::SndBufForce, &ROOM).map_err(Error::sys("SO_SNDBUFFORCE"))?;
        if let Some(segment) = segment {
            setsockopt(&client, sockopt::UdpGsoSegment, &segment)
                .map_err(Error::sys("UDP_SEGMENT"))?;
            setsockopt(&server, sockopt::UdpGroSegment, &true).map_err(Error::sys("UDP_GRO"))?;
        }
        Ok(Self {
            client,
            server,
            message: vec![0x5a; bytes],
            buffer: vec![0; 1 << 16],
        })
    }

    fn send(&self) -> Result<()> {
        match send(
            self.client.as_raw_fd(),
            &self.message,
            MsgFlags::MSG_DONTWAIT,
        ) {
            // A full queue on the way, or an ICMP error from an earlier datagram: it is lost, and
            // the receiver is the one to say so.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::ECONNREFUSED) => Ok(()),
            Err(errno) => Err(Error::sys("send")(errno)),
        }
    }
}

impl Operation for Datagrams {
    fn once(&mut self, patience: &mut Patience) -> Result<()> {
        self.send()?;
        let mut got = 0;
        while got < self.message.len() {
            match recv(
                self.server.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(n) => got += n,
                Err(Errno::EAGAIN) => {
                    if !patience.datagram(&self.server)? {
                        break;
                    }
                }
                Err(errno) => return Err(Error::sys("recv")(errno)),
            }
        }
        Ok(())
    }
}

/// Tries for `limit` to get a datagram from client to server; fails with the last reason.
pub(crate) fn reach(ends: &Ends<'_>, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let tried = ends.client.inside(|| {
            let pair = Datagrams::open(ends, 64, None)?;
            pair.send()?;
            Patience::until(deadline).datagram(&pair.server)
        })?;
        match tried {
            Ok(true) => return Ok(()),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // The network is unreachable while an interface is still coming up.
            Ok(false) | Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            Ok(false) => {
                return Err(Error::Unreachable {
                    seconds: limit.as_secs(),
                });
            }
            Err(error) => return Err(error),
        }
    }
}

const PAUSE: Duration = Duration::from_millis(20);

/// Room for everything that is under way, so that no sender ever has to wait for it.
const ROOM: usize = 4 << 20;

/// A TCP stream: 64 KiB go in at the client and come out at the server.
struct Stream {
    client: OwnedFd,
    server: TcpStream,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Stream {
    const LENGTH: usize = 64 << 10;

    fn open(ends: &Ends<'_>) -> Result<Self> {
        let (client, server) = connected(ends)?;
        let (message, buffer) = (vec![0x5a; Self::LENGTH], vec![0; Self::LENGTH]);
        Ok(Self {
            client,
            server,
            message,
            buffer,
        })
    }
}

impl Operation for Stream {
    fn once(&mut self, patience: &mut Patience) -> Result<()> {
        let (mut sent, mut got) = (0, 0);
        while got < Self::LENGTH {
            let before = sent + got;
            if let Some(rest) = self.message.get(sent..).filter(|rest| !rest.is_empty()) {
                sent += some(send(self.client.as_raw_fd(), rest, NO_WAIT), "send")?;
            }
            let server = self.server.as_raw_fd();
            got += match recv(server, &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Error::Closed { what: "TCP stream" }),
                read => some(read, "recv")?,
            };
            if sent + got == before {
                patience.wait(&self.server, PollFlags::POLLIN, "TCP stream")?;
            }
        }
        Ok(())
    }
}

/// One byte there, one byte back.
struct RequestAnswer {
    client: OwnedFd,
    server: TcpStream,
}

impl RequestAnswer {
    fn open(ends: &Ends<'_>) -> Result<Self> {
        let (client, server) = connected(ends)?;
        setsockopt(&client, sockopt::TcpNoDelay, &true).map_err(Error::sys("TCP_NODELAY"))?;
        setsockopt(&server, sockopt::TcpNoDelay, &true).map_err(Error::sys("TCP_NODELAY"))?;
        Ok(Self { client, server })
    }
}

impl Operation for RequestAnswer {
    fn once(&mut self, patience: &mut Patience) -> Result<()> {
        byte(&self.client, &self.server, patience)?;
        byte(&self.server, &self.client, patience)
    }
}

/// A connection for each operation.
struct Connect(TcpListener);

impl Operation for Connect {
    fn once(&mut self, patience: &mut Patience) -> Result<()> {
        let client = connect_to(&self.0)?;
        let server = accept(&self.0, patience)?;
        byte(&client, &server, patience)?;
        // A reset: no TIME_WAIT, which would use up the ports and make each connection dearer
        // than the one before.
        let reset = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&client, sockopt::Linger, &reset).map_err(Error::sys("SO_LINGER"))?;
        drop(client);
        // The close has to get there for the operation to be whole.
        loop {
            match recv(server.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::ECONNRESET) => return Ok(()),
                Err(Errno::EAGAIN) => patience.wait(&server, PollFlags::POLLIN, "TCP close")?,
                Ok(_) => return Err(Error::Closed { what: "TCP close" }),
                Err(errno) => return Err(Error::sys("recv")(errno)),
            }
        }
    }
}

const NO_WAIT: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// What a call that would have blocked has done: nothing.
fn some(result: nix::Result<usize>, what: &'static str) -> Result<usize> {
    match result {
        Ok(n) => Ok(n),
        Err(Errno::EAGAIN) => Ok(0),
        Err(errno) => Err(Error::sys(what)(errno)),
    }
}

/// One byte from one socket to the other.
fn byte(from: &impl AsFd, to: &impl AsFd, patience: &mut Patience) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    while some(send(from.as_raw_fd(), &[0x5a], NO_WAIT), "send")? == 0 {
        patience.wait(&from, PollFlags::POLLOUT, "TCP byte")?;
    }
    loop {
        match recv(to.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(Error::Closed { what: "TCP byte" }),
            Ok(_) => return Ok(()),
            Err(Errno::EAGAIN) => patience.wait(&to, PollFlags::POLLIN, "TCP byte")?,
            Err(errno) => return Err(Error::sys("recv")(errno)),
        }
    }
}

fn listen(ends: &Ends<'_>) -> Result<TcpListener> {
    let io = |source: io::Error| Error::io(format!("listen on {}", ends.address), source);
    let listener = ends
        .server
        .inside(|| TcpListener::bind((ends.address, 0)))?
        .map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    Ok(listener)
}

/// An open connection, client end first.
fn connected(ends: &Ends<'_>) -> Result<(OwnedFd, TcpStream)> {
    let mut patience = Patience::until(Instant::now() + Duration::from_secs(5));
    let listener = listen(ends)?;
    setsockopt(&listener, sockopt::RcvBufForce, &ROOM).map_err(Error::sys("SO_RCVBUFFORCE"))?;
    let client = connect_to(&listener)?;
    setsockopt(&client, sockopt::SndBufForce, &ROOM).map_err(Error::sys("SO_SNDBUFFORCE"))?;
    Ok((client, accept(&listener, &mut patience)?))
}

/// Starts to connect, from the thread's namespace to a listener in another. Normally the handshake
/// is over when this returns; where it is not, [`accept`] waits.
fn connect_to(listener: &TcpListener) -> Result<OwnedFd> {
    let to = listener
        .local_addr()
        .map_err(|source| Error::io("listener", source))?;
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client = socket(family, SockType::Stream, flags, None).map_err(Error::sys("socket"))?;
    match connect(client.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(client),
        Err(errno) => Err(Error::sys("connect")(errno)),
    }
}

fn accept(listener: &TcpListener, patience: &mut Patience) -> Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, SocketAddr::V4(_) | SocketAddr::V6(_))) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                patience.wait(listener, PollFlags::POLLIN, "TCP accept")?;
            }
            Err(source) => return Err(Error::io("accept", source)),
        }
    }
}

fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
