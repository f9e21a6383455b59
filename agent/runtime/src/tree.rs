// SPDX-License-Identifier: Apache-2.0
//! Walking directory trees that others wrote, without ever leaving them, and writing small files safely.
//!
//! Called by the image store, volumes, prune and the shim.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

mod removal;
mod usage;

pub(crate) use removal::{remove_at, remove_tree};
pub use usage::Usage;
pub(crate) use usage::usage;

/// How many symbolic links a path may go through (the kernel's own bound).
const LINKS_MAX: usize = 40;

/// Mount points at or below a path, deepest first. Read by hand: `procfs` leaves the kernel's octal escapes in paths.
pub(crate) fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = std::fs::read_to_string("/proc/thread-self/mountinfo")?
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(OsStr::from_bytes(&unescape(field))))
        .filter(|point| point.starts_with(path))
        .collect();
    found.sort();
    found.reverse();
    Ok(found)
}

/// Lazily unmounts everything at or below a path.
pub(crate) fn unmount_below(path: &Path) -> io::Result<()> {
    for point in mounts_below(path)? {
        match nix::mount::umount2(
            &point,
            nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW,
        ) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Undoes the octal escapes of /proc/self/mountinfo.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let code = (byte == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                at += 4;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Opens a path below a root as if the root were `/`: no link and no `..` leads out.
pub(crate) fn open_in_root(
    root: &impl AsFd,
    path: &Path,
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(if flags.contains(OFlag::O_CREAT) {
            mode
        } else {
            Mode::empty()
        })
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    openat2(root, path, how)
}

/// Makes a directory and its parents below a root; links inside the root are followed, and a link that
/// leads nowhere has its target made.
pub(crate) fn make_dirs_in_root(root: &OwnedFd, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH;
    match open_in_root(root, path, flags, Mode::empty()) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let mut done = PathBuf::new();
    let mut fd = root.try_clone()?;
    let mut links = 0;
    let mut todo: Vec<CString> = components(path)?;
    todo.reverse();
    while let Some(name) = todo.pop() {
        if name.as_bytes() == b".." {
            done.pop();
            fd = open_in_root(root, &done, flags, Mode::empty())?;
            continue;
        }
        let os_name = OsStr::from_bytes(name.as_bytes());
        match mkdirat(&fd, os_name, mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
        match nix::fcntl::readlinkat(&fd, os_name) {
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::ELOOP.into());
                }
                if target.as_bytes().first() == Some(&b'/') {
                    done = PathBuf::new();
                    fd = root.try_clone()?;
                }
                let mut more = components(Path::new(&target))?;
                more.reverse();
                todo.extend(more);
            }
            Err(Errno::EINVAL) => {
                done.push(os_name);
                fd = open_in_root(root, &done, flags, Mode::empty())?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(fd)
}

/// Names of a path; `..` is kept, `/` and `.` are not.
fn components(path: &Path) -> io::Result<Vec<CString>> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(CString::new(name.as_bytes())),
            Component::ParentDir => Some(CString::new("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect::<Result<_, _>>()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// How a written file has to outlast a crash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// On disk when the call returns.
    Synced,
    /// Complete or not there; may be lost in a power cut. For tmpfs.
    Atomic,
}

/// Keeps the temporary names of one process apart.
static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// Replaces a file as a whole.
pub(crate) fn write_file(path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    use std::io::Write;
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let mut tmp = std::ffi::OsString::from(".");
    tmp.push(name);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    tmp.push(format!(".{}-{serial}.tmp", std::process::id()));
    let tmp = dir.join(tmp);
    let write = || {
        let mut file = std::fs::File::create(&tmp)?;
        file.write_all(contents)?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        std::fs::rename(&tmp, path)
    };
    if let Err(e) = write() {
        let _ = std::fs::remove_file(&tmp);
        return Err(e);
    }
    if durability == Durability::Synced {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// An open directory, by descriptor only.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// Where an open descriptor can be named as a path.
pub(crate) fn fd_path(fd: &impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests;
