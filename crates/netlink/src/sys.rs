//! System calls that nix does not have, or whose answer it does not give. All `unsafe` is here.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;

use crate::tap::NewTap;

/// `NS_GET_NSTYPE` of linux/nsfs.h: `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = nix::request_code_none!(0xb7, 3);

/// One datagram from a netlink socket.
pub(crate) struct Datagram {
    pub(crate) len: usize,
    /// It did not fit the buffer; the rest is lost.
    pub(crate) truncated: bool,
    /// Port of the sender. The kernel is 0.
    pub(crate) port: u32,
    /// The namespace it comes from (`NETLINK_LISTEN_ALL_NSID`). None: one that has no id here,
    /// which is then the socket's own.
    pub(crate) nsid: Option<i32>,
}

/// `recvmsg(2)` with the sender and the `NETLINK_LISTEN_ALL_NSID` control message.
///
/// nix knows no such control message and drops its data.
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<Datagram, Errno> {
    // Of u64 so that it is aligned for a cmsghdr.
    let mut control = [0u64; CONTROL_LEN as usize / size_of::<u64>()];
    let mut iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: sockaddr_nl and msghdr are C structs of integers and pointers; all zeroes is a value
    // of both.
    let (mut from, mut msg): (libc::sockaddr_nl, libc::msghdr) = unsafe { mem::zeroed() };
    msg.msg_name = (&raw mut from).cast();
    msg.msg_namelen = SOCKADDR_NL_LEN;
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = CONTROL_LEN.into();
    // SAFETY: every pointer in msg is to a local or to buf, all of which outlive the call, with the
    // length of what it points to beside it: from and SOCKADDR_NL_LEN, iov and 1, buf and its len,
    // control and CONTROL_LEN. They are writable and not otherwise borrowed during the call.
    let len = Errno::result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, 0) })?;

    let mut nsid = None;
    // SAFETY: msg was filled by a recvmsg that succeeded; msg_control still points to control,
    // which is alive, and msg_controllen was set by the kernel to what it wrote there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const msg) };
    while !next.is_null() {
        // SAFETY: next is not null and comes from CMSG_FIRSTHDR or CMSG_NXTHDR, which answer only
        // headers that lie as a whole inside control; control is aligned for one.
        let header = unsafe { ptr::read(next) };
        if header.cmsg_level == libc::SOL_NETLINK
            && header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID
        {
            // SAFETY: a control message of this type is one int (netlink_cmsg_listen_all_nsid() in
            // net/netlink/af_netlink.c), so 4 bytes are readable behind the header; read_unaligned
            // asks for no alignment, and any bit pattern is an i32.
            nsid = Some(unsafe { ptr::read_unaligned(libc::CMSG_DATA(next).cast::<i32>()) });
        }
        // SAFETY: as for CMSG_FIRSTHDR, and next is a header of this very message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const msg, next) };
    }
    Ok(Datagram {
        // Errno::result() has taken the only negative number away.
        len: len.cast_unsigned(),
        truncated: msg.msg_flags & libc::MSG_TRUNC != 0,
        port: from.nl_pid,
        nsid,
    })
}

/// The only control message needs `CMSG_SPACE(4)`, 24 bytes. A u8 because the field for it is a
/// u32 with musl and a usize with glibc.
const CONTROL_LEN: u8 = 64;

#[expect(clippy::cast_possible_truncation, reason = "12 bytes")]
const SOCKADDR_NL_LEN: libc::socklen_t = size_of::<libc::sockaddr_nl>() as libc::socklen_t;

/// `SO_NETNS_COOKIE`: the cookie of the namespace a socket belongs to. Linux 5.14.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    const LEN: libc::socklen_t = 8;
    let mut cookie = 0u64;
    let mut len = LEN;
    // SAFETY: cookie is 8 writable bytes and len says so; both are locals that outlive the call.
    // Any bit pattern is a u64.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    let _: libc::c_int = Errno::result(done)?;
    if len == LEN {
        Ok(cookie)
    } else {
        Err(Errno::EINVAL)
    }
}

