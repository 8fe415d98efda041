//! `BPF_OBJ_GET_INFO_BY_FD` for a tcx link: aya reads the information but not this part of it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `bpf_link_info` up to the tcx part (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    tcx_ifindex: u32,
    tcx_attach_type: u32,
}

/// The `info` arm of `union bpf_attr`.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// The `pin` arm of `union bpf_attr`.
#[repr(C)]
struct ObjAttr {
    pathname: u64,
    fd: u32,
    flags: u32,
}

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// The interface that the tcx link pinned at `path` holds on to; 0 when that interface is gone.
pub(crate) fn tcx_link_ifindex(path: &Path) -> io::Result<u32> {
    let link = open_pin(path)?;
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the command reads `size_of::<InfoAttr>()` bytes of `attr`, which is that large and
    // initialised, and writes at most `attr.len` bytes to `attr.info`, which is `info`, alive and
    // not borrowed during the call. Any bytes are a LinkInfo.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attr,
            size_of::<InfoAttr>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if info.kind != BPF_LINK_TYPE_TCX {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(info.tcx_ifindex)
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr {
        pathname: name.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the command reads `size_of::<ObjAttr>()` bytes of `attr`, which is that large and
    // initialised, and the string at `pathname`, which ends in NUL and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw mut attr,
            size_of::<ObjAttr>(),
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
