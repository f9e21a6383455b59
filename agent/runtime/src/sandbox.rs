// SPDX-License-Identifier: Apache-2.0
//! The agent's side of one pod's sandbox: a handle that talks to the shim and mirrors what it says.
//!
//! Not here: the shim itself. Made by `Runtime`, used by the agent's pod workers.

use crate::spec::{ContainerSpec, SandboxSpec};
use crate::state::{CgroupStats, ContainerState, SandboxState};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use tokio::sync::watch;

/// Why something could not be done in a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The shim is gone or does not answer. Not retryable: the sandbox has to be destroyed.
    #[error("the shim of pod {uid} is gone: {reason}")]
    Dead {
        /// Pod UID.
        uid: String,
        /// What was seen.
        reason: String,
    },
    /// No container of that name and attempt.
    #[error("container {name} (attempt {attempt}) does not exist in pod {uid}")]
    NotFound {
        /// Pod UID.
        uid: String,
        /// Container name.
        name: String,
        /// Its attempt.
        attempt: u32,
    },
    /// The image is not in the store.
    #[error("image {reference:?} is not present on this node")]
    NoImage {
        /// As the container asks for it.
        reference: String,
    },
    /// The container could not be made or executed. It is among the containers as exited with the same
    /// reason and message, exit code 128.
    #[error("{message}")]
    Start {
        /// For `waiting.reason` or `terminated.reason`.
        reason: &'static str,
        /// For a person.
        message: String,
    },
    /// The request is not possible; the text says why.
    #[error("{0}")]
    Refused(String),
    /// A file, socket or namespace.
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
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
}

/// See the module's comment. Cheap to clone; dropping it stops nothing.
#[derive(Clone, Debug)]
pub struct Sandbox {
    _inner: std::sync::Arc<()>,
}

impl Sandbox {
    /// Pod UID.
    pub fn uid(&self) -> &str {
        todo!()
    }

    /// What it was made from.
    pub fn spec(&self) -> &SandboxSpec {
        todo!()
    }

    /// 64 hexadecimal digits, unique.
    pub fn id(&self) -> &str {
        todo!()
    }

    /// The pause process.
    pub fn pause_pid(&self) -> i32 {
        todo!()
    }

    /// The pod's network namespace, opened after making sure that the pause process still is the one that
    /// was started. The node's own with `hostNetwork`.
    pub fn netns(&self) -> Result<OwnedFd, SandboxError> {
        todo!()
    }

    /// Whether containers can be started.
    pub fn state(&self) -> SandboxState {
        todo!()
    }

    /// The containers, as last told by the shim; an answer to a request is never older than the request.
    pub fn containers(&self) -> Vec<ContainerState> {
        todo!()
    }

    /// Wakes when [`Sandbox::containers`] or [`Sandbox::state`] may have changed. The number means nothing.
    pub fn changes(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// Makes and starts a container; returns when its program was executed. The same name and attempt
    /// again returns the state of the one that is there.
    pub async fn start_container(
        &self,
        _spec: ContainerSpec,
    ) -> Result<ContainerState, SandboxError> {
        todo!()
    }

    /// Sends a signal to the container's first process. Nothing happens when it is over.
    pub async fn signal(
        &self,
        _name: &str,
        _attempt: u32,
        _signal: i32,
    ) -> Result<(), SandboxError> {
        todo!()
    }

    /// SIGKILL for every process of the container.
    pub async fn kill(&self, _name: &str, _attempt: u32) -> Result<(), SandboxError> {
        todo!()
    }

    /// Forgets an exited container and removes its files. Its log stays.
    pub async fn remove_container(&self, _name: &str, _attempt: u32) -> Result<(), SandboxError> {
        todo!()
    }

    /// Replaces the contents of /etc/hosts; running containers see it.
    pub async fn write_hosts(&self, _contents: &str) -> Result<(), SandboxError> {
        todo!()
    }

    /// What a container, or with `None` the whole pod, uses.
    pub fn stats(&self, _container: Option<(&str, u32)>) -> Result<CgroupStats, SandboxError> {
        todo!()
    }

    /// Kills everything, removes namespaces, mounts, cgroups and run state. Logs and volumes stay. Can be
    /// called again after an error.
    pub async fn destroy(&self) -> Result<(), SandboxError> {
        todo!()
    }
}
