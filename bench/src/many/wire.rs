//! The LAN's end of the wire: ARP and ICMP echo as raw frames.
//!
//! Raw rather than through the LAN's stack, so that each frame is one that we asked for, and the
//! kernel's neighbour table, which all namespaces share, is not filled with N more entries.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use crate::error::{Error, Result};
use crate::sys;

type Mac = [u8; 6];

#[derive(Debug)]
pub(crate) struct Wire {
    arp: OwnedFd,
    ip: OwnedFd,
    mac: Mac,
    address: Ipv4Addr,
}

/// Somebody who answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbour {
    address: Ipv4Addr,
    mac: Mac,
}

const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;

/// What an exchange had to wait for.
#[derive(Debug, Default)]
pub(super) struct Waits {
    pub(super) waits: u32,
    pub(super) lost: u32,
}

impl Wire {
    /// On a link of the thread's namespace, which has this address.
    pub(super) fn open(link: u32, mac: Mac, address: Ipv4Addr) -> Result<Self> {
        let wire = Self {
            arp: sys::packet_socket(ETH_P_ARP, link)?,
            ip: sys::packet_socket(ETH_P_IP, link)?,
            mac,
            address,
        };
        for socket in [&wire.arp, &wire.ip] {
            setsockopt(socket, sockopt::RcvBufForce, &(4 << 20))
                .map_err(Error::sys("SO_RCVBUFFORCE"))?;
        }
        Ok(wire)
    }

    /// Asks who has the address; waits for the answer. What an ARP request costs.
    pub(super) fn exchange(&self, who: Ipv4Addr, waits: &mut Waits) -> Result<()> {
        self.who_has(who)?;
        let deadline = Instant::now() + LOST_AFTER;
        loop {
            match self.answer()? {
                Some(answer) if answer.address == who => return Ok(()),
                Some(_) => {}
                None => {
                    waits.waits += 1;
                    if !ready(&self.arp, deadline)? {
                        waits.lost += 1;
                        return if waits.lost > LOST_MAX {
                            Err(Error::Stuck { what: "ARP" })
                        } else {
                            Ok(())
                        };
                    }
                }
            }
        }
    }

    /// Asks again and again until somebody answers; `false` when nobody does within the limit.
    pub(super) fn ask_until(&self, who: Ipv4Addr, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            self.who_has(who)?;
            let again = Instant::now() + AGAIN;
            loop {
                match self.answer()? {
                    Some(answer) if answer.address == who => return Ok(true),
                    Some(_) => {}
                    None if !ready(&self.arp, again)? => break,
                    None => {}
                }
            }
        }
        Ok(false)
    }

    /// Asks for all addresses, again for those who did not answer, until the limit.
    pub(super) fn ask_all(&self, all: &[Ipv4Addr], limit: Duration) -> Result<Vec<Neighbour>> {
        let deadline = Instant::now() + limit;
        let mut found: Vec<Neighbour> = Vec::new();
        while found.len() < all.len() && Instant::now() < deadline {
            for &address in all {
                if found.iter().any(|known| known.address == address) {
                    continue;
                }
                self.who_has(address)?;
                let until = Instant::now() + SWEEP;
                while let Some(answer) = self.answer_by(until)? {
                    let known = |known: &Neighbour| known.address == answer.address;
                    if all.contains(&answer.address) && !found.iter().any(known) {
                        found.push(answer);
                    }
                    if answer.address == address {
                        break;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Sends each an echo request, again where no answer came, until the limit; how many answered.
    pub(super) fn ping_all(&self, all: &[Neighbour], limit: Duration) -> Result<usize> {
        let deadline = Instant::now() + limit;
        let mut silent: Vec<Neighbour> = all.to_vec();
        while !silent.is_empty() && Instant::now() < deadline {
            for one in silent.clone() {
                put(&self.ip, &echo_request(self.mac, self.address, one))?;
                let until = Instant::now() + SWEEP;
                while let Some(from) = self.echo_by(until)? {
                    silent.retain(|other| other.address != from);
                    if from == one.address {
                        break;
                    }
                }
            }
        }
        Ok(all.len() - silent.len())
    }

    fn who_has(&self, who: Ipv4Addr) -> Result<()> {
        put(&self.arp, &arp_request(self.mac, self.address, who))
    }

    /// The next answer that has already arrived.
    fn answer(&self) -> Result<Option<Neighbour>> {
        next(&self.arp, parse_arp)
    }

    fn answer_by(&self, deadline: Instant) -> Result<Option<Neighbour>> {
        loop {
            match self.answer()? {
                None if ready(&self.arp, deadline)? => {}
                answer => return Ok(answer),
            }
        }
    }

    fn echo_by(&self, deadline: Instant) -> Result<Option<Ipv4Addr>> {
        loop {
            match next(&self.ip, parse_echo)? {
                None if ready(&self.ip, deadline)? => {}
                answer => return Ok(answer),
            }
        }
    }
}

/// How long a single answer may take before it is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);
const LOST_MAX: u32 = 20;
/// How often to ask for an address that does not answer yet: the resolution of what is measured.
const AGAIN: Duration = Duration::from_micros(500);
/// How long to wait before asking the next one.
const SWEEP: Duration = Duration::from_millis(50);

fn put(socket: &OwnedFd, frame: &[u8]) -> Result<()> {
    match send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
        // Full queues: lost on the way, and whoever waits for the answer asks again.
        Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(Error::sys("send")(errno)),
    }
}

/// The next frame that `parse` takes, of those that have already arrived.
fn next<T>(socket: &OwnedFd, parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>> {
    let mut buffer = [0; 128];
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => {
                if let Some(found) = buffer.get(..length).and_then(&parse) {
                    return Ok(Some(found));
                }
            }
            Err(Errno::EAGAIN) => return Ok(None),
            Err(errno) => return Err(Error::sys("recv")(errno)),
        }
    }
}

/// Waits for something to read; `false` at the deadline. Unlike poll, to the microsecond.
fn ready(socket: &OwnedFd, deadline: Instant) -> Result<bool> {
    loop {
        sys::check_interrupt()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from(left)), None) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(Error::sys("ppoll")(errno)),
        }
    }
}

