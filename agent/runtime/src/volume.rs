// SPDX-License-Identifier: Apache-2.0
//! Directories of pods' volumes: emptyDir on disk and in memory, what they hold, and removing them.
//!
//! Not here: what is in a ConfigMap or Secret volume (the agent writes it). Called by the agent.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::tree;

pub use crate::tree::Usage;

/// kubelet's mode of an emptyDir: any user of any container may use it.
const EMPTY_DIR_MODE: u32 = 0o777;
/// What `fsGroup` adds: what is made in it belongs to the group (kubelet v1.37,
/// pkg/volume/volume_linux.go; the other bits that kubelet adds are there already).
const GROUP_MODE: u32 = 0o2000;

/// Why a volume could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} volume directory {path:?}")]
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

fn mode(fs_group: Option<u32>) -> u32 {
    fs_group.map_or(EMPTY_DIR_MODE, |_| EMPTY_DIR_MODE | GROUP_MODE)
}

/// Makes an emptyDir on disk, mode 0777 as kubelet's, and gives it to a group (`fsGroup`). One that is
/// there is kept as it is, with all that is in it: containers use it, and owners and modes are theirs.
/// kubelet gives a volume to the group only when it sets it up, too (pkg/volume/emptydir, SetUpAt).
/// Blocking.
pub fn make_dir(path: &Path, fs_group: Option<u32>) -> Result<(), VolumeError> {
    if path.is_dir() {
        return Ok(());
    }
    make_whole(path, fs_group).map_err(failed("making", path))
}

/// It has its name only when owner and mode are set, so that one that was cut off is not taken for whole.
fn make_whole(path: &Path, fs_group: Option<u32>) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    std::fs::create_dir_all(parent)?;
    // No volume has such a name: they are DNS labels.
    let mut new = std::ffi::OsString::from(".new-");
    new.push(name);
    let new = parent.join(new);
    match std::fs::create_dir(&new) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(e),
    }
    std::os::unix::fs::chown(&new, None, fs_group)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode(fs_group)))?;
    std::fs::rename(&new, path)
}

/// Mounts a tmpfs (`emptyDir.medium: Memory`, and secrets) that belongs to a group (`fsGroup`); keeps one
/// that is there as it is, see [`make_dir`]. Blocking.
pub fn make_memory(
    path: &Path,
    size_bytes: Option<u64>,
    fs_group: Option<u32>,
) -> Result<(), VolumeError> {
    std::fs::create_dir_all(path).map_err(failed("making", path))?;
    let mounted = tree::mounts_below(path).map_err(failed("looking at", path))?;
    if mounted.iter().any(|point| point == path) {
        return Ok(());
    }
    let mut options = format!("mode={:o}", mode(fs_group));
    if let Some(gid) = fs_group {
        options.push_str(&format!(",gid={gid}"));
    }
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

/// What a directory that containers write to holds on disk; nothing there is nothing. `keep_on` is asked at each
/// entry, and after a break the rest is not looked at. Blocking, and for as long as there are files.
pub fn usage(path: &Path, keep_on: &dyn Fn() -> ControlFlow<()>) -> Result<Usage, VolumeError> {
    tree::usage(path, keep_on).map_err(failed("looking at", path))
}

/// Unmounts and removes a volume, never following a link out of it. Nothing there is fine. Blocking.
pub fn remove(path: &Path) -> Result<(), VolumeError> {
    tree::remove_tree(path).map_err(failed("removing", path))
}

#[cfg(test)]
mod tests;
