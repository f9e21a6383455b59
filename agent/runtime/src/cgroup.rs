// SPDX-License-Identifier: Apache-2.0
//! The cgroup tree of a node: `kubepods[/burstable|/besteffort]/pod<uid>/<container>`.
//!
//! Handles pure v2 and hybrid machines (v1 controllers beside a v2 tree). Not here: the limits of one
//! container, which libcontainer writes. Called by `runtime` in the agent and by the shim.

use std::path::{Path, PathBuf};

/// Why something in the cgroup tree could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no cgroup v2 tree.
    #[error(
        "no cgroup v2 tree is mounted at {0:?} or {0:?}/unified; Services need one (mount -t cgroup2)"
    )]
    NoUnified(PathBuf),
    /// The kernel said no.
    #[error("{operation} cgroup {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// cgroups-rs said no.
    #[error("{operation} cgroup {path:?}")]
    Library {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A path that would reach other people's processes.
    #[error("cgroup path {0:?} is not inside the pods' tree")]
    Unsafe(PathBuf),
    /// Processes that do not end.
    #[error("processes in cgroup {path:?} did not end: {pids:?}")]
    Busy {
        /// The cgroup.
        path: PathBuf,
        /// Who is left.
        pids: Vec<i32>,
    },
}

/// Where the cgroup trees are and below which cgroup everything of this node goes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CgroupLayout {
    /// Mount point of cgroup v2.
    unified: PathBuf,
    /// The cgroup below which the node's tree is, relative to the mount points; empty: the roots.
    base: PathBuf,
}

impl CgroupLayout {
    /// Looks at what is mounted below /sys/fs/cgroup. `root` is the agent's `--cgroup-root`: a cgroup as
    /// /proc/self/cgroup writes it (`/` or `/machine/knarr`), or a directory of the mounted v2 tree.
    pub fn detect(_root: &Path) -> Result<CgroupLayout, CgroupError> {
        todo!()
    }

    /// The directory in cgroup v2 below which every pod is; Service programs attach here.
    pub fn service_root(&self) -> PathBuf {
        todo!()
    }
}
