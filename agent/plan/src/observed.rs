// SPDX-License-Identifier: Apache-2.0
//! What is there of a pod, as the planner sees it. Filled in by the agent's `observe`.

use std::collections::BTreeMap;

use knarr_pod::ContainerState;

use crate::probe::ProbeView;
use crate::reason::PodFailure;
use crate::support::SeLinux;

/// The sandbox as the runtime sees it. A sandbox whose pause process died is no sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxView {
    /// Counted from 0.
    pub attempt: u32,
    /// Its addresses; the node's for the host network.
    pub ips: Vec<String>,
    /// Whether containers can live in it.
    pub health: SandboxHealth,
}

/// Whether a sandbox can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxHealth {
    /// The pause process runs, and there is a network where one is wanted.
    Alive,
    /// The pause process runs. The agent that made the sandbox may have ended before the sandbox had its network.
    Unwired,
    /// It has to be destroyed, and another made.
    Dead,
}

impl SandboxView {
    /// Whether its processes run; the network of one that was taken over may still have to be seen to.
    pub fn runs(&self) -> bool {
        match self.health {
            SandboxHealth::Alive | SandboxHealth::Unwired => true,
            SandboxHealth::Dead => false,
        }
    }
}

/// What the node's image store says about a reference that it does not plainly lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageView {
    /// It is on the node.
    Present {
        /// Digest.
        id: String,
    },
    /// The reference cannot be one.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// The store could not be read: the image may be there.
    Unreadable {
        /// What happened.
        cause: String,
    },
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The pod's sandbox.
    pub sandbox: Option<SandboxView>,
    /// Every attempt that the runtime knows.
    pub containers: Vec<ContainerState>,
    /// The pod's images, by the reference the pod uses; the absent ones are not on the node.
    pub images: BTreeMap<String, ImageView>,
    /// Whether the node knows its pod range.
    pub network: Network,
    /// Probe results by container name; no entry where there is no probe.
    pub probes: BTreeMap<String, ProbeView>,
    /// Whether what is remembered of the pod is on disk.
    pub record: RecordStore,
    /// Whether the node's kernel has SELinux on.
    pub se_linux: SeLinux,
    /// The limit of the disk that it was last seen beyond.
    pub outgrown: Option<PodFailure>,
}

/// Whether the pod's record can be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RecordStore {
    /// It is on disk.
    #[default]
    Kept,
    /// It could not be written; the text says why.
    Failing(String),
}

/// Whether the node can give out addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// The node has no pod range yet.
    #[default]
    Unknown,
    /// It has one.
    Known,
}
