// SPDX-License-Identifier: Apache-2.0
//! The edges over simulated sandboxes (`knarr_agent_plan::simulated`): no processes, links or kernel programs, and no root.
//!
//! A [`FakeNode`] outlives the agents that are started on it, as a kernel does. Tests end containers, break sandboxes and
//! links, and read what was done in [`FakeNode::log`]. Here is no decision about pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use knarr_agent_plan::probe::Check;
use knarr_agent_plan::simulated::{
    IMAGE_ID, KILLED_EXIT_CODE, SimulatedSandbox, TERMINATED_EXIT_CODE,
};
use knarr_agent_plan::volumes::{VolumePlan, VolumeSource};
use knarr_datapath::DatapathError;
use knarr_pod::{ContainerSpec, ContainerState, ImageConfig, SandboxSpec, SandboxState};
use knarr_runtime::{Image, ImageError, Pruned, RuntimeError, SandboxError};
use tokio::sync::watch;

use super::{
    Datapath, Edges, Images, LogPlace, PodAddresses, PodLink, PodNetwork, Sandbox, SandboxHandle,
    Sandboxes, Volumes,
};
use crate::clock::Clock;
use crate::pods::probes::Answer;
use crate::pods::volumes::{self, MountError};

pub mod services;

/// A machine without a kernel.
pub struct FakeNode {
    dir: PathBuf,
    clock: Clock,
    world: Mutex<World>,
}

#[derive(Default)]
struct World {
    sandboxes: BTreeMap<String, Arc<FakeSandbox>>,
    images: BTreeSet<String>,
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

/// A sandbox on a [`FakeNode`].
pub struct FakeSandbox {
    node: Arc<FakeNode>,
    spec: SandboxSpec,
    pod: Mutex<SimulatedSandbox>,
    changes: watch::Sender<u64>,
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
        self.world
            .lock()
            .expect("no test panics while it holds this")
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
        self.world().images.insert(reference.to_owned());
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
}

impl FakeSandbox {
    fn pod(&self) -> MutexGuard<'_, SimulatedSandbox> {
        self.pod.lock().expect("no test panics while it holds this")
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn now_ms(&self) -> i64 {
        self.node.clock.now_ms()
    }

    /// The last attempt of a container ends by itself.
    pub fn end(&self, name: &str, exit_code: i32) {
        let now_ms = self.now_ms();
        {
            let mut pod = self.pod();
            let attempt = pod.last(name).expect("it was started").attempt;
            pod.end(name, attempt, exit_code, now_ms);
        }
        self.changed();
    }

    /// The shim dies, and every container with it.
    pub fn die(&self) {
        let now_ms = self.now_ms();
        {
            let mut pod = self.pod();
            pod.state = SandboxState::Dead {
                reason: "the shim died".to_owned(),
            };
            let live = pod.containers.iter().filter(|c| c.is_live());
            let live: Vec<_> = live.map(|c| (c.name.clone(), c.attempt)).collect();
            for (name, attempt) in live {
                pod.end(&name, attempt, KILLED_EXIT_CODE, now_ms);
            }
        }
        self.changed();
    }

    /// The last attempt of a container.
    pub fn last(&self, name: &str) -> Option<ContainerState> {
        self.pod().last(name).cloned()
    }
}

#[async_trait]
impl Sandboxes for Arc<FakeNode> {
    async fn create(&self, spec: SandboxSpec) -> Result<SandboxHandle, RuntimeError> {
        if self.is_broken(Broken::Sandboxes) {
            return Err(RuntimeError::Refused("no room".to_owned()));
        }
        self.note(format!("sandbox {} {}", spec.uid, spec.attempt));
        let sandbox = Arc::new(FakeSandbox {
            node: self.clone(),
            pod: Mutex::new(SimulatedSandbox::new(spec.attempt)),
            changes: watch::Sender::new(0),
            spec,
        });
        let uid = sandbox.spec.uid.clone();
        let before = self.world().sandboxes.insert(uid, sandbox.clone());
        assert!(before.is_none(), "a pod has one sandbox at a time");
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
        self.world().sandboxes.remove(uid);
        Ok(())
    }

    async fn remove_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        let sandbox = self.sandbox(uid);
        assert!(sandbox.is_none(), "its sandbox is destroyed first");
        self.note(format!("remove {uid}"));
        Ok(())
    }

    async fn prune(&self, keep: &[String]) -> Result<Pruned, RuntimeError> {
        let mut world = self.world();
        let all = world.sandboxes.keys().cloned();
        let leaked: Vec<String> = all.filter(|uid| !keep.contains(uid)).collect();
        for uid in &leaked {
            world.sandboxes.remove(uid);
            world.log.push(format!("prune {uid}"));
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

#[async_trait]
impl Sandbox for FakeSandbox {
    fn uid(&self) -> &str {
        &self.spec.uid
    }

    fn attempt(&self) -> u32 {
        self.spec.attempt
    }

    fn state(&self) -> SandboxState {
        self.pod().state.clone()
    }

    fn containers(&self) -> Vec<ContainerState> {
        self.pod().containers.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn netns(&self) -> Result<OwnedFd, SandboxError> {
        let null = std::fs::File::open("/dev/null").expect("every machine has it");
        Ok(null.into())
    }

    async fn start_container(&self, spec: ContainerSpec) -> Result<ContainerState, SandboxError> {
        let ContainerSpec {
            name,
            attempt,
            image,
            ..
        } = &spec;
        self.node.note(format!("start {name} {attempt}"));
        let now_ms = self.now_ms();
        let state = self.pod().start(name, *attempt, image, now_ms);
        self.changed();
        Ok(state)
    }

    async fn signal(&self, name: &str, attempt: u32, signal: i32) -> Result<(), SandboxError> {
        self.node.note(format!("signal {name} {signal}"));
        if !self.node.world().stubborn.contains(name) {
            let now_ms = self.now_ms();
            self.pod().end(name, attempt, TERMINATED_EXIT_CODE, now_ms);
            self.changed();
        }
        Ok(())
    }

    async fn kill(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        self.node.note(format!("kill {name}"));
        let now_ms = self.now_ms();
        self.pod().end(name, attempt, KILLED_EXIT_CODE, now_ms);
        self.changed();
        Ok(())
    }

    async fn remove_container(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        self.pod().remove(name, attempt);
        self.changed();
        Ok(())
    }

    async fn destroy(&self) -> Result<(), SandboxError> {
        self.node.note(format!("destroy {}", self.spec.uid));
        self.die();
        self.node.world().sandboxes.remove(&self.spec.uid);
        Ok(())
    }

    fn disk_places(&self, name: &str, attempt: u32) -> Vec<PathBuf> {
        let of_pod = self.node.dir.join("containers").join(&self.spec.uid);
        vec![of_pod.join(format!("{name}.{attempt}")), self.log_dir(name)]
    }

    fn log_dir(&self, name: &str) -> PathBuf {
        self.node.dir.join("logs").join(&self.spec.uid).join(name)
    }

    fn etc_dir(&self) -> PathBuf {
        self.node.dir.join("etc").join(&self.spec.uid)
    }
}

impl Images for FakeNode {
    fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let known = self.world().images.contains(reference);
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
        self.world().known_pods.insert(link.pod_ip);
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
