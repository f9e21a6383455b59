// SPDX-License-Identifier: Apache-2.0
//! The edges of the node: what pod workers, streams and the Service loop need of the kernel and the container runtime, as
//! traits.
//!
//! `node` carries them out on this machine and decides nothing; `fake` (tests only) carries them out in the simulated worlds
//! of `knarr_agent_plan::simulated` and `knarr_services::simulated`, so that whole lives of pods and of Services run without
//! root. Used by `pods`, `streams` and `services`.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use knarr_agent_plan::volumes::VolumePlan;
use knarr_datapath::{DatapathError, MapContents, MapOp, NodeRoute, Strangers};
use knarr_pod::{ContainerSpec, ContainerState, SandboxSpec, SandboxState};
use knarr_runtime::{Image, ImageError, Pruned, RuntimeError, SandboxError};
use tokio::sync::watch;

use crate::probes::Ask;
use crate::volumes::MountError;

/// The link between a pod and its node.
pub use knarr_datapath::PodNetwork as PodLink;

#[cfg(test)]
pub mod fake;
pub mod node;

/// The edges of pods.
pub struct Edges {
    /// Sandboxes and what is in them.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Links and routes.
    pub network: Arc<dyn PodNetwork>,
    /// What the kernel programs know of pods.
    pub datapath: Arc<dyn Datapath>,
    /// Directories of pods' volumes.
    pub volumes: Arc<dyn Volumes>,
    /// How a probe is asked.
    pub ask: Ask,
}

/// A sandbox that was made or taken over.
pub type SandboxHandle = Arc<dyn Sandbox>;

/// All sandboxes of this node.
#[async_trait]
pub trait Sandboxes: Send + Sync {
    /// Makes one. It has no network yet. Leaves nothing when it fails.
    async fn create(&self, spec: SandboxSpec) -> Result<SandboxHandle, RuntimeError>;
    /// Finds those that an agent before this one made.
    async fn adopt(&self) -> Result<Vec<SandboxHandle>, RuntimeError>;
    /// Finds the one of this pod; none where there is none.
    async fn adopt_one(&self, uid: &str) -> Result<Option<SandboxHandle>, RuntimeError>;
    /// Takes one away for which there is no handle. Nothing there is fine.
    async fn destroy(&self, uid: &str) -> Result<(), RuntimeError>;
    /// Removes a pod's directory and logs. Its sandbox must be destroyed.
    async fn remove_pod(&self, uid: &str) -> Result<(), RuntimeError>;
    /// Removes everything of pods other than these.
    async fn prune(&self, keep: &[String]) -> Result<Pruned, RuntimeError>;
    /// The log file of one attempt of a container.
    fn log_path(&self, log: &LogPlace<'_>) -> PathBuf;
}

/// Which log is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace<'a> {
    /// Pod namespace.
    pub namespace: &'a str,
    /// Pod name.
    pub pod: &'a str,
    /// Pod UID.
    pub uid: &'a str,
    /// Container name.
    pub container: &'a str,
    /// Counted from 0.
    pub attempt: u32,
}

/// One sandbox. Dropping a handle stops nothing.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Pod UID.
    fn uid(&self) -> &str;
    /// Counted from 0.
    fn attempt(&self) -> u32;
    /// Whether containers can be started.
    fn state(&self) -> SandboxState;
    /// Every attempt that is not removed.
    fn containers(&self) -> Vec<ContainerState>;
    /// Wakes when state or containers may have changed.
    fn changes(&self) -> watch::Receiver<u64>;
    /// The pod's network namespace.
    fn netns(&self) -> Result<OwnedFd, SandboxError>;
    /// Makes and starts a container; the same name and attempt again is the one that is there.
    async fn start_container(&self, spec: ContainerSpec) -> Result<ContainerState, SandboxError>;
    /// Sends a signal to the container's first process.
    async fn signal(&self, name: &str, attempt: u32, signal: i32) -> Result<(), SandboxError>;
    /// SIGKILL for every process of the container.
    async fn kill(&self, name: &str, attempt: u32) -> Result<(), SandboxError>;
    /// Forgets an attempt that has ended, with its files.
    async fn remove_container(&self, name: &str, attempt: u32) -> Result<(), SandboxError>;
    /// Kills what runs and removes the namespaces.
    async fn destroy(&self) -> Result<(), SandboxError>;
    /// Where a container writes to on the node's disk, volumes aside.
    fn disk_places(&self, name: &str, attempt: u32) -> Vec<PathBuf>;
    /// The logs of all attempts of a container.
    fn log_dir(&self, name: &str) -> PathBuf;
    /// /etc/hosts and its like.
    fn etc_dir(&self) -> PathBuf;
}

