// SPDX-License-Identifier: Apache-2.0
//! The worker of one pod: fetch, plan, apply, report, wait. It ends when nothing of the pod is left.
//!
//! Not here: decisions (`knarr_agent_plan::pod`), effects (`apply`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use knarr_agent_plan::observed::{Network, Observed, RecordStore, SandboxView};
use knarr_agent_plan::pod::{Plan, PodAction, Stage, Wanted, is_deleted, plan};
use knarr_agent_plan::probe::{ProbeView, probe_specs};
use knarr_agent_plan::reason::PodFailure;
use knarr_agent_plan::record::{Exit, Learned, PodRecord};
use knarr_agent_plan::spec::{containers, host_network};
use knarr_agent_plan::status::{backing_off, status};
use knarr_agent_plan::storage;
use knarr_agent_plan::volumes::{VolumePlan, VolumeSource};
use knarr_api::feed::PodReport;
use knarr_base::blocking;
use knarr_pod::ContainerState;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::observe::{self, Wiring};
use super::published::PublishedRecord;
use super::sizes::{DiskPlaces, Measured, Sizes};
use super::{Context, spec};
use crate::edges::SandboxHandle;
use crate::events::{EventReason, Kind};
use crate::probes::{Probes, RemarkKind};
use crate::volumes::path_of;

mod apply;

use apply::ApplyError;

/// The first and the longest pause after an action failed, in milliseconds.
const ERROR_PAUSE_MS: (u64, u64) = (500, 10_000);
/// How often a record that could not be written is tried again: a disk is rarely full for long.
const SAVE_RETRY: Duration = Duration::from_secs(5);
/// How often a sandbox that could not be read is looked at again.
const ADOPT_RETRY: Duration = Duration::from_secs(10);

/// Tells a worker that something it refused for may be there now.
#[derive(Default)]
pub struct Retry(AtomicBool);

impl Retry {
    /// The next round does not wait for the retry time.
    pub fn now(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing is left of the pod, and the control plane is told.
    Released,
    /// Nothing is left of a pod that the control plane had forgotten.
    Abandoned,
    /// The agent stops; the pod goes on.
    Stopped,
}

/// What was asked for a moment ago and has not shown yet, e.g. a kill, is asked for again after this long.
const REPEAT_PAUSE: Duration = Duration::from_millis(200);

/// See the module's comment.
pub struct Worker {
    pub(super) context: Arc<Context>,
    pub(super) uid: String,
    pub(super) pod: Arc<Pod>,
    pub(super) wanted: Wanted,
    pub(super) sandbox: Option<SandboxHandle>,
    pub(super) record: PodRecord,
    /// As they were made last; none before that.
    pub(super) volumes: Option<Vec<VolumePlan>>,
    /// What their files are made of may have changed since then.
    pub(super) volumes_due: bool,
    /// Kept over rounds, so that a change between a look and a wait wakes.
    changes: Option<watch::Receiver<u64>>,
    wake: Arc<Notify>,
    retry: Arc<Retry>,
    published: PublishedRecord,
    /// None as long as nobody has looked, which is so for a sandbox that was taken over.
    pub(super) wiring: Option<Wiring>,
    probes: Probes,
    released: bool,
    /// Attempts whose back-off has been told.
    told_back_off: BTreeMap<String, u32>,
    sizes: Sizes,
    /// What the last look at the sizes found.
    outgrown: Option<PodFailure>,
    /// What it could not read, as told.
    unread: Vec<String>,
}

impl Worker {
    /// A worker for a pod, with the sandbox and the record that an agent before this one made, if it did.
    pub fn new(
        context: Arc<Context>,
        uid: String,
        pod: Arc<Pod>,
        sandbox: Option<SandboxHandle>,
        stored: Option<PodRecord>,
        wake: Arc<Notify>,
        retry: Arc<Retry>,
    ) -> Worker {
        let record = stored
            .clone()
            .unwrap_or_else(|| PodRecord::new(&pod, context.clock.now_ms()));
        let live = context.live.publish(&uid, &record);
        Worker {
            published: PublishedRecord::new(&uid, context.records.clone(), live, stored),
            probes: Probes::new(wake.clone(), context.edges.ask.clone()),
            context,
            uid,
            pod,
            wanted: Wanted::Yes,
            changes: sandbox.as_ref().map(|s| s.changes()),
            sandbox,
            record,
            volumes: None,
            volumes_due: true,
            wake,
            retry,
            wiring: None,
            released: false,
            told_back_off: Default::default(),
            sizes: Sizes::new(),
            outgrown: None,
            unread: Vec::new(),
        }
    }

