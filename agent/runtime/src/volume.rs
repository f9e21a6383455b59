// SPDX-License-Identifier: Apache-2.0
//! Directories of pods' volumes: emptyDir on disk and in memory, and removing them.
//!
//! Not here: what is in a ConfigMap or Secret volume (the agent writes it). Called by the agent.

use std::path::{Path, PathBuf};

/// Why a volume could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} volume directory {path:?}: {source}")]
pub struct VolumeError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    pub source: std::io::Error,
}

/// Makes an emptyDir on disk, mode 0777 as kubelet's; keeps one that is there. Blocking.
pub fn make_dir(_path: &Path) -> Result<(), VolumeError> {
    todo!()
}

/// Mounts a tmpfs (`emptyDir.medium: Memory`, and secrets); keeps one that is there. Blocking.
pub fn make_memory(_path: &Path, _size_bytes: Option<u64>) -> Result<(), VolumeError> {
    todo!()
}

/// Gives a volume to a group (`fsGroup`): group ownership, group bits, set-group-ID. Blocking.
pub fn set_group(_path: &Path, _gid: u32) -> Result<(), VolumeError> {
    todo!()
}

/// Unmounts and removes a volume, never following a link out of it. Nothing there is fine. Blocking.
pub fn remove(_path: &Path) -> Result<(), VolumeError> {
    todo!()
}
