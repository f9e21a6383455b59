// SPDX-License-Identifier: Apache-2.0
//! What agent and shim say to each other, and what the shim leaves in files.
//!
//! A frame is a length (u32, little endian) and JSON. An agent of one version talks to shims of another:
//! fields are only ever added, with a default. Not here: sockets (`sandbox/connection.rs`,
//! `shim/client.rs`).

use std::io;
use std::path::{Path, PathBuf};

use knarr_pod::ContainerState;
use knarr_pod::{ContainerSpec, LogPolicy, SandboxSpec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cgroup::{CgroupLayout, PodCgroup};
use crate::process::ProcessId;

/// A container's environment may have up to the kernel's 2 MiB of arguments, doubled by JSON's escapes.
pub(crate) const FRAME_BYTES_MAX: usize = 8 << 20;

/// The layout of `sandbox.json` and `state.json`. Raised when a reader of before would misunderstand them;
/// a new field with a default is no reason.
pub(crate) const FORMAT: u32 = 1;

/// Files that were written before the number was, are of the first layout.
fn format_first() -> u32 {
    1
}

/// What every version can read of both files.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Head {
    #[serde(default = "format_first")]
    pub format: u32,
}

/// What a shim is started with; `sandbox.json` in its directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    /// [`FORMAT`] of whoever wrote it.
    #[serde(default = "format_first")]
    pub format: u32,
    /// What the agent asked for.
    pub spec: SandboxSpec,
    /// 64 hexadecimal digits.
    pub id: String,
    /// The sandbox's directory: socket, state, bundles.
    pub run_dir: PathBuf,
    /// The pod's directory on disk.
    pub pod_dir: PathBuf,
    /// The pod's log directory.
    pub log_dir: PathBuf,
    /// Unpacked image layers.
    pub layers_dir: PathBuf,
    /// An empty directory, the root of the pause process. Its name in the file is that of the first layout, without which
    /// an agent of before could not read the file.
    #[serde(rename = "pause_exe")]
    pub pause_root: PathBuf,
    /// The cgroup tree.
    pub cgroup: CgroupLayout,
    /// The pod's cgroup.
    pub pod_cgroup: PodCgroup,
    /// How much log is kept.
    pub log: LogPolicy,
}

/// Files of a sandbox.
impl ShimConfig {
    pub fn config_path(run_dir: &Path) -> PathBuf {
        run_dir.join("sandbox.json")
    }

    pub fn state_path(run_dir: &Path) -> PathBuf {
        run_dir.join("state.json")
    }

    /// Within an open run directory, because socket addresses are short and directories are not.
    pub fn socket_name() -> &'static str {
        "shim.sock"
    }

    /// tmpfs for /dev/shm of all containers.
    pub fn shm_dir(&self) -> PathBuf {
        self.run_dir.join("shm")
    }

    /// hosts, hostname, resolv.conf.
    pub fn etc_dir(&self) -> PathBuf {
        self.pod_dir.join("etc")
    }

    /// A container's run state.
    pub fn bundle_dir(&self, name: &str, attempt: u32) -> PathBuf {
        self.run_dir.join("c").join(format!("{name}.{attempt}"))
    }

    /// A container's files on disk.
    pub fn container_dir(&self, name: &str, attempt: u32) -> PathBuf {
        self.pod_dir
            .join("containers")
            .join(format!("{name}.{attempt}"))
    }

    /// A container's log.
    pub fn log_path(&self, name: &str, attempt: u32) -> PathBuf {
        self.log_dir.join(name).join(format!("{attempt}.log"))
    }
}

/// What a shim knows; `state.json` in its directory, written before anybody is told. Where it cannot be
/// written (a full file system), it is told first and written as soon as that is possible.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimState {
    /// [`FORMAT`] of whoever wrote it.
    #[serde(default = "format_first")]
    pub format: u32,
    /// Of the kernel that ran then: after a reboot the processes are others, whatever their numbers.
    #[serde(default)]
    pub boot_id: String,
    pub shim: ProcessId,
    pub pause: ProcessId,
    pub snapshot: Snapshot,
}

/// What a shim tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Grows with each change.
    pub version: u64,
    /// Set when the pause process died.
    pub dead: Option<String>,
    pub containers: Vec<ContainerState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answered when the program was executed, or could not be.
    Start(Box<StartRequest>),
    Signal {
        name: String,
        attempt: u32,
        signal: i32,
    },
    Kill {
        name: String,
        attempt: u32,
    },
    Remove {
        name: String,
        attempt: u32,
    },
    /// Answered now and after each change, until the connection ends.
    Watch,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartRequest {
    pub spec: ContainerSpec,
    /// 64 hexadecimal digits.
    pub id: String,
    pub image_id: String,
    /// Names in the layers' directory, topmost first.
    pub layers: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub result: Result<(), Failure>,
    pub snapshot: Snapshot,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    NotFound,
    Start { reason: String, message: String },
    Refused(String),
}

/// A value as a frame.
pub(crate) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let len = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    for (to, from) in frame.iter_mut().zip(len.to_le_bytes()) {
        *to = from;
    }
    Ok(frame)
}

/// Takes the first complete frame off a buffer.
pub(crate) fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = frame_len(*head)?;
    let Some(body) = buffer.get(4..4 + len) else {
        return Ok(None);
    };
    let value = serde_json::from_slice(body)?;
    buffer.drain(..4 + len);
    Ok(Some(value))
}

/// The length in a frame's head.
pub(crate) fn frame_len(head: [u8; 4]) -> io::Result<usize> {
    let len = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {len} bytes is too large"),
        ));
    }
    Ok(len)
}

#[cfg(test)]
mod tests;
