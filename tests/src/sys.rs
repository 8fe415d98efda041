//! Packet sockets, packet(7). All `unsafe` of this crate is here.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;

/// What came, and what the kernel said of it.
pub(crate) struct Datagram {
    pub(crate) len: usize,
    /// One of `PACKET_*`: to us, to all, from us.
    pub(crate) kind: u8,
    /// Type and control information of a VLAN tag that the kernel took out of the frame.
    pub(crate) vlan: Option<(u16, u16)>,
}

/// Binds a packet socket to one interface and all protocols.
pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: u32) -> Result<(), Errno> {
    // SAFETY: sockaddr_ll is a C struct of integers; all zeroes is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the pointer is to a local that outlives the call, and its length is beside it.
    let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) };
    Errno::result(done).map(drop)
}

/// Switches an integer option of level `SOL_PACKET` on.
fn switch_on(fd: BorrowedFd<'_>, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a local int that outlives the call, and its length is beside it.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            INT_LEN,
        )
    };
    Errno::result(done).map(drop)
}

/// Asks for the VLAN tag of each frame.
pub(crate) fn want_vlan(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch_on(fd, libc::PACKET_AUXDATA)
}

/// Asks for a `virtio_net_hdr` in front of each frame, in both directions.
pub(crate) fn want_offload_header(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    switch_on(fd, PACKET_VNET_HDR)
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
        vlan,
    })
}

/// `PACKET_VNET_HDR` of linux/if_packet.h.
const PACKET_VNET_HDR: libc::c_int = 15;
/// The only control message needs `CMSG_SPACE(20)`, 40 bytes. A u8 because the field for it is a
/// u32 with musl and a usize with glibc.
const CONTROL_LEN: u8 = 64;
const ETH_P_ALL: u16 = 3;
const AF_PACKET: u16 = 17;
#[expect(clippy::cast_possible_truncation, reason = "20 bytes")]
const ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "4 bytes")]
const INT_LEN: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;
