// SPDX-License-Identifier: Apache-2.0
//! Adding up what trees that others write hold on disk, while they write, with a bounded number of
//! descriptors and without ever following a link out of them.
//!
//! No path is used below the root, for the reason that `removal` has. Called for volumes and for what
//! containers write.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use rustix::fs::Dir;

use super::removal::{LEVELS_MAX, open};

/// What a tree holds.
#[derive(Debug, Default)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Entries and directories that could not be read. They do not count.
    pub unread: u64,
    /// Why the first of these could not be read.
    pub first_error: Option<io::Error>,
}

impl Usage {
    fn miss(&mut self, error: impl Into<io::Error>) {
        self.unread += 1;
        self.first_error.get_or_insert(error.into());
    }
}

/// Adds up a tree; nothing there is nothing, and what vanishes meanwhile does not count. `keep_on` is asked at
/// each entry; what comes after a break is not looked at.
pub(crate) fn usage(root: &Path, keep_on: &dyn Fn() -> ControlFlow<()>) -> io::Result<Usage> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = match nix::fcntl::open(root, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(Usage::default()),
        Err(e) => return Err(e.into()),
    };
    let mut walk = Walk {
        held: vec![Dir::new(root)?],
        deep: None,
        closed: Vec::new(),
        usage: Usage::default(),
    };
    while walk.step() == Step::More && keep_on().is_continue() {}
    Ok(walk.usage)
}

/// ```text
/// root - held - ... - held (LEVELS_MAX of them, open) - closed - ... - closed - deep (open)
/// ```
struct Walk {
    held: Vec<Dir>,
    /// The directory that is being read, where it is deeper than those that stay open.
    deep: Option<Dir>,
    /// Those between, which are opened again through `..`.
    closed: Vec<Closed>,
    usage: Usage,
}

/// A directory that is gone on with later.
struct Closed {
    device: libc::dev_t,
    inode: libc::ino_t,
    /// Where its next entry is (getdents64(2), `d_off`).
    next: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    More,
    Done,
}

impl Walk {
    fn step(&mut self) -> Step {
        let Some(dir) = self.deep.as_mut().or_else(|| self.held.last_mut()) else {
            return Step::Done;
        };
        let entry = match dir.read() {
            Some(Ok(entry)) => entry,
            // It reads nothing more after an error.
            Some(Err(error)) => {
                self.usage.miss(error);
                return Step::More;
            }
            None => {
                self.ascend();
                return Step::More;
            }
        };
        let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
        if name == "." || name == ".." {
            return Step::More;
        }
        let next = entry.offset();
        match look(dir, &name) {
            Ok(Found { bytes, directory }) => {
                self.usage.bytes = self.usage.bytes.saturating_add(bytes);
                if let Some(below) = directory
                    && let Err(error) = self.descend(below, next)
                {
                    self.usage.miss(error);
                }
            }
            Err(error) => self.usage.miss(error),
        }
        Step::More
    }

    fn descend(&mut self, below: OwnedFd, next: i64) -> io::Result<()> {
        let below = Dir::new(below)?;
        if self.deep.is_none() && self.held.len() < LEVELS_MAX {
            self.held.push(below);
            return Ok(());
        }
        if let Some(dir) = &self.deep {
            let stat = fstat(dir.fd()?)?;
            self.closed.push(Closed {
                device: stat.st_dev,
                inode: stat.st_ino,
                next,
            });
        }
        self.deep = Some(below);
        Ok(())
    }

    fn ascend(&mut self) {
        let Some(done) = self.deep.take() else {
            self.held.pop();
            return;
        };
        let Some(above) = self.closed.pop() else {
            return;
        };
        match above.open_again(&done) {
            Ok(dir) => self.deep = Some(dir),
            Err(error) => {
                // The way up is lost; those that were held are still there.
                self.closed.clear();
                self.usage.miss(error);
            }
        }
    }
}

impl Closed {
    fn open_again(&self, below: &Dir) -> io::Result<Dir> {
        let Some(fd) = open(&below.fd()?, OsStr::new(".."))? else {
            return Err(Errno::ENOENT.into());
        };
        let stat = fstat(&fd)?;
        if (stat.st_dev, stat.st_ino) != (self.device, self.inode) {
            return Err(io::Error::other(
                "a directory was moved while it was looked at",
            ));
        }
        let mut dir = Dir::new(fd)?;
        dir.seek(self.next)?;
        Ok(dir)
    }
}

#[derive(Default)]
struct Found {
    bytes: u64,
    directory: Option<OwnedFd>,
}

/// One entry. One that has vanished is nothing.
fn look(dir: &Dir, name: &OsStr) -> io::Result<Found> {
    /// What `st_blocks` counts in (stat(3type)).
    const BLOCK_BYTES: u64 = 512;
    let fd = dir.fd()?;
    let stat = match fstatat(fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(Found::default()),
        Err(e) => return Err(e.into()),
    };
    let is_directory = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    Ok(Found {
        bytes: blocks.saturating_mul(BLOCK_BYTES),
        directory: if is_directory { open(&fd, name)? } else { None },
    })
}

#[cfg(test)]
mod tests;