fn arp_request(mac: Mac, from: Ipv4Addr, who: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ETH_P_ARP);
    // Ethernet, IPv4, 6 and 4 bytes long, a request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(from.octets());
    frame.extend([0; 6]);
    frame.extend(who.octets());
    frame
}

fn parse_arp(frame: &[u8]) -> Option<Neighbour> {
    let arp = frame.get(14..)?;
    if *arp.first_chunk()? != [0, 1, 8, 0, 6, 4, 0, 2] {
        return None;
    }
    Some(Neighbour {
        mac: *arp.get(8..)?.first_chunk()?,
        address: Ipv4Addr::from(*arp.get(14..)?.first_chunk::<4>()?),
    })
}

/// What our echo requests carry, so that nobody else's answer counts.
const IDENT: [u8; 4] = *b"ipvl";

fn echo_request(mac: Mac, from: Ipv4Addr, to: Neighbour) -> Vec<u8> {
    let mut echo = [8, 0, 0, 0, 0, 0, 0, 0];
    echo[4..].copy_from_slice(&IDENT);
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum);

    let mut header = [
        0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.address.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);

    let mut frame = ethernet(to.mac, mac, ETH_P_IP);
    frame.extend(header);
    frame.extend(echo);
    frame
}

fn parse_echo(frame: &[u8]) -> Option<Ipv4Addr> {
    let ip = frame.get(14..)?;
    let icmp = ip.get(20..28)?;
    // No options, ICMP; an echo reply.
    if ip.first() != Some(&0x45) || ip.get(9) != Some(&1) || icmp.first() != Some(&0) {
        return None;
    }
    let address = Ipv4Addr::from(*ip.get(12..)?.first_chunk::<4>()?);
    (icmp.get(4..) == Some(&IDENT)).then_some(address)
}

fn ethernet(to: Mac, from: Mac, protocol: u16) -> Vec<u8> {
    [&to[..], &from, &protocol.to_be_bytes()].concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|pair| match pair {
        &[high, low] => u32::from(u16::from_be_bytes([high, low])),
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
    const THEM: Neighbour = Neighbour {
        address: Ipv4Addr::new(10, 77, 1, 1),
        mac: [2, 0, 0, 0, 0, 9],
    };

    #[test]
    fn only_an_answer_counts_not_a_request() {
        let mut frame = arp_request(THEM.mac, THEM.address, US);
        assert_eq!(frame.len(), 42);
        assert!(parse_arp(&frame).is_none(), "a request says nothing");
        frame[21] = 2;
        let found = parse_arp(&frame).unwrap();
        assert_eq!((found.address, found.mac), (THEM.address, THEM.mac));
        assert!(parse_arp(&frame[..30]).is_none(), "cut short");
    }

    #[test]
    fn an_echo_request_has_right_sums_and_its_answer_is_known() {
        let mut frame = echo_request([2; 6], US, THEM);
        assert_eq!(checksum(&frame[14..34]), [0, 0], "header");
        assert_eq!(checksum(&frame[34..]), [0, 0], "message");
        assert_eq!(parse_echo(&frame), None, "our own request");
        frame[34] = 0;
        assert_eq!(parse_echo(&frame), Some(US));
        frame[38] ^= 1;
        assert_eq!(parse_echo(&frame), None, "somebody else's");
    }
}