    /// Runs until nothing is left of the pod or the agent stops.
    pub async fn run(mut self, shutdown: CancellationToken) -> Over {
        let mut pause_ms = ERROR_PAUSE_MS.0;
        let mut before: Vec<PodAction> = Vec::new();
        self.take_over(&shutdown).await;
        loop {
            if shutdown.is_cancelled() {
                return Over::Stopped;
            }
            self.refresh();
            let mut observed = self.observe().await;
            let now_ms = self.context.clock.now_ms();
            let live = self.live_containers();
            if self.record.absorb(&observed, now_ms) == Learned::Something {
                self.tell_failed_starts(&observed);
            }
            // When a container began to run is known from here on, and with it when it is asked first: nothing else may
            // wake this worker for that.
            self.follow_probes(&mut observed);
            self.save().await;
            observed.record = self.published.store().clone();
            self.refresh_volumes(&observed).await;
            let round = plan(&self.pod, self.wanted, &self.record, &observed, now_ms);
            // What ended is told before it is replaced: where many wait for their turn to start that takes its time, and
            // nobody should be sent there meanwhile.
            let fewer = self.live_containers() < live;
            if fewer || round.actions.is_empty() || round.stage == Stage::Terminated {
                self.report(&observed);
            }
            let failed = self.apply_all(&round).await;
            self.save().await;
            if self.released {
                return match self.wanted {
                    Wanted::Yes => Over::Released,
                    Wanted::Removed => Over::Abandoned,
                };
            }
            let repeated = round.actions == before;
            let pause = match (failed, round.actions.is_empty()) {
                (false, false) if repeated => Some(REPEAT_PAUSE),
                (false, false) => {
                    before = round.actions;
                    continue;
                }
                (false, true) => {
                    pause_ms = ERROR_PAUSE_MS.0;
                    round.wake_ms.map(|at_ms| self.context.clock.until(at_ms))
                }
                (true, _) => {
                    let pause = knarr_base::jitter(Duration::from_millis(pause_ms));
                    pause_ms = (pause_ms * 2).min(ERROR_PAUSE_MS.1);
                    Some(pause)
                }
            };
            if round.actions.is_empty() {
                before.clear();
            }
            let pause = match self.published.store() {
                RecordStore::Kept => pause,
                RecordStore::Failing(_) => Some(pause.map_or(SAVE_RETRY, |p| p.min(SAVE_RETRY))),
            };
            self.wait(pause, &shutdown).await;
        }
    }

    /// Finds the sandbox of a worker before this one, which this one was not given. One that runs and cannot
    /// be read is left as it is: making another beside it would run everything twice. Deleting the pod ends it.
    async fn take_over(&mut self, shutdown: &CancellationToken) {
        let mut told = String::new();
        while self.sandbox.is_none() && !shutdown.is_cancelled() {
            self.refresh();
            let text = match self.context.edges.sandboxes.adopt_one(&self.uid).await {
                Ok(None) => return,
                Ok(Some(sandbox)) => {
                    self.changes = Some(sandbox.changes());
                    self.sandbox = Some(sandbox);
                    return;
                }
                Err(_) if is_deleted(&self.pod, self.wanted) => return,
                Err(error) => knarr_base::chain(&error),
            };
            if text != told {
                tracing::error!(pod = self.name(), "{text}");
                self.context.events.pod(
                    &self.pod,
                    None,
                    Kind::Warning,
                    &EventReason::FailedPodSandBoxStatus,
                    &text,
                );
                told = text;
            }
            self.wait(Some(ADOPT_RETRY), shutdown).await;
        }
    }

    fn refresh(&mut self) {
        match self.context.desired.pod(&self.uid) {
            Some(pod) => {
                if !Arc::ptr_eq(&self.pod, &pod) {
                    self.take_changed(pod);
                }
                self.wanted = Wanted::Yes;
            }
            None => self.wanted = Wanted::Removed,
        }
        if self.retry.take() {
            self.record.retry_now();
            self.volumes_due = true;
        }
    }

