//! What aya does not offer of bpf(2): what a tcx link holds on to, and the beginning of a value whose
//! size only the map itself knows.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

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

/// The `elem` arm.
#[repr(C)]
struct ElemAttr {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// The interface that the tcx link pinned at `path` holds on to; 0 when that interface is gone.
pub(crate) fn tcx_link_ifindex(path: &Path) -> io::Result<u32> {
    // `bpf_link_info`: type, id, program, padding, and of tcx: ifindex, attach type.
    match info(&open_pin(path)?)? {
        [BPF_LINK_TYPE_TCX, _, _, _, ifindex, _] => Ok(ifindex),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// The first four bytes of the first value of the array pinned at `path`, however large its values are.
pub(crate) fn first_word(path: &Path) -> io::Result<u32> {
    let map = open_pin(path)?;
    // `bpf_map_info`: type, id, key size, value size, capacity, flags.
    let [BPF_MAP_TYPE_ARRAY, _, 4, value_size, _, _] = info(&map)? else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let key = 0_u32;
    let mut value = vec![0_u32; (value_size as usize).div_ceil(4)];
    let attr = ElemAttr {
        map: number_of(&map)?,
        padding: 0,
        key: (&raw const key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the command reads `size_of::<ElemAttr>()` bytes of `attr`, which is that large and
    // initialised, and the 4 bytes of `key`, for the map's keys are that large. It writes as many
    // bytes as the map's values have, `value_size`, to `value`, which has no fewer, is alive and not
    // borrowed during the call. (Only in maps by CPU a value is larger than that, and this is none.)
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_ELEM,
            &raw const attr,
            size_of::<ElemAttr>(),
        )
    };
    match (result, &value[..]) {
        (0, [first, ..]) => Ok(*first),
        (0, []) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the kernel tells of an object: the first six numbers of it.
fn info(object: &OwnedFd) -> io::Result<[u32; 6]> {
    let mut info = [0; 6];
    let mut attr = InfoAttr {
        fd: number_of(object)?,
        len: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the command reads `size_of::<InfoAttr>()` bytes of `attr`, which is that large and
    // initialised, and writes at most `attr.len` bytes to `attr.info`, which is `info`, alive and
    // not borrowed during the call. Any bytes are numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut attr,
            size_of::<InfoAttr>(),
        )
    };
    match result {
        0 => Ok(info),
        _ => Err(io::Error::last_os_error()),
    }
}

fn number_of(object: &OwnedFd) -> io::Result<u32> {
    u32::try_from(object.as_raw_fd()).map_err(io::Error::other)
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
