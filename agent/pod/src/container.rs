// SPDX-License-Identifier: Apache-2.0
//! What a container is made from: program, user, mounts, limits.
//!
//! The plan makes these values, the runtime starts the container. Not here: OCI documents (the runtime's shim makes
//! them), sandboxes (`sandbox`).

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sandbox::Resources;

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the node, bound recursively.
    Bind(PathBuf),
    /// A path inside a volume of the node, resolved without ever leaving the volume (`subPath`).
    BindWithin {
        /// The volume.
        root: PathBuf,
        /// Relative path below it; made as a directory where it does not exist.
        sub_path: PathBuf,
    },
    /// An empty tmpfs of its own.
    Tmpfs {
        /// Size; absent: the kernel's default of half the memory.
        size_bytes: Option<u64>,
    },
}

/// Whether a mount or a root file system can be written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Yes.
    #[default]
    ReadWrite,
    /// No.
    ReadOnly,
}

/// Whether mounts made on one side show on the other (core/v1 `mountPropagation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// `None`.
    #[default]
    Private,
    /// `HostToContainer`.
    HostToContainer,
    /// `Bidirectional`.
    Bidirectional,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where from.
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Writable or not.
    pub access: Access,
    /// Propagation.
    pub propagation: Propagation,
}

/// Whether a container is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privilege {
    /// containerd's default capabilities, masked paths, default devices.
    #[default]
    Confined,
    /// All capabilities and devices, nothing masked.
    Privileged,
}

/// Whether exec may add privileges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Escalation {
    /// set-user-ID programs work.
    #[default]
    Allowed,
    /// no_new_privs.
    Forbidden,
}

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// All. Kubernetes' default where a pod says nothing.
    #[default]
    Unconfined,
    /// A filter. Refused with a message: a container that asks for a filter must not run without it.
    Profile(String),
}

/// Who the process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// `USER[:GROUP]`, names (looked up in the image) or numbers; empty: root.
    pub user: String,
    /// Supplementary groups that the pod names.
    pub additional_gids: Vec<u32>,
    /// Whether the groups of the image's /etc/group count.
    #[serde(default)]
    pub image_groups: ImageGroups,
    /// Refuse to start as user 0 (`runAsNonRoot: true`).
    pub root: RootUser,
}

/// Whether a process gets the groups that the image's /etc/group lists its user in
/// (core/v1 `supplementalGroupsPolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageGroups {
    /// `Merge`: it does, beside those that the pod names.
    #[default]
    Merged,
    /// `Strict`: only those that the pod names, and its primary group.
    Ignored,
}

/// Whether user 0 may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootUser {
    /// Yes.
    #[default]
    Allowed,
    /// No: reason `CreateContainerConfigError`.
    Refused,
}

/// A container to start. Everything is already expanded; the image has to be in the store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Container name.
    pub name: String,
    /// The restart count.
    pub attempt: u32,
    /// Image reference or id, as the image store takes it.
    pub image: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=VALUE`. `PATH`, `HOME` and `HOSTNAME` are added where they are absent.
    pub env: Vec<String>,
    /// Absolute working directory; made where the image lacks it.
    pub cwd: String,
    /// Who it runs as.
    pub user: User,
    /// Mounts, in order. /proc, /dev, /sys, /dev/shm and the files of /etc are made without being asked for.
    pub mounts: Vec<Mount>,
    /// Limits.
    pub resources: Resources,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Root file system.
    pub rootfs: Access,
    /// Confined or privileged.
    pub privilege: Privilege,
    /// no_new_privs.
    pub escalation: Escalation,
    /// Capabilities to add, without `CAP_`; may hold `ALL`.
    pub capabilities_add: Vec<String>,
    /// Capabilities to drop, without `CAP_`; may hold `ALL`.
    pub capabilities_drop: Vec<String>,
    /// Seccomp.
    pub seccomp: Seccomp,
    /// Path in the container of the file for its last words, e.g. `/dev/termination-log`.
    pub termination_message_path: Option<String>,
    /// What stands in for last words that it did not leave.
    #[serde(default)]
    pub last_words: LastWords,
    /// How it is stopped when the machine goes down.
    #[serde(default)]
    pub shutdown: Shutdown,
}

/// How a container is stopped by its shim, when the machine goes down and no agent is there to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// The number of the signal that asks it to end.
    pub signal: i32,
    /// How long it may take to end; SIGKILL comes after that.
    pub grace_seconds: u32,
}

impl Default for Shutdown {
    /// SIGTERM, and what core/v1 gives a pod that says nothing (`terminationGracePeriodSeconds`).
    fn default() -> Self {
        Shutdown {
            signal: 15,
            grace_seconds: 30,
        }
    }
}

/// Where a container's termination message comes from (core/v1 `terminationMessagePolicy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastWords {
    /// `File`: the file only.
    #[default]
    File,
    /// `FallbackToLogsOnError`: the end of the log where the file is empty and the container failed.
    FileOrLog,
}

impl fmt::Debug for ContainerSpec {
    /// Without the values of the environment, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContainerSpec {
            name,
            attempt,
            image,
            args,
            env,
            cwd,
            user,
            mounts,
            resources,
            oom_score_adj,
            rootfs,
            privilege,
            escalation,
            capabilities_add,
            capabilities_drop,
            seccomp,
            termination_message_path,
            last_words,
            shutdown,
        } = self;
        let names: Vec<&str> = env
            .iter()
            .map(|pair| pair.split_once('=').map_or(pair.as_str(), |(name, _)| name))
            .collect();
        f.debug_struct("ContainerSpec")
            .field("name", name)
            .field("attempt", attempt)
            .field("image", image)
            .field("args", args)
            .field("env_names", &names)
            .field("cwd", cwd)
            .field("user", user)
            .field("mounts", mounts)
            .field("resources", resources)
            .field("oom_score_adj", oom_score_adj)
            .field("rootfs", rootfs)
            .field("privilege", privilege)
            .field("escalation", escalation)
            .field("capabilities_add", capabilities_add)
            .field("capabilities_drop", capabilities_drop)
            .field("seccomp", seccomp)
            .field("termination_message_path", termination_message_path)
            .field("last_words", last_words)
            .field("shutdown", shutdown)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_an_environment_are_not_in_a_debug_print() {
        let spec = ContainerSpec {
            env: vec!["PASSWORD=hunter=2".to_owned()],
            name: "c".to_owned(),
            attempt: 0,
            image: "i".to_owned(),
            args: vec!["/bin/true".to_owned()],
            cwd: "/".to_owned(),
            user: User::default(),
            mounts: Vec::new(),
            resources: Resources::default(),
            oom_score_adj: 0,
            rootfs: Access::default(),
            privilege: Privilege::default(),
            escalation: Escalation::default(),
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            seccomp: Seccomp::default(),
            termination_message_path: None,
            last_words: LastWords::default(),
            shutdown: Shutdown::default(),
        };
        let text = format!("{spec:?}");
        assert!(
            text.contains("PASSWORD") && !text.contains("hunter"),
            "{text}"
        );
    }
}