    /// Files of its volumes may say what its metadata or its spec says, and somebody else may have written its status.
    fn take_changed(&mut self, pod: Arc<Pod>) {
        if self.pod.spec != pod.spec {
            // What was refused for what it asked may ask for something else now.
            self.record.retry_now();
        }
        self.pod = pod;
        self.volumes_due = true;
        self.context.outbox.say_again(&self.uid);
    }

    /// A running pod sees changed ConfigMaps, Secrets and fields of its own in its volumes, and a restarted agent learns again
    /// which volumes there are.
    async fn refresh_volumes(&mut self, observed: &Observed) {
        let usable = observed.sandbox.as_ref().is_some_and(SandboxView::runs);
        if usable && self.volumes_due && self.record.termination.is_none() {
            // What is missing now was told by the call; the volume keeps what it has.
            if let Err(error) = self.make_volumes().await {
                tracing::debug!(pod = self.name(), "volumes stay as they are: {error}");
            }
        }
    }

    async fn observe(&mut self) -> Observed {
        if let Some(changes) = &mut self.changes {
            changes.borrow_and_update();
        }
        let host_ip = self.context.machine.node_ip.to_string();
        let empty = PodSpec::default();
        let pod = self.pod.clone();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let mut observed = match self.sandbox.clone() {
            None => Observed::default(),
            Some(sandbox) => {
                let ips = match self.context.ipam.lookup(&self.uid) {
                    _ if host_network(spec) => vec![host_ip],
                    Some(ip) => vec![ip.to_string()],
                    None => Vec::new(),
                };
                let wiring = if host_network(spec) {
                    Some(Wiring::Done)
                } else {
                    self.wiring
                };
                observe::sandbox(&*sandbox, ips, wiring)
            }
        };
        observed.network = match self.context.desired.welcome() {
            Some(w) if !w.pod_cidrs.is_empty() => Network::Known,
            _ => Network::Unknown,
        };
        observed.outgrown.clone_from(&self.outgrown);
        observed.se_linux = self.context.machine.se_linux;
        // What the runtime says now, not what was known before: an attempt that has just ended is followed
        // by another.
        let live = |name: &str| {
            let mut views = observed.containers.iter();
            views.any(|v| v.name == name && v.is_live())
        };
        let mut wanted: Vec<String> = containers(spec)
            .filter(|(c, _)| !live(&c.name))
            .filter_map(|(c, _)| c.image.clone())
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        if observed.sandbox.is_some() && !wanted.is_empty() {
            let store = self.context.edges.images.clone();
            observed.images = blocking::run(move || observe::images(&*store, wanted)).await;
        }
        observed
    }

    /// A new sandbox, and whether it has its network; or none.
    pub(super) fn set_sandbox(&mut self, sandbox: Option<SandboxHandle>, wiring: Wiring) {
        self.wiring = sandbox.as_ref().map(|_| wiring);
        self.changes = sandbox.as_ref().map(|s| s.changes());
        self.sandbox = sandbox;
    }

    /// Asks the probes of what runs and of nothing else, and takes their verdicts in.
    fn follow_probes(&mut self, observed: &mut Observed) {
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return };
        let pod_ip = observed.sandbox.as_ref().and_then(|s| s.ips.first());
        self.ask_running(spec, pod_ip);
        observed.probes = self.observe_probes(spec);
        for (name, view) in &observed.probes {
            let record = self.record.containers.get_mut(name);
            if let Some(record) = record.filter(|r| r.is_live()) {
                record.passed_startup = view.started.unwrap_or(true);
                record.ready = view.ready.unwrap_or(true);
            }
        }
        self.tell_remarks();
    }

    fn ask_running(&mut self, spec: &PodSpec, pod_ip: Option<&String>) {
        let running = |name: &str, attempt: u32| {
            let record = self.record.containers.get(name);
            record.is_some_and(|r| r.is_live() && r.attempt() == Some(attempt))
        };
        self.probes.retain(running);
        let now_ms = self.context.clock.now_ms();
        for (container, _) in containers(spec) {
            let record = self.record.containers.get(&container.name);
            let live = record.filter(|r| r.is_live());
            if let (Ok(specs), Some(record), Some(ip)) = (probe_specs(container), live, pod_ip)
                && let (Some(attempt), Some(started_ms)) = (record.attempt(), record.started_ms)
            {
                let age = now_ms.saturating_sub(started_ms).max(0);
                let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
                let known = ProbeView {
                    started: Some(record.passed_startup),
                    ready: Some(record.ready),
                    failed: None,
                };
                self.probes
                    .start(&container.name, attempt, specs, ip, age, &known);
            }
        }
    }

