// SPDX-License-Identifier: Apache-2.0
//! All pods of this node: one worker for each UID, and the pruning of what belongs to none.
//!
//! Not here: the life of one pod (`worker`), decisions (`knarr-agent-plan`). Spawned once by `run`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use knarr_agent_plan::Millis;
use knarr_agent_plan::admission::{NodeTerms, admit, holds_resources};
use knarr_agent_plan::pod::{Wanted, is_deleted};
use knarr_agent_plan::reason::PodFailure;
use knarr_agent_plan::sysctls::AllowedSysctls;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::desired::Desired;
use crate::edges::{Edges, PodLink, PodNetwork, SandboxHandle};
use crate::events::{EventReason, Events, Kind};
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::outbox::Outbox;

mod failures;
pub mod ipam;
pub mod live;
mod observe;
mod published;
pub mod records;
mod sizes;
mod spec;
mod worker;

use failures::Failures;
use ipam::Ipam;
use live::Live;
use records::Records;
use worker::Worker;

/// Sandboxes and containers that are made at the same time: more only makes each slower.
pub const STARTS_AT_ONCE: usize = 4;
/// Containers that are killed and sandboxes that are taken away at the same time: the kernel's locks for
/// cgroups and mounts are one for all, and a pod that starts meanwhile would wait behind each of them.
pub const ENDS_AT_ONCE: usize = 2;
/// How long after a failed clean-up it is tried again.
const PRUNE_RETRY: Duration = Duration::from_secs(10);

/// What every worker shares.
pub struct Context {
    /// What is wanted.
    pub desired: Arc<Desired>,
    /// What is said.
    pub outbox: Arc<Outbox>,
    /// Events.
    pub events: Arc<Events>,
    /// Sandboxes, images, links, kernel programs.
    pub edges: Edges,
    /// The time.
    pub clock: Clock,
    /// Addresses.
    pub ipam: Ipam,
    /// Records.
    pub records: Arc<Records>,
    /// This machine.
    pub machine: Arc<Machine>,
    /// How many pods this node takes on.
    pub max_pods: u32,
    /// What pods may set.
    pub sysctls: AllowedSysctls,
    /// Process limit of a pod.
    pub pod_pids: Option<i64>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Records for readers beside the workers.
    pub live: Arc<Live>,
    /// Limits [`STARTS_AT_ONCE`].
    pub starts: Semaphore,
    /// Limits [`ENDS_AT_ONCE`].
    pub ends: Semaphore,
}

/// Namespace and name: at most one pod of a name lives at a time.
type PodName = (String, String);

struct Running {
    wake: Arc<Notify>,
    name: PodName,
    retry: Arc<worker::Retry>,
}

/// The manager of the workers.
pub struct Pods {
    context: Arc<Context>,
    workers: HashMap<String, Running>,
    tasks: JoinSet<worker::Over>,
    task_uids: HashMap<Id, String>,
    /// Sandboxes of an agent before this one that no worker has taken over yet.
    adopted: BTreeMap<String, SandboxHandle>,
    /// Pods that are over and whose API object is still there.
    released: BTreeSet<String>,
    failures: Failures,
    prune: Prune,
}

/// Whether there may be something that belongs to no pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prune {
    Done,
    /// Not before this moment.
    Due(Instant),
}

fn pod_name(pod: &Pod) -> PodName {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    (text(&pod.metadata.namespace), text(&pod.metadata.name))
}

impl Pods {
    /// Finds what an agent before this one left running.
    pub async fn adopt(context: Arc<Context>) -> Result<Pods, knarr_runtime::RuntimeError> {
        let sandboxes = context.edges.sandboxes.adopt().await?;
        if !sandboxes.is_empty() {
            tracing::info!(sandboxes = sandboxes.len(), "adopted running pods");
        }
        let adopted = sandboxes
            .into_iter()
            .map(|s| (s.uid().to_owned(), s))
            .collect();
        Ok(Pods {
            context,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            task_uids: HashMap::new(),
            adopted,
            released: BTreeSet::new(),
            failures: Failures::default(),
            prune: Prune::Done,
        })
    }

