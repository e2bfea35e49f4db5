//! bpf(2), as far as it is used: commands on maps, and names in the BPF file system.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

/// Commands of `enum bpf_cmd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Command {
    Lookup = 1,
    Update = 2,
    Delete = 3,
    PinObject = 6,
    GetObject = 7,
    GetInfo = 15,
    LookupBatch = 24,
    UpdateBatch = 26,
    DeleteBatch = 27,
}

/// `union bpf_attr` for one element of a map.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct ElementAttributes {
    pub(super) map: u32,
    pub(super) padding: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// `union bpf_attr` for many elements of a map.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct BatchAttributes {
    pub(super) from: u64,
    pub(super) next: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map: u32,
    pub(super) element_flags: u64,
    pub(super) flags: u64,
}

/// `union bpf_attr` for names.
#[derive(Debug, Default)]
#[repr(C)]
struct NameAttributes {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` for what is known of an object.
#[derive(Debug, Default)]
#[repr(C)]
struct InfoAttributes {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_map_info`.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct MapInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

/// Calls bpf(2).
///
/// # Safety
/// The attributes have to be those of the command, and what they point at has to be as long as the command
/// takes it to be.
pub(super) unsafe fn bpf<T>(command: Command, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: The kernel reads and writes no more of the attributes than their length; the rest is promised
    // by the caller.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A file descriptor as attributes have it.
pub(super) fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("open file descriptors are positive")
}

/// What is known of a map.
pub(super) fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attributes = InfoAttributes {
        fd: number(fd),
        length: u32::try_from(size_of::<MapInfo>()).expect("it is short"),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` is as long as is said.
    unsafe { bpf(Command::GetInfo, &mut attributes)? };
    Ok(info)
}

/// Gives an object a name in the BPF file system.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes =
        NameAttributes { path: path.as_ptr() as u64, fd: number(fd), ..NameAttributes::default() };
    // SAFETY: The path ends with a zero and outlives the call.
    unsafe { bpf(Command::PinObject, &mut attributes) }.map(drop)
}

/// Opens what has this name in the BPF file system.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = NameAttributes { path: path.as_ptr() as u64, ..NameAttributes::default() };
    // SAFETY: The path ends with a zero and outlives the call.
    let fd = unsafe { bpf(Command::GetObject, &mut attributes)? };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: The kernel has just opened it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The beginning of `struct bpf_link_info`, for a link to a cgroup.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct LinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) program: u32,
    padding: u32,
    /// The id of a cgroup, or in the first half the index of a device; 0 once it is detached.
    place: [u32; 2],
    attach_type: u32,
    padding_at_end: u32,
}

/// `BPF_LINK_TYPE_TCX`.
const TCX: u32 = 11;

impl LinkInfo {
    pub(super) fn is_attached(&self) -> bool {
        match self.kind {
            TCX => self.place[0] != 0,
            _ => self.place != [0; 2],
        }
    }
}

/// What is known of a link.
pub(super) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attributes = InfoAttributes {
        fd: number(fd),
        length: u32::try_from(size_of::<LinkInfo>()).expect("it is short"),
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` is as long as is said.
    unsafe { bpf(Command::GetInfo, &mut attributes)? };
    Ok(info)
}