    /// The verdicts; what is to be asked and is not asked yet has none.
    fn observe_probes(&self, spec: &PodSpec) -> BTreeMap<String, ProbeView> {
        let mut views = BTreeMap::new();
        for (container, _) in containers(spec) {
            if let Ok(specs) = probe_specs(container)
                && !specs.is_empty()
            {
                let fresh = specs.into_iter().map(|s| (s, Default::default()));
                let fresh: Vec<_> = fresh.collect();
                views.insert(
                    container.name.clone(),
                    knarr_agent_plan::probe::probe_view(&fresh),
                );
            }
        }
        views.extend(self.probes.views());
        views
    }

    fn tell_remarks(&self) {
        for remark in self.probes.take_remarks() {
            let probe = remark.probe.as_str();
            let title = format!("{}{}", probe[..1].to_uppercase(), &probe[1..]);
            let (reason, became) = match remark.kind {
                RemarkKind::Failed => (EventReason::Unhealthy, "failed"),
                RemarkKind::Warned => (EventReason::ProbeWarning, "warning"),
            };
            self.context.events.pod(
                &self.pod,
                Some(&remark.container),
                Kind::Warning,
                &reason,
                &format!("{title} probe {became}: {}", remark.message),
            );
        }
    }

    /// A container whose program could not be executed ends by itself; say why once.
    fn tell_failed_starts(&self, observed: &Observed) {
        let known = self.published.known();
        for view in &observed.containers {
            let before = known.containers.get(&view.name);
            let told = before.is_some_and(|r| {
                r.attempt() == Some(view.attempt) && r.exit.is_some()
                    || r.attempts > view.attempt + 1
            });
            if let Some(exit) = Exit::of(view)
                && !told
                && exit.never_ran()
            {
                let message = exit
                    .message
                    .as_deref()
                    .unwrap_or("the program could not be started");
                let text = format!("Error: {message}");
                let container = Some(view.name.as_str());
                let events = &self.context.events;
                let reason = EventReason::Failed;
                events.pod(&self.pod, container, Kind::Warning, &reason, &text);
            }
        }
    }

    fn live_containers(&self) -> usize {
        let records = self.record.containers.values();
        records.filter(|record| record.is_live()).count()
    }

    async fn save(&mut self) {
        if !self.released {
            self.published.keep(&self.record).await;
        }
    }

