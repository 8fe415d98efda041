//! Packet sockets, packet(7), and an option of UDP. All `unsafe` of this crate is here.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// What came, and what the kernel said of it.
pub(crate) struct Datagram {
    pub(crate) len: usize,
    /// One of `PACKET_*`: to us, to all, from us.
    pub(crate) kind: u8,
    /// The interface that it came by.
    pub(crate) interface: u32,
    /// Type and control information of a VLAN tag that the kernel took out of the frame.
    pub(crate) vlan: Option<(u16, u16)>,
}

/// Binds a packet socket to one interface and all protocols.
pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: u32) -> Result<(), Errno> {
    bind_to(fd, ifindex, ETH_P_ALL)
}

/// Binds a packet socket to one interface and one protocol.
pub(crate) fn bind_to(fd: BorrowedFd<'_>, ifindex: u32, protocol: u16) -> Result<(), Errno> {
    let address = link_layer(ifindex, protocol);
    // SAFETY: the pointer is to a local that outlives the call, and its length is beside it.
    let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) };
    Errno::result(done).map(drop)
}

/// Sends a frame of this EtherType by an interface.
pub(crate) fn send_to(
    fd: BorrowedFd<'_>,
    ifindex: u32,
    protocol: u16,
    frame: &[u8],
) -> Result<(), Errno> {
    let address = link_layer(ifindex, protocol);
    // SAFETY: both pointers are to what outlives the call, and their lengths are beside them.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            ADDRESS_LEN,
        )
    };
    Errno::result(sent).map(drop)
}

fn link_layer(ifindex: u32, protocol: u16) -> libc::sockaddr_ll {
    // SAFETY: sockaddr_ll is a C struct of integers; all zeroes is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    address
}

/// Leaves the checksum out of each datagram over IPv6.
pub(crate) fn leave_checksum_out(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch_on(fd, libc::IPPROTO_UDP, UDP_NO_CHECK6_TX)
}

/// Switches an integer option on.
fn switch_on(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a local int that outlives the call, and its length is beside it.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            INT_LEN,
        )
    };
    Errno::result(done).map(drop)
}

/// Asks for the VLAN tag of each frame.
pub(crate) fn want_vlan(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch_on(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA)
}

/// Asks for a `virtio_net_hdr` in front of each frame, in both directions.
pub(crate) fn want_offload_header(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch_on(fd, libc::SOL_PACKET, PACKET_VNET_HDR)
}

/// Asks for frames to go past the interface's queue.
pub(crate) fn bypass_queue(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch_on(fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS)
}

/// `recvmsg(2)` that does not wait.
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<Datagram, Errno> {
    // Of u64 so that it is aligned for a cmsghdr.
    let mut control = [0u64; CONTROL_LEN as usize / size_of::<u64>()];
    let mut iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: sockaddr_ll and msghdr are C structs of integers and pointers; all zeroes is a value
    // of both.
    let (mut from, mut msg): (libc::sockaddr_ll, libc::msghdr) = unsafe { mem::zeroed() };
    msg.msg_name = (&raw mut from).cast();
    msg.msg_namelen = ADDRESS_LEN;
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = CONTROL_LEN.into();
    // SAFETY: every pointer in msg is to a local or to buf, all of which outlive the call, with the
    // length of what it points to beside it. They are writable and not otherwise borrowed meanwhile.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, libc::MSG_DONTWAIT) };
    let len = Errno::result(len)?.cast_unsigned();

    let mut vlan = None;
    // SAFETY: msg was filled by a recvmsg that succeeded; msg_control still points to control, which
    // is alive, and msg_controllen was set by the kernel to what it wrote there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const msg) };
    while !next.is_null() {
        // SAFETY: next is not null and comes from CMSG_FIRSTHDR or CMSG_NXTHDR, which answer only
        // headers that lie as a whole inside control; control is aligned for one.
        let header = unsafe { ptr::read(next) };
        if header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == libc::PACKET_AUXDATA {
            // SAFETY: a control message of this type is one tpacket_auxdata (packet_recvmsg() in
            // net/packet/af_packet.c); read_unaligned asks for no alignment, and it is integers.
            let aux = unsafe {
                ptr::read_unaligned(libc::CMSG_DATA(next).cast::<libc::tpacket_auxdata>())
            };
            if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                vlan = Some((aux.tp_vlan_tpid, aux.tp_vlan_tci));
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR, and next is a header of this very message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const msg, next) };
    }
    Ok(Datagram {
        len,
        kind: from.sll_pkttype,
        interface: from.sll_ifindex.cast_unsigned(),
        vlan,
    })
}

