// SPDX-License-Identifier: Apache-2.0
//! Removing trees that others wrote, however deep and wide they are, with a bounded number of descriptors
//! and bounded memory, and without ever following a link out of them.
//!
//! Containers make such trees in volumes and in their own layer: one that cannot be removed would keep its
//! pod for ever. No path is used below the root of a tree, because a deep one is longer than the kernel
//! takes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::Dir;

use super::unmount_below;

/// How many levels are walked at once: each holds a descriptor. What lies deeper is moved to the top of the
/// tree and removed from there. Hardly any tree that is not made to be deep has more.
pub(super) const LEVELS_MAX: usize = 64;
/// The same where directories cannot be moved: overlayfs refuses it for those of a lower layer. Deeper
/// trees than the paths of one image can name are not removed there.
const FIXED_LEVELS_MAX: usize = 512;

/// Removes a file or directory tree without following links; nothing there is fine. Mounts below it are
/// unmounted first.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    unmount_below(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    let parent = match nix::fcntl::open(parent, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    remove_at(&parent, name)
}

/// Removes one name of a directory, with all that is below it.
pub(crate) fn remove_at(parent: &impl AsFd, name: &OsStr) -> io::Result<()> {
    if unlink(parent, name)? == Unlinked::Yes {
        return Ok(());
    }
    // Each round takes away all that it finds but what it moves to the top, so the tree gets lower by
    // LEVELS_MAX with each.
    while let Some(top) = open(parent, name)? {
        if empty(top)? == Emptied::Whole {
            return rmdir(parent, name);
        }
    }
    Ok(())
}

/// Whether a name is gone after trying to unlink it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unlinked {
    Yes,
    Directory,
}

/// Whether anything is left to do in a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Emptied {
    Whole,
    /// Directories from far below are in it now.
    ButForMoved,
}

/// A directory that is being emptied.
struct Level {
    entries: Dir,
    /// Its name in the directory above it.
    name: OsString,
}

impl Level {
    fn new(dir: OwnedFd, name: OsString) -> io::Result<Level> {
        let entries = Dir::new(dir)?;
        Ok(Level { entries, name })
    }
}

/// Removes what is in a directory. Entries are read one after the other while others are removed: what is
/// neither added nor removed is listed all the same (readdir(3p)).
fn empty(top: OwnedFd) -> io::Result<Emptied> {
    let mut levels = vec![Level::new(top.try_clone()?, OsString::new())?];
    let mut moves = Moves { top, serial: 0 };
    let mut emptied = Emptied::Whole;
    loop {
        let height = levels.len();
        let Some(level) = levels.last_mut() else {
            return Ok(emptied);
        };
        let Some(entry) = level.entries.read() else {
            let done = levels.pop();
            if let (Some(done), Some(above)) = (done, levels.last()) {
                rmdir(&above.entries.fd()?, &done.name)?;
            }
            continue;
        };
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if name == "." || name == ".." {
            continue;
        }
        let dir = level.entries.fd()?;
        if unlink(&dir, &name)? == Unlinked::Yes {
            continue;
        }
        if height >= LEVELS_MAX && moves.lift(&dir, &name)? == Moved::Yes {
            emptied = Emptied::ButForMoved;
            continue;
        }
        if height >= FIXED_LEVELS_MAX {
            return Err(io::Error::other(format!(
                "more than {FIXED_LEVELS_MAX} directories are nested, and they cannot be moved"
            )));
        }
        if let Some(below) = open(&dir, &name)? {
            levels.push(Level::new(below, name)?);
        }
    }
}

/// Whether a directory is at the top now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    Yes,
    /// Its file system does not let it go.
    Refused,
}

/// Directories that were moved to the top of the tree.
struct Moves {
    top: OwnedFd,
    /// For the next one's name.
    serial: u64,
}

impl Moves {
    /// Moves a directory to the top, under a name that nothing has there: what has been tried is not tried
    /// again, so there are not more tries than entries at the top.
    fn lift(&mut self, dir: &impl AsFd, name: &OsStr) -> io::Result<Moved> {
        loop {
            let new = top_name(self.serial);
            self.serial += 1;
            match renameat(dir, name, &self.top, new.as_str()) {
                // It may have taken the place of an empty directory, which was to be removed as well.
                Ok(()) | Err(Errno::ENOENT) => return Ok(Moved::Yes),
                // A directory that is not empty, the one that holds this one among them, or no directory.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                Err(Errno::EXDEV) => return Ok(Moved::Refused),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn top_name(serial: u64) -> String {
    format!(".removing-{serial}")
}

/// Takes away a name that is no directory. Nothing there is fine.
fn unlink(dir: &impl AsFd, name: &OsStr) -> io::Result<Unlinked> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(Unlinked::Yes),
        // Linux' answer; POSIX has EPERM, which here says that nothing may remove it (unlink(2)).
        Err(Errno::EISDIR) => Ok(Unlinked::Directory),
        Err(e) => Err(e.into()),
    }
}

/// Opens a directory itself, never through a link. None where nothing is there.
pub(super) fn open(dir: &impl AsFd, name: &OsStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn rmdir(dir: &impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests;