    fn report(&mut self, observed: &Observed) {
        let host_ips = [self.context.machine.node_ip.to_string()];
        let now_ms = self.context.clock.now_ms();
        let status = status(
            &self.pod,
            self.wanted,
            &mut self.record,
            observed,
            &host_ips,
            now_ms,
        );
        for (name, attempts) in backing_off(&status, &self.record) {
            if self.told_back_off.get(&name) != Some(&attempts) {
                self.told_back_off.insert(name.clone(), attempts);
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    self.long_name()
                );
                let events = &self.context.events;
                let reason = EventReason::BackOff;
                events.pod(&self.pod, Some(&name), Kind::Warning, &reason, &text);
            }
        }
        if self.wanted == Wanted::Removed {
            return;
        }
        match serde_json::to_vec(&status) {
            Ok(json) => self.context.outbox.pod(PodReport {
                namespace: self.pod.metadata.namespace.clone().unwrap_or_default(),
                name: self.pod.metadata.name.clone().unwrap_or_default(),
                uid: self.uid.clone(),
                status_json: json.into(),
            }),
            Err(error) => tracing::error!(pod = self.name(), %error, "a status cannot be written"),
        }
    }

    /// Applies in order; true when one failed.
    async fn apply_all(&mut self, round: &Plan) -> bool {
        for action in &round.actions {
            tracing::debug!(pod = self.name(), ?action, "applying");
            match self.apply(action).await {
                Ok(()) => {}
                Err(ApplyError::Refused) => return false,
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    tracing::warn!(pod = self.name(), "{}", knarr_base::chain(&*error));
                    self.context.metrics.action_failed();
                    return true;
                }
            }
            if *action == PodAction::Release {
                self.released = true;
            }
        }
        false
    }

    async fn wait(&mut self, pause: Option<Duration>, shutdown: &CancellationToken) {
        let limited = self.limited_places();
        let is_limited = limited.is_some();
        if let Some(places) = limited {
            self.sizes.look(places);
        }
        let sandbox_changed = async {
            match &mut self.changes {
                Some(changes) => {
                    if changes.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        // A look goes on when its arm is dropped. Every other arm only waits; the next round looks at everything again.
        let measured = tokio::select! {
            measured = self.sizes.next(), if is_limited => measured,
            () = self.wake.notified() => None,
            () = sandbox_changed => None,
            () = timer => None,
            () = shutdown.cancelled() => None,
        };
        if let Some(measured) = measured {
            self.take_sizes(measured);
        }
    }

    /// What is to be measured, if anything is.
    fn limited_places(&self) -> Option<DiskPlaces> {
        let (spec, volumes) = (self.pod.spec.as_ref()?, self.volumes.as_deref()?);
        if self.record.termination.is_some() || !storage::is_limited(spec, volumes) {
            return None;
        }
        let sandbox = self.sandbox.as_ref()?;
        let places = |state: &ContainerState| {
            let places = sandbox.disk_places(&state.name, state.attempt);
            (state.name.clone(), places)
        };
        let (live, ended): (Vec<_>, Vec<_>) =
            sandbox.containers().into_iter().partition(|s| s.is_live());
        // A running container's log directory counts for it, with the logs of the attempts before.
        let runs = |name: &str| live.iter().any(|s| s.name == name);
        let left = ended.iter().filter(|s| !runs(&s.name));
        let mut pod: Vec<PathBuf> = left.map(|s| sandbox.log_dir(&s.name)).collect();
        pod.sort();
        pod.dedup();
        pod.push(sandbox.etc_dir());
        let on_disk = |plan: &&VolumePlan| matches!(plan.source, VolumeSource::Directory { .. });
        let path = |plan: &VolumePlan| {
            let dir = |plugin: &str, name: &str| {
                let volumes = &self.context.edges.volumes;
                volumes.dir(&self.uid, plugin, name)
            };
            (plan.name.clone(), path_of(plan, dir))
        };
        Some(DiskPlaces {
            containers: live.iter().map(places).collect(),
            volumes: volumes.iter().filter(on_disk).map(path).collect(),
            pod,
        })
    }

    fn take_sizes(&mut self, measured: Measured) {
        let Measured { usage, unread } = measured;
        // Once for as long as it is the same: there is a look every few seconds.
        if unread != self.unread {
            for text in &unread {
                tracing::warn!(
                    pod = self.name(),
                    "not all of what it keeps on disk can be measured: {text}"
                );
            }
            self.unread = unread;
        }
        if let Some(spec) = &self.pod.spec {
            let volumes = self.volumes.as_deref().unwrap_or_default();
            self.outgrown = storage::exceeded(spec, volumes, &usage);
        }
    }

    /// The node does not take the pod on: it fails before anything is made for it.
    pub(super) fn reject(&mut self, failure: PodFailure) {
        let PodFailure { reason, message } = &failure;
        let events = &self.context.events;
        let reason = EventReason::Pod(reason.clone());
        events.pod(&self.pod, None, Kind::Warning, &reason, message);
        self.begin_termination(Some(failure));
    }

    pub(super) fn begin_termination(&mut self, failure: Option<PodFailure>) {
        self.record
            .termination
            .get_or_insert(knarr_agent_plan::record::Termination {
                since_ms: self.context.clock.now_ms(),
                failure,
            });
    }

    /// For logs.
    pub(super) fn name(&self) -> String {
        let (namespace, name) = super::pod_name(&self.pod);
        format!("{namespace}/{name}")
    }

    /// As Kubernetes' messages name a pod.
    pub(super) fn long_name(&self) -> String {
        let (namespace, name) = super::pod_name(&self.pod);
        format!("{name}_{namespace}({})", self.uid)
    }

    /// The pod's addresses now.
    pub(super) fn pod_ips(&self) -> Vec<String> {
        if self.pod.spec.as_ref().is_some_and(host_network) {
            vec![self.context.machine.node_ip.to_string()]
        } else {
            let ip = self.context.ipam.lookup(&self.uid);
            ip.map(|ip| ip.to_string()).into_iter().collect()
        }
    }

    /// The pod's container of this name.
    pub(super) fn container(&self, name: &str) -> Option<k8s_openapi::api::core::v1::Container> {
        spec::find(&self.pod, name).cloned()
    }
}
