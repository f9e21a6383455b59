// SPDX-License-Identifier: Apache-2.0
//! The one interpreter of what is planned for a pod. Every action can be repeated after the agent was
//! killed in the middle of it.
//!
//! Not here: what to do (`knarr_agent_plan::pod`). Called by `worker`.

use super::observe::{Wiring, container as observed_container};
use super::worker::Worker;
use super::{Context, spec, volumes};
use crate::blocking;
use crate::clock;
use crate::events::Kind;
use knarr_agent_plan::container::{NodeLimits, container_plan};
use knarr_agent_plan::pod::{ContainerPhase, PodAction, Wanted, host_network, pulled_message};
use knarr_agent_plan::record::PodFailure;
use knarr_agent_plan::volumes::{VolumePlan, volume_plans};
use knarr_agent_plan::{identity, signal, support};
use knarr_api::feed::PodGone;
use knarr_datapath::PodNetwork;
use knarr_runtime::{Sandbox, SandboxError};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long the end of one pod may hold back others: many times what it takes on a machine that is not stuck.
const END_TURN: Duration = Duration::from_millis(250);

/// Why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It was refused and noted in the record: the status says why.
    #[error("refused")]
    Refused,
    /// The sandbox went away meanwhile; the next round sees that.
    #[error("the sandbox is gone")]
    NoSandbox,
    /// A plan names what the pod does not have, which is an error of the plan.
    #[error("container {name} is not in the pod's spec")]
    NoContainer {
        /// Container name.
        name: String,
    },
    /// A sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] knarr_runtime::RuntimeError),
    /// The network.
    #[error(transparent)]
    Datapath(#[from] knarr_datapath::DatapathError),
    /// Addresses.
    #[error(transparent)]
    Ipam(#[from] super::ipam::IpamError),
    /// Records.
    #[error(transparent)]
    Record(#[from] super::records::RecordError),
}

impl Worker {
    /// Carries out one action.
    pub(super) async fn apply(&mut self, action: &PodAction) -> Result<(), ApplyError> {
        match action {
            PodAction::CreateSandbox { attempt } => self.create_sandbox(*attempt).await,
            PodAction::WireSandbox => self.wire_again().await,
            PodAction::StartContainer { name, attempt } => self.start(name, *attempt).await,
            PodAction::Refuse {
                name,
                reason,
                message,
            } => {
                self.refuse(name, reason, message);
                Ok(())
            }
            PodAction::PreStop {
                name,
                grace_ms,
                sleep_ms,
                cause,
                message,
            } => {
                self.tell(Some(name), Kind::Normal, "Killing", message);
                let now_ms = clock::now_ms();
                self.record
                    .pre_stopping(name, *cause, *grace_ms, *sleep_ms, now_ms);
                Ok(())
            }
            PodAction::Stop {
                name,
                attempt,
                signal,
                grace_ms,
                cause,
                message,
            } => {
                let signal = self.stop_signal(name, signal.as_deref()).await;
                if let Some(message) = message {
                    self.tell(Some(name), Kind::Normal, "Killing", message);
                }
                let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
                sandbox.signal(name, *attempt, signal).await?;
                self.record
                    .stopping(name, *cause, *grace_ms, clock::now_ms());
                Ok(())
            }
            PodAction::Kill { name, attempt } => {
                let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
                let kill = sandbox.kill(name, *attempt);
                Ok(in_turn(&self.context.ends, kill).await?)
            }
            PodAction::RemoveContainer { name, attempt } => {
                let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
                match sandbox.remove_container(name, *attempt).await {
                    Err(SandboxError::NotFound { .. }) => Ok(()),
                    other => Ok(other?),
                }
            }
            PodAction::BeginTermination { failure } => {
                self.begin_termination(failure.clone());
                if let Some(PodFailure { reason, message }) = failure {
                    self.tell(None, Kind::Warning, reason, message);
                }
                Ok(())
            }
            PodAction::DestroySandbox => self.destroy_sandbox().await,
            PodAction::Release => self.release().await,
        }
    }

    fn tell(&self, container: Option<&str>, kind: Kind, reason: &str, message: &str) {
        let events = &self.context.events;
        events.pod(&self.pod, container, kind, reason, message);
    }

    fn refuse(&mut self, name: &str, reason: &str, message: &str) {
        let text = match reason {
            "ErrImagePull" => {
                let image = self
                    .container(name)
                    .and_then(|c| c.image)
                    .unwrap_or_default();
                self.tell(
                    Some(name),
                    Kind::Warning,
                    "Failed",
                    &format!("Failed to pull image \"{image}\": {message}"),
                );
                "Error: ErrImagePull".to_owned()
            }
            "ErrImageNeverPull" => {
                self.tell(Some(name), Kind::Warning, "ErrImageNeverPull", message);
                "Error: ErrImageNeverPull".to_owned()
            }
            "ImagePullBackOff" => {
                let image = self
                    .container(name)
                    .and_then(|c| c.image)
                    .unwrap_or_default();
                let text = format!("Back-off pulling image \"{image}\"");
                self.tell(Some(name), Kind::Normal, "BackOff", &text);
                "Error: ImagePullBackOff".to_owned()
            }
            _ => format!("Error: {message}"),
        };
        let before = self.record.containers.get(name);
        let told = before.and_then(|r| r.refusal.as_ref());
        if told.is_none_or(|r| r.reason != reason || r.message != message) {
            self.tell(Some(name), Kind::Warning, "Failed", &text);
        }
        self.record.refused(name, reason, message, clock::now_ms());
    }

    fn refuse_sandbox(&mut self, reason: &str, message: &str) -> ApplyError {
        let told = self.record.sandbox_refusal.as_ref();
        if told.is_none_or(|r| r.message != message) {
            self.tell(None, Kind::Warning, reason, message);
            tracing::warn!(pod = self.name(), "{message}");
        }
        self.record
            .sandbox_refused(reason, message, clock::now_ms());
        ApplyError::Refused
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), ApplyError> {
        let context = self.context.clone();
        let permit = context.starts.acquire().await;
        let uses_host_network = self.pod.spec.as_ref().is_some_and(host_network);
        let address = match uses_host_network {
            true => None,
            false => Some(self.allocate().await?),
        };
        self.make_volumes().await?;
        let ips = self.pod_ips();
        let (of, uid, pod) = (context.clone(), self.uid.clone(), self.pod.clone());
        // It reads files of the node.
        let spec = blocking::run(move || spec::sandbox(&of, &uid, &pod, attempt, &ips)).await;
        let sandbox = match context.runtime.create_sandbox(spec).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let text = format!(
                    "Failed to create pod sandbox: {}",
                    crate::cli::chain(&error.into())
                );
                return Err(self.refuse_sandbox("FailedCreatePodSandBox", &text));
            }
        };
        // Known before anything else can fail: a handle that is lost could be neither used nor destroyed.
        self.record.sandboxes = attempt + 1;
        self.set_sandbox(Some(sandbox.clone()), Wiring::Impossible);
        if let Some(ip) = address
            && let Err(error) = self.wire(&sandbox, ip).await
        {
            // The next round destroys a sandbox without a network, however often that takes.
            let text = format!(
                "Failed to create pod sandbox: setting up its network: {}",
                crate::cli::chain(&error.into())
            );
            return Err(self.refuse_sandbox("FailedCreatePodSandBox", &text));
        }
        drop(permit);
        self.record.sandbox_refusal = None;
        self.set_sandbox(Some(sandbox), Wiring::Done);
        Ok(())
    }

    async fn allocate(&mut self) -> Result<Ipv4Addr, ApplyError> {
        let welcome = self.context.desired.welcome();
        let range = welcome.and_then(|w| {
            w.pod_cidrs
                .iter()
                .find_map(|cidr| super::ipam::Range::parse(cidr))
        });
        let allocated = match range {
            Some(range) => {
                let (context, uid) = (self.context.clone(), self.uid.clone());
                blocking::run(move || context.ipam.allocate(&uid, range)).await
            }
            None => Err(super::ipam::IpamError::NoRange),
        };
        allocated.map_err(|error| {
            let text = format!(
                "Failed to create pod sandbox: {}",
                crate::cli::chain(&error.into())
            );
            self.refuse_sandbox("FailedCreatePodSandBox", &text)
        })
    }

    /// The sandbox may have been cut off before it had its network; doing it again is harmless. After an error the next
    /// round tries again: a pod that runs is not given up for that. Only without an address there is nothing to try.
    async fn wire_again(&mut self) -> Result<(), ApplyError> {
        let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
        self.wiring = match self.context.ipam.lookup(&self.uid) {
            Some(ip) => {
                self.wire(&sandbox, ip).await?;
                Some(Wiring::Done)
            }
            None => Some(Wiring::Impossible),
        };
        Ok(())
    }

    /// Gives a sandbox its interface and tells the Service programs whose sockets are in it.
    async fn wire(&self, sandbox: &Sandbox, ip: Ipv4Addr) -> Result<(), ApplyError> {
        let netns = sandbox.netns()?;
        let network = PodNetwork {
            host_ifname: PodNetwork::host_ifname(&self.uid),
            pod_ip: ip,
        };
        let context = &self.context;
        context
            .network
            .pod_network_add(netns.as_fd(), &network)
            .await?;
        let known = network.clone();
        context
            .datapath
            .call(move |d| d.set_pod(netns.as_fd(), &known))
            .await?;
        let name = self.name();
        let named = context
            .network
            .pod_network_name(&network.host_ifname, &name);
        if let Err(error) = named.await {
            tracing::debug!(pod = self.name(), "naming its link: {error}");
        }
        Ok(())
    }

    /// Makes the pod's volumes, or brings their files up to date.
    pub(super) async fn make_volumes(&mut self) -> Result<(), ApplyError> {
        let around = spec::surroundings(&self.context, &self.pod, self.pod_ips());
        if let Some(pod_spec) = &self.pod.spec
            && let Some(first) = pod_spec.containers.first()
            && support::check(pod_spec, first, self.context.machine.se_linux).is_err()
        {
            // The container says so itself; the sandbox can be made without what cannot be made.
            self.volumes = Some(Vec::new());
            self.volumes_due = false;
            return Ok(());
        }
        let plans = match volume_plans(&self.pod, &around) {
            Ok(plans) => plans,
            Err(error) => return Err(self.refuse_sandbox("FailedMount", &error.to_string())),
        };
        let pod_sc = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.security_context.as_ref());
        let fs_group = pod_sc
            .and_then(|sc| sc.fs_group)
            .and_then(|g| u32::try_from(g).ok());
        let (context, uid, wanted) = (self.context.clone(), self.uid.clone(), plans.clone());
        match blocking::run(move || make_all(&context, &uid, &wanted, fs_group)).await {
            Ok(()) => {
                self.volumes = Some(plans);
                self.volumes_due = false;
                Ok(())
            }
            Err(error) => Err(self.refuse_sandbox("FailedMount", &error.to_string())),
        }
    }

    async fn start(&mut self, name: &str, attempt: u32) -> Result<(), ApplyError> {
        let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
        let Some(container) = self.container(name) else {
            let name = name.to_owned();
            return Err(ApplyError::NoContainer { name });
        };
        if self.volumes.is_none() {
            self.make_volumes().await?;
        }
        let reference = container.image.clone().unwrap_or_default();
        let store = self.context.runtime.images().clone();
        let wanted = reference.clone();
        let image = match blocking::run(move || store.get(&wanted)).await {
            Ok(Some(image)) => image,
            // It was there a moment ago; the next round says what is missing.
            Ok(None) => return Ok(()),
            Err(error) => {
                let text = crate::cli::chain(&error.into());
                self.refuse(name, "ImageInspectError", &text);
                return Err(ApplyError::Refused);
            }
        };
        let around = spec::surroundings(&self.context, &self.pod, self.pod_ips());
        let hostname = identity::hostname(&self.pod, &self.context.machine.hostname);
        let limits = NodeLimits {
            memory_bytes: self.context.machine.memory_bytes,
        };
        let defaults = spec::image_defaults(&image);
        let planned = container_plan(
            &self.pod, &container, &defaults, &around, &hostname, &limits,
        );
        let planned = match planned {
            Ok(planned) => planned,
            Err(error) => {
                self.refuse(name, "CreateContainerConfigError", &error.to_string());
                return Err(ApplyError::Refused);
            }
        };
        let spec = spec::container(
            &self.context,
            &self.uid,
            &self.pod,
            &container,
            attempt,
            planned,
            self.volumes.as_deref().unwrap_or_default(),
        );
        let context = self.context.clone();
        let permit = context.starts.acquire().await;
        self.tell(
            Some(name),
            Kind::Normal,
            "Pulled",
            &pulled_message(&container),
        );
        let began = std::time::Instant::now();
        let started = sandbox.start_container(spec).await;
        drop(permit);
        let made = |s: &knarr_runtime::ContainerState| s.name == name && s.attempt == attempt;
        match started {
            Ok(state) => {
                self.context.metrics.container_started(began.elapsed());
                self.note_created(&sandbox, name, attempt);
                if matches!(
                    observed_container(&state).phase,
                    ContainerPhase::Running { .. } | ContainerPhase::Exited(_)
                ) {
                    let text = format!("Started container {name}");
                    self.tell(Some(name), Kind::Normal, "Started", &text);
                }
                Ok(())
            }
            Err(error) if sandbox.containers().iter().any(made) => {
                // It exists and ended without running; the next round takes its exit in.
                tracing::info!(
                    pod = self.name(),
                    container = name,
                    "could not be started: {error}"
                );
                self.note_created(&sandbox, name, attempt);
                Ok(())
            }
            Err(error @ SandboxError::Dead { .. }) => Err(error.into()),
            Err(SandboxError::Start { reason, message }) => {
                self.refuse(name, reason, &message);
                Err(ApplyError::Refused)
            }
            Err(error) => {
                let text = crate::cli::chain(&error.into());
                self.refuse(name, "CreateContainerError", &text);
                Err(ApplyError::Refused)
            }
        }
    }

    /// Notes and tells that there is a container now, whether it runs or not.
    fn note_created(&mut self, sandbox: &Sandbox, name: &str, attempt: u32) {
        let number = sandbox.spec().attempt;
        self.record.started(name, attempt, number, clock::now_ms());
        let text = format!("Created container: {name}");
        self.tell(Some(name), Kind::Normal, "Created", &text);
    }

    /// The number of the signal to stop a container with; what the pod asks for comes before the image's.
    async fn stop_signal(&self, name: &str, asked: Option<&str>) -> i32 {
        let own = match asked {
            Some(_) => None,
            None => self.image_stop_signal(name).await,
        };
        let (signal, refused) = signal::stop_signal(asked, own.as_deref());
        if let Some(text) = refused {
            tracing::warn!(
                pod = self.name(),
                container = name,
                "{text:?} is no signal; SIGTERM is sent instead"
            );
        }
        signal
    }

    async fn image_stop_signal(&self, name: &str) -> Option<String> {
        let reference = self.container(name)?.image?;
        let store = self.context.runtime.images().clone();
        match blocking::run(move || store.get(&reference)).await {
            Ok(image) => image?.config.stop_signal,
            Err(error) => {
                let text = crate::cli::chain(&error.into());
                tracing::warn!(
                    pod = self.name(),
                    container = name,
                    "its image cannot be read; SIGTERM is sent instead of the image's own signal: {text}"
                );
                None
            }
        }
    }

    async fn destroy_sandbox(&mut self) -> Result<(), ApplyError> {
        let context = self.context.clone();
        let link = PodNetwork::host_ifname(&self.uid);
        context.network.pod_network_remove(&link).await?;
        match self.sandbox.clone() {
            Some(sandbox) => in_turn(&context.ends, sandbox.destroy()).await?,
            // What a failed start or another version of this program left, if anything.
            None => context.runtime.destroy_sandbox(&self.uid).await?,
        }
        self.set_sandbox(None, Wiring::Done);
        if let Some(ip) = self.context.ipam.lookup(&self.uid) {
            // Before it is given back: afterwards it may be another pod's.
            let datapath = &self.context.datapath;
            datapath.call(move |d| d.forget_pod(ip)).await?;
        }
        let (context, uid) = (self.context.clone(), self.uid.clone());
        blocking::run(move || context.ipam.free(&uid)).await?;
        Ok(())
    }

    async fn release(&mut self) -> Result<(), ApplyError> {
        self.destroy_sandbox().await?;
        self.context.runtime.remove_pod(&self.uid).await?;
        let (context, uid) = (self.context.clone(), self.uid.clone());
        blocking::run(move || context.records.remove(&uid)).await?;
        if self.wanted == Wanted::Yes {
            self.context.outbox.gone(PodGone {
                namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
                name: self.pod.metadata.name.clone().unwrap_or_default(),
                uid: self.uid.clone(),
            });
        }
        tracing::info!(pod = self.name(), uid = self.uid, "the pod is gone");
        Ok(())
    }
}

/// Does `work` when there is room in `turns`. What takes longer than a turn goes on without one: a pod on a disk that
/// hangs holds up nobody else.
async fn in_turn<T>(turns: &Semaphore, work: impl Future<Output = T>) -> T {
    let permit = turns.acquire().await;
    let mut work = pin!(work);
    match tokio::time::timeout(END_TURN, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            drop(permit);
            work.await
        }
    }
}

fn make_all(
    context: &Context,
    uid: &str,
    plans: &[VolumePlan],
    fs_group: Option<u32>,
) -> Result<(), volumes::MountError> {
    for plan in plans {
        let path = volumes::path_of(plan, |plugin, name| {
            context.runtime.volume_dir(uid, plugin, name)
        });
        volumes::make(plan, &path, fs_group)?;
    }
    Ok(())
}
