// SPDX-License-Identifier: Apache-2.0
//! The cgroup tree of a node: `kubepods[/burstable|/besteffort]/pod<uid>/<container>`.
//!
//! Handles pure v2 and hybrid machines (v1 controllers beside a v2 tree). Not here: the limits of one
//! container, which libcontainer writes. Called by `runtime` in the agent and by the shim.

use std::path::{Path, PathBuf};

use knarr_pod::{QosClass, Resources};

mod layout;
mod members;
mod values;

pub use layout::CgroupLayout;

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
        source: cgroups_rs::fs::error::Error,
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

/// The cgroup that holds every pod of a node.
const PODS: &str = "kubepods";
/// The cgroup outside of the pods' limits for what makes a container: a pod that may use little CPU would start slowly.
/// Versions before had the shims there.
const SHIMS: &str = "knarr-shims";
/// The cgroup of a pod's shim in the pod's: what a container writes to its log costs the pod. Cannot be a container's:
/// those have a dot.
const SHIM: &str = "shim";
/// A shim has about one megabyte of its own; what it writes to logs and the kernel keeps counts too.
const SHIM_MEMORY_BYTES_MAX: i64 = 64 << 20;
/// The pause process' cgroup in a pod. Cannot be a container's: those have a dot.
pub(crate) const PAUSE: &str = "pause";

/// A cgroup inside the pods' tree, the same path in every hierarchy, relative to the layout's base. There
/// is no way to make one that is the root, empty, or outside of the pods' tree: killing what is in it can
/// never hit anybody else.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub(crate) struct PodCgroup(PathBuf);

impl PodCgroup {
    /// The cgroup of a pod.
    pub fn pod(qos: QosClass, uid: &str) -> Result<PodCgroup, CgroupError> {
        if !crate::path_name::is_name(uid) {
            return Err(CgroupError::Unsafe(PathBuf::from(uid)));
        }
        let parent = match qos {
            QosClass::Guaranteed => PathBuf::from(PODS),
            QosClass::Burstable => Path::new(PODS).join("burstable"),
            QosClass::BestEffort => Path::new(PODS).join("besteffort"),
        };
        PodCgroup::try_from(parent.join(format!("pod{uid}")))
    }

    /// A cgroup in a pod's.
    pub fn child(&self, name: &str) -> Result<PodCgroup, CgroupError> {
        let path = self.0.join(name);
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(CgroupError::Unsafe(path));
        }
        PodCgroup::try_from(path)
    }

    /// Of a container's attempt.
    pub fn container(&self, name: &str, attempt: u32) -> Result<PodCgroup, CgroupError> {
        self.child(&format!("{name}.{attempt}"))
    }

    /// Relative to the layout's base.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether a process is in it or below it, by what /proc/PID/cgroup says (cgroups(7)): the line of the v2 tree, which
    /// also says it of a process that has ended. What is before depends on the cgroup namespace of whoever reads.
    pub fn holds(&self, proc_cgroup: &str) -> bool {
        let unified = proc_cgroup
            .lines()
            .find_map(|line| line.strip_prefix("0::"));
        let names: Vec<&str> = unified.unwrap_or_default().split('/').collect();
        let own: Vec<&str> = self.0.iter().filter_map(|name| name.to_str()).collect();
        names.windows(own.len()).any(|part| part == own)
    }

    /// The pod's UID.
    pub fn uid(&self) -> Option<&str> {
        self.0
            .iter()
            .filter_map(|name| name.to_str()?.strip_prefix("pod"))
            .next()
    }
}

impl TryFrom<PathBuf> for PodCgroup {
    type Error = CgroupError;

    fn try_from(path: PathBuf) -> Result<PodCgroup, CgroupError> {
        use std::path::Component;
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let rest = path.strip_prefix(PODS).ok().map(|rest| {
            rest.strip_prefix("burstable")
                .or_else(|_| rest.strip_prefix("besteffort"))
                .unwrap_or(rest)
        });
        let is_pod = rest
            .and_then(|rest| rest.iter().next())
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.len() > "pod".len() && name.starts_with("pod"));
        if plain && is_pod {
            Ok(PodCgroup(path))
        } else {
            Err(CgroupError::Unsafe(path))
        }
    }
}

impl From<PodCgroup> for PathBuf {
    fn from(cgroup: PodCgroup) -> PathBuf {
        cgroup.0
    }
}

/// cpu.weight of cgroup v2 for cpu.shares of v1 (KEP-2254's formula).
pub(crate) fn cpu_weight(shares: u64) -> u64 {
    const SHARES_MIN: u64 = 2;
    const SHARES_MAX: u64 = 262_144;
    let shares = shares.clamp(SHARES_MIN, SHARES_MAX);
    1 + ((shares - SHARES_MIN) * 9_999) / (SHARES_MAX - SHARES_MIN)
}

impl CgroupLayout {
    /// Makes a pod's cgroup in every hierarchy and sets its limits.
    pub(crate) fn create_pod(
        &self,
        cgroup: &PodCgroup,
        resources: &Resources,
    ) -> Result<(), CgroupError> {
        let made = self.create(cgroup)?;
        values::apply(&made, cgroup, resources)
    }

    /// Moves the calling process to the cgroup of a pod's shim. Its CPU is the pod's: it has one thread.
    pub(crate) fn join_shim(&self, pod: &PodCgroup) -> Result<(), CgroupError> {
        let cgroup = pod.child(SHIM)?;
        self.create(&cgroup)?;
        if let Some(dir) = self.controller_dir("memory", &cgroup) {
            values::bound_memory(&dir, SHIM_MEMORY_BYTES_MAX)?;
        }
        self.join_shim_dirs(&cgroup)
    }
}

#[cfg(test)]
mod tests;
