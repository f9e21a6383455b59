// SPDX-License-Identifier: Apache-2.0
//! The runtime of a node: makes sandboxes, finds them again after a restart, removes what is not wanted.
//!
//! Not here: what happens inside a sandbox (`sandbox`, `shim`). Called by the agent.

use crate::cgroup::CgroupLayout;
use crate::image::{ImageError, ImageStore};
use crate::sandbox::{Sandbox, SandboxError};
use crate::spec::{LogPolicy, SandboxSpec};
use crate::state::CgroupStats;
use std::ffi::OsString;
use std::path::PathBuf;

/// Where the runtime keeps things.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Images, upper layers of containers, pods' volumes. On disk.
    pub data_dir: PathBuf,
    /// Sockets and run state. Best on tmpfs; empty after a reboot.
    pub run_dir: PathBuf,
    /// Logs of pods, as kubelet lays out /var/log/pods.
    pub log_dir: PathBuf,
    /// The cgroup tree.
    pub cgroup: CgroupLayout,
    /// The program that is executed as a pod's shim.
    pub shim_exe: PathBuf,
    /// Arguments that make it one; [`crate::shim_main`] receives what comes after them.
    pub shim_args: Vec<OsString>,
    /// How much of each log is kept.
    pub log: LogPolicy,
}

impl RuntimeConfig {
    /// Logs in `data_dir/logs`, `shim_exe shim` as the shim, 5 log files of 10 MiB.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        run_dir: impl Into<PathBuf>,
        cgroup: CgroupLayout,
        shim_exe: impl Into<PathBuf>,
    ) -> RuntimeConfig {
        let data_dir = data_dir.into();
        RuntimeConfig {
            log_dir: data_dir.join("logs"),
            data_dir,
            run_dir: run_dir.into(),
            cgroup,
            shim_exe: shim_exe.into(),
            shim_args: vec!["shim".into()],
            log: LogPolicy::default(),
        }
    }
}

/// Why something could not be done with sandboxes as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file or directory of the runtime.
    #[error("{operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The image store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    /// The request cannot be served; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The shim did not come up.
    #[error("starting the shim of pod {uid}: {message}")]
    Shim {
        /// Pod UID.
        uid: String,
        /// Its last words.
        message: String,
    },
}

/// What [`Runtime::prune`] took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// UIDs of sandboxes, complete or not.
    pub sandboxes: Vec<String>,
    /// UIDs of pods whose directories were removed.
    pub pod_dirs: Vec<String>,
    /// Log directories.
    pub log_dirs: Vec<PathBuf>,
    /// Cgroups of pods, relative to the cgroup root.
    pub cgroups: Vec<PathBuf>,
    /// Mount points.
    pub mounts: Vec<PathBuf>,
}

/// See the module's comment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    _config: std::sync::Arc<RuntimeConfig>,
}

impl Runtime {
    /// Opens or makes the directories and the image store. Finds no sandboxes yet: call [`Runtime::adopt`].
    pub async fn open(_config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        todo!()
    }

    /// The images of this node.
    pub fn images(&self) -> &ImageStore {
        todo!()
    }

    /// Makes cgroups, namespaces and the pause process. The pod has no network yet: loopback is up, and
    /// [`Sandbox::netns`] is the namespace to put an interface into. Leaves nothing when it fails.
    pub async fn create_sandbox(&self, _spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        todo!()
    }

    /// Finds the sandboxes that an agent before this one made. One whose shim died is among them, as
    /// [`crate::SandboxState::Dead`], with its containers killed and over.
    pub async fn adopt(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        todo!()
    }

    /// Removes every sandbox, pod directory, log directory, cgroup and mount of pods other than these UIDs.
    pub async fn prune(&self, _keep: &[String]) -> Result<Pruned, RuntimeError> {
        todo!()
    }

    /// The directory of a pod on disk; it outlives sandboxes and ends with [`Runtime::remove_pod`].
    pub fn pod_dir(&self, _uid: &str) -> PathBuf {
        todo!()
    }

    /// Where a volume of a pod belongs (see [`crate::volume`]).
    pub fn volume_dir(&self, _uid: &str, _plugin: &str, _volume: &str) -> PathBuf {
        todo!()
    }

    /// Removes a pod's directory with its volumes and its logs. The sandbox must be destroyed.
    pub async fn remove_pod(&self, _uid: &str) -> Result<(), RuntimeError> {
        todo!()
    }

    /// The log file of one attempt of a container, for [`crate::logs::read`].
    pub fn log_path(
        &self,
        _namespace: &str,
        _name: &str,
        _uid: &str,
        _container: &str,
        _attempt: u32,
    ) -> PathBuf {
        todo!()
    }

    /// What all pods use together.
    pub fn stats(&self) -> Result<CgroupStats, RuntimeError> {
        todo!()
    }
}