    /// Runs until `shutdown`; pods stay as they are.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut changes = self.context.desired.watch_pods();
        loop {
            changes.borrow_and_update();
            self.take_touched();
            self.forget_failures();
            if let Prune::Due(at) = self.prune
                && Instant::now() >= at
            {
                self.prune().await;
            }
            // One moment for both: a worker that is not due by now is waited for.
            let clock = self.context.clock;
            let now_ms = clock.now_ms();
            self.spawn_missing(&shutdown, now_ms).await;
            let retry = async {
                match self.prune {
                    Prune::Due(at) => tokio::time::sleep_until(at).await,
                    Prune::Done => std::future::pending().await,
                }
            };
            let next_worker = self.failures.next_due(now_ms);
            let next_worker = async {
                match next_worker {
                    Some(due_ms) => tokio::time::sleep(clock.until(due_ms)).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm only waits: a dropped one waits again in the next round.
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.ended(ended);
                }
                () = retry => {}
                () = next_worker => {}
                () = shutdown.cancelled() => break,
            }
        }
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(ended);
        }
    }

    fn take_touched(&mut self) {
        let touched = self.context.desired.take_touched_pods();
        if touched.complete {
            self.prune_soon();
        }
        for (uid, worker) in &self.workers {
            let objects = touched.namespaces.contains(&worker.name.0);
            if touched.all || objects {
                worker.retry.now();
            }
            if touched.all || objects || touched.uids.contains(uid) {
                worker.wake.notify_one();
            }
        }
        let desired = &self.context.desired;
        let gone: Vec<String> = self
            .released
            .iter()
            .filter(|uid| desired.pod(uid).is_none())
            .cloned()
            .collect();
        for uid in gone {
            self.released.remove(&uid);
            self.context.outbox.forget(&uid);
        }
    }

    /// A pod that is gone before its next worker began leaves to the pruning whatever it had.
    fn forget_failures(&mut self) {
        let desired = &self.context.desired;
        let gone = |uid: &&String| desired.pod(uid).is_none() && !self.workers.contains_key(*uid);
        let gone: Vec<String> = self.failures.uids().filter(gone).cloned().collect();
        for uid in gone {
            self.failures.forget(&uid);
            self.context.outbox.forget(&uid);
            self.prune_soon();
        }
    }

    async fn spawn_missing(&mut self, shutdown: &CancellationToken, now_ms: Millis) {
        let mut names: BTreeSet<PodName> = self.workers.values().map(|w| w.name.clone()).collect();
        let desired = self.context.desired.clone();
        let waiting: BTreeSet<String> = self.failures.waiting(now_ms).cloned().collect();
        // Their names are taken: something of them may be there.
        let wait = waiting.iter().filter_map(|uid| desired.pod(uid));
        names.extend(wait.map(|pod| pod_name(&pod)));
        let mut missing: Vec<(String, Arc<Pod>)> = desired
            .pod_uids()
            .into_iter()
            .filter(|uid| !self.workers.contains_key(uid) && !self.released.contains(uid))
            .filter(|uid| !waiting.contains(uid))
            .filter_map(|uid| desired.pod(&uid).map(|pod| (uid, pod)))
            .collect();
        // Whoever was there first is taken on first.
        missing.sort_by_cached_key(|(_, pod)| {
            let created = pod.metadata.creation_timestamp.as_ref();
            created.map(|t| t.0.as_millisecond())
        });
        for (uid, pod) in missing {
            let name = pod_name(&pod);
            // A pod of the same name that is not over yet comes first.
            if !names.insert(name.clone()) {
                continue;
            }
            let (records, of) = (self.context.records.clone(), uid.clone());
            let stored = match knarr_base::blocking::run(move || records.load(&of)).await {
                Ok(stored) => stored,
                Err(error) => {
                    self.failed(&uid, &knarr_base::chain(&error));
                    continue;
                }
            };
            let wake = Arc::new(Notify::new());
            let retry = Arc::new(worker::Retry::default());
            let sandbox = self.adopted.remove(&uid);
            let refusal = match (&sandbox, &stored) {
                (None, None) => self.refusal(&pod),
                _ => None,
            };
            let mut worker = Worker::new(
                self.context.clone(),
                uid.clone(),
                pod,
                sandbox,
                stored,
                wake.clone(),
                retry.clone(),
            );
            if let Some(failure) = refusal {
                worker.reject(failure);
            }
            let handle = self.tasks.spawn(worker.run(shutdown.clone()));
            self.task_uids.insert(handle.id(), uid.clone());
            let running = Running { wake, name, retry };
            self.workers.insert(uid, running);
        }
        self.context.metrics.pods(self.workers.len());
    }

    /// Why this node does not take a pod on that is new to it.
    fn refusal(&self, pod: &Pod) -> Option<PodFailure> {
        let context = &self.context;
        let started = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        if started || is_deleted(pod, Wanted::Yes) {
            return None;
        }
        let terms = NodeTerms {
            allocatable: context.machine.allocatable(context.max_pods),
            // What somebody else gave the Node object as labels does not come over the feed.
            labels: context.machine.labels(),
            sysctls: context.sysctls.clone(),
        };
        // Pods without a worker, because theirs failed or is to come, may have containers that run.
        let others: BTreeSet<&String> = self
            .workers
            .keys()
            .chain(self.failures.uids())
            .chain(self.adopted.keys())
            .collect();
        let holding: Vec<Arc<Pod>> = others
            .into_iter()
            .filter_map(|uid| {
                let pod = context.desired.pod(uid)?;
                let holds = context
                    .live
                    .watch(uid)
                    .is_none_or(|record| holds_resources(&pod, &record.borrow()));
                holds.then_some(pod)
            })
            .collect();
        admit(pod, holding.iter().map(|p| &**p), &terms).err()
    }

    fn ended(&mut self, ended: Result<(Id, worker::Over), tokio::task::JoinError>) {
        match ended {
            Ok((id, over)) => {
                let Some(uid) = self.task_uids.remove(&id) else {
                    return;
                };
                self.workers.remove(&uid);
                self.context.live.remove(&uid);
                self.failures.forget(&uid);
                match (over, self.context.desired.pod(&uid)) {
                    (worker::Over::Released, Some(_)) => {
                        self.released.insert(uid);
                    }
                    (_, None) => self.context.outbox.forget(&uid),
                    // Wanted again, or the agent stops.
                    (worker::Over::Abandoned | worker::Over::Stopped, Some(_)) => {}
                }
            }
            Err(error) => {
                let uid = self.task_uids.remove(&error.id());
                tracing::error!(?uid, %error, "a pod worker failed");
                if let Some(uid) = uid {
                    self.failed(&uid, &error.to_string());
                }
            }
        }
    }

    /// Another worker follows after a pause; it takes the sandbox over as a restarted agent would.
    fn failed(&mut self, uid: &str, why: &str) {
        self.workers.remove(uid);
        self.context.live.remove(uid);
        let clock = self.context.clock;
        let due_ms = self.failures.add(uid, clock.now_ms());
        if let Some(pod) = self.context.desired.pod(uid) {
            let text = format!(
                "the agent failed while it looked after this pod ({why}); it goes on in {} s",
                clock.until(due_ms).as_secs()
            );
            let events = &self.context.events;
            events.pod(&pod, None, Kind::Warning, &EventReason::FailedSync, &text);
        }
    }

    /// Removes whatever belongs to no desired pod: sandboxes, directories, cgroups, interfaces, addresses. New pods
    /// wait for it: what they make meanwhile would be taken for leaked.
    async fn prune(&mut self) {
        let mut keep = self.context.desired.pod_uids();
        keep.extend(self.workers.keys().cloned());
        match prune(&self.context, &keep).await {
            Pruned::All => {
                self.adopted.retain(|uid, _| keep.contains(uid));
                self.prune = Prune::Done;
            }
            Pruned::Partly => self.prune = Prune::Due(Instant::now() + PRUNE_RETRY),
        }
    }

    /// Now, or when a failed one is tried again.
    fn prune_soon(&mut self) {
        if self.prune == Prune::Done {
            self.prune = Prune::Due(Instant::now());
        }
    }
}

