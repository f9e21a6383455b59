// SPDX-License-Identifier: Apache-2.0
//! The edges on this machine: each call is handed to `knarr-runtime` or `knarr-datapath` as it is.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use knarr_agent_plan::volumes::VolumePlan;
use knarr_datapath::{DatapathError, MapContents, MapOp, Network, NodeRoute, Strangers};
use knarr_pod::{ContainerSpec, ContainerState, SandboxSpec, SandboxState};
use knarr_runtime::{Image, ImageError, ImageStore, Pruned, Runtime, RuntimeError, SandboxError};
use tokio::sync::watch;

use super::{
    Datapath, Edges, Images, LogPlace, NodeNetwork, PodAddresses, PodLink, PodNetwork, Sandbox,
    SandboxHandle, Sandboxes, ServiceMaps, Volumes,
};
use crate::datapath::SharedDatapath;
use crate::probes;
use crate::volumes::{self, MountError};

/// The edges of this machine.
pub fn edges(runtime: Runtime, network: Network, datapath: SharedDatapath) -> Edges {
    let runtime = Arc::new(runtime);
    Edges {
        images: Arc::new(runtime.images().clone()),
        sandboxes: runtime.clone(),
        volumes: runtime,
        network: Arc::new(network),
        datapath: Arc::new(datapath),
        ask: Arc::new(probes::ask_over_network),
    }
}

#[async_trait]
impl Sandboxes for Runtime {
    async fn create(&self, spec: SandboxSpec) -> Result<SandboxHandle, RuntimeError> {
        Ok(Arc::new(self.create_sandbox(spec).await?))
    }

    async fn adopt(&self) -> Result<Vec<SandboxHandle>, RuntimeError> {
        let found = Runtime::adopt(self).await?.into_iter();
        Ok(found
            .map(|sandbox| Arc::new(sandbox) as SandboxHandle)
            .collect())
    }

    async fn adopt_one(&self, uid: &str) -> Result<Option<SandboxHandle>, RuntimeError> {
        let found = Runtime::adopt_one(self, uid).await?;
        Ok(found.map(|sandbox| Arc::new(sandbox) as SandboxHandle))
    }

    async fn destroy(&self, uid: &str) -> Result<(), RuntimeError> {
        self.destroy_sandbox(uid).await
    }

    async fn remove_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        Runtime::remove_pod(self, uid).await
    }

    async fn prune(&self, keep: &[String]) -> Result<Pruned, RuntimeError> {
        Runtime::prune(self, keep).await
    }

    fn log_path(&self, log: &LogPlace<'_>) -> PathBuf {
        let LogPlace {
            namespace,
            pod,
            uid,
            container,
            attempt,
        } = *log;
        Runtime::log_path(self, namespace, pod, uid, container, attempt)
    }
}

#[async_trait]
impl Sandbox for knarr_runtime::Sandbox {
    fn uid(&self) -> &str {
        self.uid()
    }

    fn attempt(&self) -> u32 {
        self.spec().attempt
    }

    fn state(&self) -> SandboxState {
        self.state()
    }

    fn containers(&self) -> Vec<ContainerState> {
        self.containers()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes()
    }

    fn netns(&self) -> Result<OwnedFd, SandboxError> {
        self.netns()
    }

    async fn start_container(&self, spec: ContainerSpec) -> Result<ContainerState, SandboxError> {
        self.start_container(spec).await
    }

    async fn signal(&self, name: &str, attempt: u32, signal: i32) -> Result<(), SandboxError> {
        self.signal(name, attempt, signal).await
    }

    async fn kill(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        self.kill(name, attempt).await
    }

    async fn remove_container(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        self.remove_container(name, attempt).await
    }

    async fn destroy(&self) -> Result<(), SandboxError> {
        self.destroy().await
    }

    fn disk_places(&self, name: &str, attempt: u32) -> Vec<PathBuf> {
        self.disk_places(name, attempt).to_vec()
    }

    fn log_dir(&self, name: &str) -> PathBuf {
        self.log_dir(name)
    }

    fn etc_dir(&self) -> PathBuf {
        self.etc_dir()
    }
}

impl Images for ImageStore {
    fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        self.get(reference)
    }
}

#[async_trait]
impl PodNetwork for Network {
    async fn add(&self, netns: BorrowedFd<'_>, link: &PodLink) -> Result<(), DatapathError> {
        self.pod_network_add(netns, link).await
    }

    async fn name(&self, host_ifname: &str, name: &str) -> Result<(), DatapathError> {
        self.pod_network_name(host_ifname, name).await
    }

    async fn remove(&self, host_ifname: &str) -> Result<(), DatapathError> {
        self.pod_network_remove(host_ifname).await
    }

    async fn links(&self) -> Result<Vec<PodLink>, DatapathError> {
        self.pod_networks().await
    }
}

#[async_trait]
impl Datapath for SharedDatapath {
    async fn set_pod(&self, netns: OwnedFd, link: PodLink) -> Result<(), DatapathError> {
        self.call(move |d| d.set_pod(netns.as_fd(), &link)).await
    }

    async fn forget_pod(&self, ip: Ipv4Addr) -> Result<(), DatapathError> {
        self.call(move |d| d.forget_pod(ip)).await
    }

    async fn retain_pods(&self, addresses: PodAddresses) -> Result<(), DatapathError> {
        self.call(move |d| d.retain_pods(&addresses())).await
    }
}

#[async_trait]
impl ServiceMaps for SharedDatapath {
    async fn restore(&self) -> Result<MapContents, DatapathError> {
        self.call(|d| d.restore()).await
    }

    async fn apply(&self, ops: Vec<MapOp>) -> Result<(), DatapathError> {
        self.call(move |d| d.apply(&ops)).await
    }

    async fn set_node_ports(&self, ports: RangeInclusive<u16>) -> Result<(), DatapathError> {
        let (first, last) = ports.into_inner();
        self.call(move |d| d.set_node_ports(first, last)).await
    }

    async fn purge_backends(&self, gone: Arc<HashSet<u32>>) -> Result<(), DatapathError> {
        let inspector = self.inspector().clone();
        knarr_base::blocking::run(move || inspector.purge_backends(&gone)).await
    }
}

#[async_trait]
impl NodeNetwork for Network {
    async fn prepare_node(
        &self,
        pods: &[Ipv4Net],
        services: &[Ipv4Net],
    ) -> Result<(), DatapathError> {
        self.prepare_node(pods, services).await
    }

    async fn sync_routes(
        &self,
        routes: &[NodeRoute],
        strangers: Strangers,
    ) -> Result<(), DatapathError> {
        self.sync_routes(routes, strangers).await
    }
}

impl Volumes for Runtime {
    fn dir(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf {
        self.volume_dir(uid, plugin, volume)
    }

    fn make(
        &self,
        plan: &VolumePlan,
        path: &Path,
        fs_group: Option<u32>,
    ) -> Result<(), MountError> {
        volumes::make(plan, path, fs_group)
    }
}