/// Binds a packet socket to one interface and to no protocol: it sends there, and hears nothing.
pub(crate) fn bind_packet(socket: BorrowedFd<'_>, ifindex: u32) -> Result<(), Errno> {
    // SAFETY: sockaddr_ll is a C struct of integers; all zeroes is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = AF_PACKET;
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the pointer is to a local that outlives the call, and its length is beside it; the
    // kernel only reads it.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            SOCKADDR_LL_LEN,
        )
    };
    Errno::result(done).map(drop)
}

const AF_PACKET: libc::sa_family_t = 17;
#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const SOCKADDR_LL_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

/// Makes `fd`, an open `/dev/net/tun`, the far side of a tap, and returns the tap's name. It reads and
/// writes each frame with a `virtio_net_hdr` in front, as whoever opens it next may change.
pub(crate) fn tap(fd: BorrowedFd<'_>, new: &NewTap<'_>) -> Result<String, Errno> {
    if let Some(index) = new.index {
        let index: libc::c_uint = index;
        // SAFETY: this request reads one unsigned int, a local that outlives the call.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFINDEX, &raw const index) };
        let _: libc::c_int = Errno::result(done)?;
    }
    // SAFETY: ifreq is a C struct of integers and a union of such; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // An IfName is shorter than the field, so a 0 is left at the end.
    for (to, from) in request.ifr_name.iter_mut().zip(new.name.as_str().bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let queues = if new.multi_queue { IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL | queues;
    // SAFETY: this request reads and writes one ifreq, a local that outlives the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) };
    let _: libc::c_int = Errno::result(done)?;
    for (request, number) in [(TUNSETOWNER, new.owner), (TUNSETGROUP, new.group)] {
        if let Some(number) = number {
            set_tap(fd, request, number.into())?;
        }
    }
    let name = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]);
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).map_err(|_| Errno::EINVAL)
}

/// Lets the tap behind `fd` stay when nobody has it open.
pub(crate) fn keep_tap(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    set_tap(fd, TUNSETPERSIST, 1)
}

/// A request of linux/if_tun.h whose argument is a number and no pointer, whatever its code says.
fn set_tap(fd: BorrowedFd<'_>, request: libc::Ioctl, number: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the requests that come here (TUNSETOWNER, TUNSETGROUP, TUNSETPERSIST) take their argument
    // as a number and touch no memory of the caller (`__tun_chr_ioctl()` in drivers/net/tun.c).
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, number) };
    Errno::result(done).map(drop)
}

// linux/if_tun.h
const INT: usize = size_of::<libc::c_int>();
const TUNSETIFF: libc::Ioctl = nix::request_code_write!(b'T', 202, INT);
const TUNSETPERSIST: libc::Ioctl = nix::request_code_write!(b'T', 203, INT);
const TUNSETOWNER: libc::Ioctl = nix::request_code_write!(b'T', 204, INT);
const TUNSETGROUP: libc::Ioctl = nix::request_code_write!(b'T', 206, INT);
const TUNSETIFINDEX: libc::Ioctl = nix::request_code_write!(b'T', 218, INT);
const IFF_TAP: libc::c_short = 0x0002;
const IFF_MULTI_QUEUE: libc::c_short = 0x0100;
const IFF_NO_PI: libc::c_short = 0x1000;
const IFF_VNET_HDR: libc::c_short = 0x4000;
/// One that exists is not opened instead.
const IFF_TUN_EXCL: libc::c_short = i16::MIN;

/// `NS_GET_NSTYPE`: the `CLONE_NEW*` flag of the namespace behind `fd`. `ENOTTY`: it is none.
pub(crate) fn ns_type(fd: BorrowedFd<'_>) -> Result<libc::c_int, Errno> {
    // SAFETY: this request has no argument and touches no memory of the caller.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) })
}
