// SPDX-License-Identifier: Apache-2.0
//! One sandbox of a [`FakeNode`]: a handle that answers as `knarr_runtime::Sandbox` does.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use knarr_agent_plan::simulated::{KILLED_EXIT_CODE, SimulatedSandbox, TERMINATED_EXIT_CODE};
use knarr_pod::{ContainerSpec, ContainerState, SandboxSpec, SandboxState};
use knarr_runtime::SandboxError;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{FakeNode, SANDBOX_DIRS};
use crate::edges::{Images, PodLink, Sandbox};

/// What a handle says whose shim is gone.
const SHIM_DIED: &str = "its shim died";

/// See the module's comment.
pub struct FakeSandbox {
    node: Arc<FakeNode>,
    spec: SandboxSpec,
    pod: Mutex<SimulatedSandbox>,
    changes: watch::Sender<u64>,
}

impl FakeSandbox {
    /// One that was just made.
    pub(super) fn new(node: &Arc<FakeNode>, spec: SandboxSpec) -> Arc<FakeSandbox> {
        Arc::new(FakeSandbox {
            node: node.clone(),
            pod: Mutex::new(SimulatedSandbox::new(spec.attempt)),
            changes: watch::Sender::new(0),
            spec,
        })
    }

    fn pod(&self) -> MutexGuard<'_, SimulatedSandbox> {
        self.pod.lock()
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

    /// The shim dies, and with it every container, the pause process, and the link into its network namespace.
    pub fn die(&self) {
        self.pod().lose(SHIM_DIED, self.now_ms());
        let link = PodLink::host_ifname(&self.spec.uid);
        self.node.world().links.remove(&link);
        self.changed();
    }

    /// Fails as the real handle does where the shim is gone.
    fn check_alive(&self) -> Result<(), SandboxError> {
        match self.state() {
            SandboxState::Ready => Ok(()),
            SandboxState::Dead { reason } => Err(self.dead(reason)),
        }
    }

    /// The container, or as the real handle fails without it.
    fn ask_about(&self, name: &str, attempt: u32) -> Result<ContainerState, SandboxError> {
        self.check_alive()?;
        let known = self.pod().container(name, attempt).cloned();
        known.ok_or_else(|| SandboxError::NotFound {
            uid: self.spec.uid.clone(),
            name: name.to_owned(),
            attempt,
        })
    }

    fn dead(&self, reason: String) -> SandboxError {
        SandboxError::Dead {
            uid: self.spec.uid.clone(),
            reason,
        }
    }

    /// The last attempt of a container.
    pub fn last(&self, name: &str) -> Option<ContainerState> {
        self.pod().last(name).cloned()
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
        if self.check_alive().is_err() {
            return Err(self.dead("the pause process is gone".to_owned()));
        }
        let null = std::fs::File::open("/dev/null").expect("every machine has it");
        Ok(null.into())
    }

    async fn start_container(&self, spec: ContainerSpec) -> Result<ContainerState, SandboxError> {
        knarr_runtime::check_container(&spec)?;
        let ContainerSpec {
            name,
            attempt,
            image,
            ..
        } = &spec;
        if self.node.get(image)?.is_none() {
            let reference = image.clone();
            return Err(SandboxError::NoImage { reference });
        }
        self.check_alive()?;
        self.node.note(format!("start {name} {attempt}"));
        let now_ms = self.now_ms();
        let state = self.pod().start(name, *attempt, image, now_ms);
        self.changed();
        Ok(state)
    }

    async fn signal(&self, name: &str, attempt: u32, signal: i32) -> Result<(), SandboxError> {
        let state = self.ask_about(name, attempt)?;
        self.node.note(format!("signal {name} {signal}"));
        if state.is_live() && !self.node.world().stubborn.contains(name) {
            let now_ms = self.now_ms();
            self.pod().end(name, attempt, TERMINATED_EXIT_CODE, now_ms);
            self.changed();
        }
        Ok(())
    }

    async fn kill(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        let state = self.ask_about(name, attempt)?;
        self.node.note(format!("kill {name}"));
        if state.is_live() {
            let now_ms = self.now_ms();
            self.pod().end(name, attempt, KILLED_EXIT_CODE, now_ms);
            self.changed();
        }
        Ok(())
    }

    async fn remove_container(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        if self.ask_about(name, attempt)?.is_live() {
            return Err(SandboxError::Refused(format!(
                "container {name} (attempt {attempt}) is running"
            )));
        }
        self.pod().remove(name, attempt);
        self.changed();
        Ok(())
    }

    async fn destroy(&self) -> Result<(), SandboxError> {
        let uid = &self.spec.uid;
        self.node.note(format!("destroy {uid}"));
        let now_ms = self.now_ms();
        {
            let mut pod = self.pod();
            let live = pod.containers.iter().filter(|c| c.is_live());
            let live: Vec<_> = live.map(|c| (c.name.clone(), c.attempt)).collect();
            for (name, attempt) in live {
                pod.end(&name, attempt, KILLED_EXIT_CODE, now_ms);
            }
            pod.state = SandboxState::Dead {
                reason: "it was destroyed".to_owned(),
            };
        }
        self.node.world().sandboxes.remove(uid);
        self.node.remove_dirs(&SANDBOX_DIRS, uid);
        let link = PodLink::host_ifname(uid);
        self.node.world().links.remove(&link);
        self.changed();
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
