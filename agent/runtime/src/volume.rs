// SPDX-License-Identifier: Apache-2.0
//! Directories of pods' volumes: emptyDir on disk and in memory, and removing them.
//!
//! Not here: what is in a ConfigMap or Secret volume (the agent writes it). Called by the agent.

use crate::tree;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{Gid, fchown, fchownat};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// kubelet's mode of an emptyDir: any user of any container may use it.
const EMPTY_DIR_MODE: u32 = 0o777;

/// Why a volume could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} volume directory {path:?}: {source}")]
pub struct VolumeError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError {
        operation,
        path,
        source,
    }
}

/// Makes an emptyDir on disk, mode 0777 as kubelet's; keeps one that is there. Blocking.
pub fn make_dir(path: &Path) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(failed("making", path))?;
    let mode = std::fs::Permissions::from_mode(EMPTY_DIR_MODE);
    std::fs::set_permissions(path, mode).map_err(failed("making", path))
}

/// Mounts a tmpfs (`emptyDir.medium: Memory`, and secrets); keeps one that is there. Blocking.
pub fn make_memory(path: &Path, size_bytes: Option<u64>) -> Result<(), VolumeError> {
    std::fs::create_dir_all(path).map_err(failed("making", path))?;
    let mounted = tree::mounts_below(path).map_err(failed("looking at", path))?;
    if mounted.iter().any(|point| point == path) {
        return Ok(());
    }
    let mut options = format!("mode={EMPTY_DIR_MODE:o}");
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .map_err(|e| failed("mounting", path)(e.into()))
}

/// Gives a volume to a group (`fsGroup`): group ownership, group bits, set-group-ID on directories, as
/// kubelet does (`volume.SetVolumeOwnership`). Links are changed themselves. Blocking.
pub fn set_group(path: &Path, gid: u32) -> Result<(), VolumeError> {
    let dir = tree::open_dir(path).map_err(failed("opening", path))?;
    give(&dir, Gid::from_raw(gid)).map_err(failed("giving to a group", path))
}

/// Directories below it are walked by descriptor, so that a link put there meanwhile leads nowhere.
fn give(dir: &OwnedFd, gid: Gid) -> io::Result<()> {
    const GROUP_DIR: u32 = 0o2070;
    let stat = fstat(dir)?;
    fchown(dir, None, Some(gid))?;
    fchmod(
        dir,
        Mode::from_bits_truncate(stat.st_mode & 0o7777 | GROUP_DIR),
    )?;
    let mut names = Vec::new();
    for entry in nix::dir::Dir::from_fd(dir.try_clone()?)?.iter() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    for name in names {
        let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
        let stat = fstatat(dir, name.as_c_str(), nofollow)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        if kind == SFlag::S_IFDIR {
            let flags = flags | OFlag::O_DIRECTORY;
            give(&openat(dir, name.as_c_str(), flags, Mode::empty())?, gid)?;
        } else if kind == SFlag::S_IFREG {
            let file = openat(dir, name.as_c_str(), flags, Mode::empty())?;
            fchown(&file, None, Some(gid))?;
            let readable = (stat.st_mode & 0o7777) | ((stat.st_mode & 0o600) >> 3);
            fchmod(&file, Mode::from_bits_truncate(readable))?;
        } else {
            fchownat(dir, name.as_c_str(), None, Some(gid), nofollow)?;
        }
    }
    Ok(())
}

/// Unmounts and removes a volume, never following a link out of it. Nothing there is fine. Blocking.
pub fn remove(path: &Path) -> Result<(), VolumeError> {
    tree::remove_tree(path).map_err(failed("removing", path))
}

#[cfg(test)]
mod tests;