/// `TUNSETIFF`: makes `fd`, an open `/dev/net/tun`, the far side of a tap interface of this name in
/// the calling thread's namespace. Frames go without a header in front, unless `flags` says so.
pub(crate) fn tap(fd: BorrowedFd<'_>, name: &str, flags: libc::c_short) -> Result<(), Errno> {
    // SAFETY: ifreq is a C struct of integers and a union of such; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let bytes = name.as_bytes();
    // One byte stays 0, the string's end.
    if bytes.len() >= request.ifr_name.len() {
        return Err(Errno::EINVAL);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = IFF_TAP_NO_PI | flags;
    // SAFETY: the request reads and writes one ifreq, which is a local that outlives the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) };
    Errno::result(done).map(drop)
}

/// `TUNSETIFF` of linux/if_tun.h: `_IOW('T', 202, int)`.
const TUNSETIFF: libc::Ioctl = nix::request_code_write!(b'T', 202, size_of::<libc::c_int>());
/// `TUNSETOFFLOAD`: says that whoever reads and writes here leaves checksums and segments to others,
/// and takes what others have left.
pub(crate) fn want_offload(tap: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: this request takes its argument as a number and touches no memory of the caller.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, CSUM_TSO4_TSO6_ECN) };
    Errno::result(done).map(drop)
}

/// `_IOW('T', 208, unsigned int)`.
const TUNSETOFFLOAD: libc::Ioctl = nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>());
/// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`, `TUN_F_TSO_ECN`.
const CSUM_TSO4_TSO6_ECN: libc::c_ulong = 0xf;
/// A `virtio_net_hdr` is in front of each frame.
pub(crate) const IFF_VNET_HDR: libc::c_short = 0x4000;
/// It is opened once for each queue.
pub(crate) const IFF_MULTI_QUEUE: libc::c_short = 0x0100;
/// Gives the calling thread, and no other, the user id `user`, and so takes its capabilities.
pub(crate) fn become_user(user: u32) -> Result<(), Errno> {
    // SAFETY: the call takes three numbers and touches no memory of the caller. That other threads of
    // this process are somebody else is what is wanted.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) };
    Errno::result(done).map(drop)
}

/// `IFF_TAP` and `IFF_NO_PI`.
const IFF_TAP_NO_PI: libc::c_short = 0x1002;
/// Loads an XDP program that drops every frame. The verifier sees two instructions.
pub(crate) fn load_xdp_drop() -> Result<OwnedFd, Errno> {
    // r0 = XDP_DROP; exit.
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"GPL";
    let (at, license) = (program.as_ptr() as u64, license.as_ptr() as u64);
    // prog_type XDP and insn_cnt, then the two pointers; the rest is optional.
    let attr: [u64; 6] = [bpf_words(6, 2), at, license, 0, 0, 0];
    bpf(BPF_PROG_LOAD, &attr)
}

/// Holds an XDP program at an interface, in generic mode: what works with any driver, and with
/// frames that no driver received. It goes with the link.
pub(crate) fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd, Errno> {
    const BPF_XDP: u32 = 37;
    const SKB_MODE: u32 = 2;
    let program = program.as_raw_fd().cast_unsigned();
    let attr = [bpf_words(program, ifindex), bpf_words(BPF_XDP, SKB_MODE)];
    bpf(BPF_LINK_CREATE, &attr)
}

/// Two numbers that are side by side in memory.
fn bpf_words(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// bpf(2), for the commands that answer with a descriptor.
fn bpf(command: libc::c_int, attr: &[u64]) -> Result<OwnedFd, Errno> {
    // SAFETY: the pointer is to a slice that outlives the call, and its size is beside it. What the
    // pointers in it lead to is constant or alive in the caller.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    let fd = libc::c_int::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: these commands answer with a new descriptor, that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;

/// `PACKET_VNET_HDR` of linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;
/// `PACKET_QDISC_BYPASS` of linux/if_packet.h.
const PACKET_QDISC_BYPASS: libc::c_int = 20;
/// The only control message needs `CMSG_SPACE(20)`, 40 bytes. A u8 because the field for it is a
/// u32 with musl and a usize with glibc.
const CONTROL_LEN: u8 = 64;
/// Of linux/udp.h.
const UDP_NO_CHECK6_TX: libc::c_int = 101;
const ETH_P_ALL: u16 = 3;
const AF_PACKET: u16 = 17;
#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
const INT_LEN: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;
