// SPDX-License-Identifier: Apache-2.0
//! The edges over simulated sandboxes (`knarr_agent_plan::simulated`): no processes, links or kernel programs, and no root.
//!
//! A [`FakeNode`] outlives the agents that are started on it, as a kernel does. Tests end containers, break sandboxes and
//! links, and read what was done in [`FakeNode::log`]. What `knarr-runtime` and `knarr-datapath` refuse is refused here with
//! the same errors, in the same order. Here is no decision about pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use knarr_agent_plan::probe::Check;
use knarr_agent_plan::simulated::IMAGE_ID;
use knarr_agent_plan::volumes::{VolumePlan, VolumeSource};
use knarr_datapath::DatapathError;
use knarr_pod::{ImageConfig, SandboxSpec};
use knarr_runtime::{Image, ImageError, ImageName, Pruned, RuntimeError};
use parking_lot::{Mutex, MutexGuard};

use super::{
    Datapath, Edges, Images, LogPlace, PodAddresses, PodLink, PodNetwork, SandboxHandle, Sandboxes,
    Volumes,
};
use crate::clock::Clock;
use crate::probes::Answer;
use crate::volumes::{self, MountError};

pub mod sandbox;
pub mod services;

pub use sandbox::FakeSandbox;

/// A machine without a kernel.
pub struct FakeNode {
    dir: PathBuf,
    clock: Clock,
    world: Mutex<World>,
}

#[derive(Default)]
struct World {
    sandboxes: BTreeMap<String, Arc<FakeSandbox>>,
    images: BTreeSet<ImageName>,
    links: BTreeMap<String, PodLink>,
    known_pods: BTreeSet<Ipv4Addr>,
    stubborn: BTreeSet<String>,
    unhealthy: BTreeSet<u16>,
    broken: BTreeSet<Broken>,
    log: Vec<String>,
}

/// What a test can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// No sandbox can be made.
    Sandboxes,
    /// No link can be made.
    Links,
}