/// How a prune ended. What went wrong is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pruned {
    All,
    /// Something is left that is to be tried again.
    Partly,
}

impl Pruned {
    /// Tells an error and goes on.
    fn note<T>(&mut self, what: &str, result: Result<T, impl Into<anyhow::Error>>) -> Option<T> {
        result
            .map_err(|error| {
                *self = Pruned::Partly;
                let error: anyhow::Error = error.into();
                tracing::warn!("cleaning up {what}: {}", knarr_base::chain(&*error));
            })
            .ok()
    }
}

/// One part that cannot be pruned keeps no other from it, but for addresses: they are not given to others while
/// anything of a pod that may have them is left.
async fn prune(context: &Arc<Context>, keep: &[String]) -> Pruned {
    let mut pruned = prune_links(&*context.edges.network, keep).await;
    let sandboxes = pruned.note("sandboxes", context.edges.sandboxes.prune(keep).await);
    for uid in sandboxes.iter().flat_map(|found| &found.sandboxes) {
        tracing::info!(uid, "removed a leaked sandbox");
    }
    if pruned == Pruned::All {
        let (shared, kept) = (context.clone(), keep.to_vec());
        let freed = knarr_base::blocking::run(move || shared.ipam.prune(&kept)).await;
        for uid in pruned.note("addresses", freed).into_iter().flatten() {
            tracing::info!(uid, "freed a leaked address");
        }
    }
    let (records, kept) = (context.records.clone(), keep.to_vec());
    let removed = knarr_base::blocking::run(move || records.prune(&kept)).await;
    pruned.note("records", removed);
    let shared = context.clone();
    let addresses = Box::new(move || shared.ipam.all());
    let retained = context.edges.datapath.retain_pods(addresses).await;
    pruned.note("the pods' map", retained);
    pruned
}

async fn prune_links(network: &dyn PodNetwork, keep: &[String]) -> Pruned {
    let mut pruned = Pruned::All;
    let kept: BTreeSet<String> = keep.iter().map(|uid| PodLink::host_ifname(uid)).collect();
    let found = pruned.note("links", network.links().await);
    let found = found.into_iter().flatten().map(|link| link.host_ifname);
    let leaked: Vec<String> = found.filter(|name| !kept.contains(name)).collect();
    let removals = leaked.iter().map(|name| {
        tracing::info!(link = name, "removing a pod's leaked link");
        network.remove(name)
    });
    note_all(&mut pruned, "a link", removals).await;
    pruned
}

/// Does all of them, also where one fails.
async fn note_all<T, E: Into<anyhow::Error>>(
    pruned: &mut Pruned,
    what: &str,
    all: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
) {
    for result in futures::future::join_all(all).await {
        pruned.note(what, result);
    }
}

#[cfg(test)]
mod tests;
