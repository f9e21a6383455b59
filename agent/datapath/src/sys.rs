// SPDX-License-Identifier: Apache-2.0
//! System calls that no crate here wraps: `bpf(2)` for single and batched map operations, pinned objects
//! and replacing the program of a link, the cookie of a network namespace, and giving memory back.
//!
//! The only `unsafe` of this crate. No decisions: each function is one call. Used by `maps` and `load`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use knarr_ebpf_common::Plain;

/// Commands of `bpf(2)`, from linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ObjectGet = 7,
    ObjectInfo = 15,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkUpdate = 29,
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// Head of `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapShape {
    pub(crate) map_type: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) map_flags: u32,
}

/// Head of `struct bpf_link_info`; `target` is the cgroup's id for cgroup links, and its low half the
/// link index for TCX links.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub(crate) link_type: u32,
    pub(crate) id: u32,
    pub(crate) program_id: u32,
    pub(crate) padding: u32,
    pub(crate) target: u64,
    pub(crate) attach_type: u32,
    pub(crate) reserved: u32,
}

fn bpf<T>(command: Command, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is one of the structures above, laid out as the command wants it, and the kernel is
    // told its size; pointers inside lead to buffers that the callers borrow for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as u32,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

fn own(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Opens a pinned object.
pub(crate) fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr {
        path: path.as_ptr() as u64,
        ..ObjectAttr::default()
    };
    bpf(Command::ObjectGet, &mut attr).map(own)
}

/// Type and sizes of a map.
pub(crate) fn map_shape(fd: BorrowedFd<'_>) -> io::Result<MapShape> {
    let mut shape = MapShape::default();
    info(fd, &mut shape)?;
    Ok(shape)
}

/// What a link attaches, and to what.
pub(crate) fn link_info(fd: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut link = LinkInfo::default();
    info(fd, &mut link)?;
    Ok(link)
}

fn info<T>(fd: BorrowedFd<'_>, into: &mut T) -> io::Result<()> {
    let mut attr = InfoAttr {
        fd: raw(fd),
        len: size_of::<T>() as u32,
        info: std::ptr::from_mut(into) as u64,
    };
    bpf(Command::ObjectInfo, &mut attr)?;
    Ok(())
}

/// Puts another program in the place of a link's, at once and without a gap.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: raw(link),
        new_program_fd: raw(program),
        ..LinkUpdateAttr::default()
    };
    bpf(Command::LinkUpdate, &mut attr)?;
    Ok(())
}

/// What becomes of an entry that is there already: `BPF_ANY` and `BPF_NOEXIST` of linux/bpf.h.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known {
    /// It gets the new value.
    Replace = 0,
    /// It stays, and the call fails with `EEXIST`.
    Keep = 1,
}

/// Writes one entry.
pub(crate) fn map_update<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &[V],
    known: Known,
) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: address(key),
        value: value.as_ptr() as u64,
        flags: known as u64,
        ..ElementAttr::default()
    };
    bpf(Command::MapUpdate, &mut attr)?;
    Ok(())
}

/// Reads one entry into `value`: one element, or one for each possible CPU.
pub(crate) fn map_lookup<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &mut [V],
) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: address(key),
        value: value.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    bpf(Command::MapLookup, &mut attr)?;
    Ok(())
}

/// Deletes one entry.
pub(crate) fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: address(key),
        ..ElementAttr::default()
    };
    bpf(Command::MapDelete, &mut attr)?;
    Ok(())
}

/// The key after this one; `None` at the end.
pub(crate) fn map_next_key<K: Plain>(
    map: BorrowedFd<'_>,
    after: Option<&K>,
) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::zeroed();
    let mut attr = ElementAttr {
        map_fd: raw(map),
        key: after.map_or(0, address),
        value: next.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    match bpf(Command::MapNextKey, &mut attr) {
        // SAFETY: `Plain` types are valid for every bit pattern, and the kernel has written this one.
        Ok(_) => Ok(Some(unsafe { next.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a batched walk stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor(Option<u32>);

/// Reads up to `keys.len()` entries of a hash map from the cursor; gives back how many, and the next
/// cursor unless the map ended.
pub(crate) fn map_lookup_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    cursor: Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<Cursor>)> {
    let mut out = 0_u32;
    let mut attr = BatchAttr {
        in_batch: cursor.0.as_ref().map_or(0, address),
        out_batch: std::ptr::from_mut(&mut out) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    match bpf(Command::MapLookupBatch, &mut attr) {
        Ok(_) => Ok((attr.count as usize, Some(Cursor(Some(out))))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count as usize, None)),
        Err(error) => Err(error),
    }
}

/// Writes entries; on an error also says how many were written before it.
pub(crate) fn map_update_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Result<(), (usize, io::Error)> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    bpf(Command::MapUpdateBatch, &mut attr).map_err(|error| (attr.count as usize, error))?;
    Ok(())
}

/// Deletes entries; on an error (a missing one) also says how many were deleted before it.
pub(crate) fn map_delete_batch<K: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
) -> Result<(), (usize, io::Error)> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    bpf(Command::MapDeleteBatch, &mut attr).map_err(|error| (attr.count as usize, error))?;
    Ok(())
}

/// The cookie of the network namespace that a socket lives in (Linux 5.14).
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is as long as `len` says, and both live through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// A value of plain data with every bit zero.
pub(crate) fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` types are valid for every bit pattern.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Registers the programs' log buffer with tokio.
pub(crate) fn async_fd<T: AsRawFd>(inner: T) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    // SAFETY: `inner` owns its descriptor (a map's), is moved into the registration, and returns the
    // same number for as long as it lives.
    unsafe { tokio::io::unix::AsyncFd::register(inner) }.map_err(Into::into)
}