impl FakeNode {
    /// Files of volumes and logs are in `dir`.
    pub fn new(dir: &Path, clock: Clock) -> Arc<FakeNode> {
        Arc::new(FakeNode {
            dir: dir.to_owned(),
            clock,
            world: Mutex::default(),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    fn note(&self, what: String) {
        self.world().log.push(what);
    }

    /// The edges of this node, for one agent.
    pub fn edges(self: &Arc<Self>) -> Edges {
        let asked = self.clone();
        Edges {
            sandboxes: Arc::new(self.clone()),
            images: self.clone(),
            network: self.clone(),
            datapath: self.clone(),
            volumes: self.clone(),
            ask: Arc::new(move |spec, _pod_ip| {
                let node = asked.clone();
                Box::pin(async move {
                    let port = match &spec.check {
                        Check::Tcp { port, .. } => *port,
                        Check::Http(get) => get.port,
                    };
                    if node.world().unhealthy.contains(&port) {
                        Answer::Failed("refused".to_owned())
                    } else {
                        Answer::Passed
                    }
                })
            }),
        }
    }

    /// What was done, in order.
    pub fn log(&self) -> Vec<String> {
        self.world().log.clone()
    }

    /// Forgets what was done.
    pub fn clear_log(&self) {
        self.world().log.clear();
    }

    /// Brings an image to the node.
    pub fn import(&self, reference: &str) {
        let name = ImageName::parse(reference).expect("a reference");
        self.world().images.insert(name);
    }

    /// An image goes from the node.
    pub fn remove_image(&self, reference: &str) {
        let name = ImageName::parse(reference).expect("a reference");
        self.world().images.remove(&name);
    }

    /// A container of this name ignores its stop signal.
    pub fn ignore_signals(&self, container: &str) {
        self.world().stubborn.insert(container.to_owned());
    }

    /// Every probe of this port fails.
    pub fn fail_probes(&self, port: u16) {
        self.world().unhealthy.insert(port);
    }

    /// Breaks something until [`FakeNode::mend`].
    pub fn break_it(&self, what: Broken) {
        self.world().broken.insert(what);
    }

    /// Mends it.
    pub fn mend(&self, what: Broken) {
        self.world().broken.remove(&what);
    }

    /// The sandbox of a pod.
    pub fn sandbox(&self, uid: &str) -> Option<Arc<FakeSandbox>> {
        self.world().sandboxes.get(uid).cloned()
    }

    /// Links, and addresses that the kernel programs know.
    pub fn network(&self) -> (usize, usize) {
        let world = self.world();
        (world.links.len(), world.known_pods.len())
    }

    fn is_broken(&self, what: Broken) -> bool {
        self.world().broken.contains(&what)
    }

    /// Removes what is on the disk of a pod, or of its sandbox.
    fn remove_dirs(&self, of: &[&str], uid: &str) {
        for dir in of {
            match std::fs::remove_dir_all(self.dir.join(dir).join(uid)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// What a pod leaves until it is removed.
const POD_DIRS: [&str; 2] = ["pods", "logs"];
/// What goes with a sandbox.
const SANDBOX_DIRS: [&str; 2] = ["containers", "etc"];

#[async_trait]
impl Sandboxes for Arc<FakeNode> {
    async fn create(&self, spec: SandboxSpec) -> Result<SandboxHandle, RuntimeError> {
        knarr_runtime::check_sandbox(&spec)?;
        if self.sandbox(&spec.uid).is_some() {
            let uid = &spec.uid;
            let text = format!("pod {uid} has a sandbox; destroy it first");
            return Err(RuntimeError::Refused(text));
        }
        if self.is_broken(Broken::Sandboxes) {
            return Err(RuntimeError::Shim {
                uid: spec.uid.clone(),
                message: "no room".to_owned(),
            });
        }
        self.note(format!("sandbox {} {}", spec.uid, spec.attempt));
        let uid = spec.uid.clone();
        let sandbox = FakeSandbox::new(self, spec);
        self.world().sandboxes.insert(uid, sandbox.clone());
        Ok(sandbox)
    }

    async fn adopt(&self) -> Result<Vec<SandboxHandle>, RuntimeError> {
        let world = self.world();
        Ok(world
            .sandboxes
            .values()
            .map(|s| s.clone() as SandboxHandle)
            .collect())
    }

    async fn adopt_one(&self, uid: &str) -> Result<Option<SandboxHandle>, RuntimeError> {
        Ok(self.sandbox(uid).map(|s| s as SandboxHandle))
    }

    async fn destroy(&self, uid: &str) -> Result<(), RuntimeError> {
        let found = self.world().sandboxes.remove(uid);
        if let Some(sandbox) = found {
            // A handle that somebody has learns it as it learns any end of a shim.
            sandbox.die();
            self.remove_dirs(&SANDBOX_DIRS, uid);
        }
        Ok(())
    }

    async fn remove_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        if self.sandbox(uid).is_some() {
            let text = format!("pod {uid} still has a sandbox");
            return Err(RuntimeError::Refused(text));
        }
        self.remove_dirs(&POD_DIRS, uid);
        self.note(format!("remove {uid}"));
        Ok(())
    }

    async fn prune(&self, keep: &[String]) -> Result<Pruned, RuntimeError> {
        let all: Vec<String> = self.world().sandboxes.keys().cloned().collect();
        let leaked: Vec<String> = all.into_iter().filter(|uid| !keep.contains(uid)).collect();
        for uid in &leaked {
            Sandboxes::destroy(self, uid).await?;
            self.remove_dirs(&POD_DIRS, uid);
            self.note(format!("prune {uid}"));
        }
        Ok(Pruned {
            sandboxes: leaked,
            ..Pruned::default()
        })
    }

    fn log_path(&self, log: &LogPlace<'_>) -> PathBuf {
        let attempt = format!("{}.log", log.attempt);
        let pod = self.dir.join("logs").join(log.uid);
        pod.join(log.container).join(attempt)
    }
}

impl Images for FakeNode {
    fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let known = if reference == IMAGE_ID {
            !self.world().images.is_empty()
        } else {
            let name = ImageName::parse(reference)?;
            self.world().images.contains(&name)
        };
        Ok(known.then(|| Image {
            id: IMAGE_ID.to_owned(),
            names: Vec::new(),
            config: ImageConfig {
                entrypoint: vec!["/program".to_owned()],
                ..ImageConfig::default()
            },
            size_bytes: 1,
            layers: Vec::new(),
        }))
    }
}

#[async_trait]
impl PodNetwork for FakeNode {
    async fn add(&self, _netns: BorrowedFd<'_>, link: &PodLink) -> Result<(), DatapathError> {
        if self.is_broken(Broken::Links) {
            return Err(DatapathError::NotPermitted {
                what: "making a link",
                source: std::io::Error::from(std::io::ErrorKind::PermissionDenied),
            });
        }
        let (name, link) = (link.host_ifname.clone(), link.clone());
        self.world().links.insert(name, link);
        Ok(())
    }

    async fn name(&self, _host_ifname: &str, _name: &str) -> Result<(), DatapathError> {
        Ok(())
    }

    async fn remove(&self, host_ifname: &str) -> Result<(), DatapathError> {
        self.world().links.remove(host_ifname);
        Ok(())
    }

    async fn links(&self) -> Result<Vec<PodLink>, DatapathError> {
        Ok(self.world().links.values().cloned().collect())
    }
}

#[async_trait]
impl Datapath for FakeNode {
    async fn set_pod(&self, _netns: OwnedFd, link: PodLink) -> Result<(), DatapathError> {
        let mut world = self.world();
        world.known_pods.insert(link.pod_ip);
        if !world.links.contains_key(&link.host_ifname) {
            return Err(DatapathError::Network {
                action: "find",
                object: link.host_ifname,
                source: std::io::Error::from_raw_os_error(libc::ENODEV),
            });
        }
        Ok(())
    }

    async fn forget_pod(&self, ip: Ipv4Addr) -> Result<(), DatapathError> {
        self.world().known_pods.remove(&ip);
        Ok(())
    }

    async fn retain_pods(&self, addresses: PodAddresses) -> Result<(), DatapathError> {
        let keep = addresses();
        self.world().known_pods.retain(|ip| keep.contains(ip));
        Ok(())
    }
}

impl Volumes for FakeNode {
    fn dir(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf {
        self.dir.join("pods").join(uid).join(plugin).join(volume)
    }

    /// Directories are real; what would be a mount is only noted.
    fn make(
        &self,
        plan: &VolumePlan,
        path: &Path,
        fs_group: Option<u32>,
    ) -> Result<(), MountError> {
        self.note(format!("volume {}", plan.name));
        match plan.source {
            VolumeSource::Directory { .. } => volumes::make(plan, path, fs_group),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