/// The images of this node.
pub trait Images: Send + Sync {
    /// The image that a reference stands for; none where it is not on the node. Blocking.
    fn get(&self, reference: &str) -> Result<Option<Image>, ImageError>;
}

/// Links of pods.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Makes a pod's link and routes; doing it again is harmless.
    async fn add(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<(), DatapathError>;
    /// Gives a link a name for people.
    async fn name(&self, host_ifname: &str, name: &str) -> Result<(), DatapathError>;
    /// Removes a link. Nothing there is fine.
    async fn remove(&self, host_ifname: &str) -> Result<(), DatapathError>;
    /// All links of pods.
    async fn links(&self) -> Result<Vec<PodLink>, DatapathError>;
}

/// What the kernel programs know of this node's pods.
#[async_trait]
pub trait Datapath: Send + Sync {
    /// Makes a pod known.
    async fn set_pod(&self, netns: OwnedFd, link: PodLink) -> Result<(), DatapathError>;
    /// Forgets a pod.
    async fn forget_pod(&self, ip: Ipv4Addr) -> Result<(), DatapathError>;
    /// Forgets all pods but these. They are asked for when it is this call's turn, because a worker may add a pod before.
    async fn retain_pods(&self, addresses: PodAddresses) -> Result<(), DatapathError>;
}

/// Names the addresses of all pods.
pub type PodAddresses = Box<dyn FnOnce() -> Vec<Ipv4Addr> + Send>;

/// The Service maps of the kernel programs. Writers take turns.
#[async_trait]
pub trait ServiceMaps: Send + Sync {
    /// What the maps hold.
    async fn restore(&self) -> Result<MapContents, DatapathError>;
    /// Carries out operations in order. After an error the maps hold what [`ServiceMaps::restore`] says.
    async fn apply(&self, ops: Vec<MapOp>) -> Result<(), DatapathError>;
    /// Changes the NodePort range.
    async fn set_node_ports(&self, ports: RangeInclusive<u16>) -> Result<(), DatapathError>;
    /// Deletes affinity and flows that lead to these backends. It walks whole maps, and takes no turn.
    async fn purge_backends(&self, gone: Arc<HashSet<u32>>) -> Result<(), DatapathError>;
}

/// The node's own sysctls and routes.
#[async_trait]
pub trait NodeNetwork: Send + Sync {
    /// Turns forwarding on, and makes the `unreachable` routes exactly those of these ranges.
    async fn prepare_node(
        &self,
        pods: &[Ipv4Net],
        services: &[Ipv4Net],
    ) -> Result<(), DatapathError>;
    /// Sets the routes to other nodes' pods.
    async fn sync_routes(
        &self,
        routes: &[NodeRoute],
        strangers: Strangers,
    ) -> Result<(), DatapathError>;
}

/// Directories of pods' volumes.
pub trait Volumes: Send + Sync {
    /// Where a volume belongs. `plugin` is kubelet's name of the kind of volume.
    fn dir(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf;
    /// Makes a volume, or brings its files up to date. Blocking.
    fn make(&self, plan: &VolumePlan, path: &Path, fs_group: Option<u32>)
    -> Result<(), MountError>;
}
