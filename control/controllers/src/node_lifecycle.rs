// SPDX-License-Identifier: Apache-2.0
//! Finds nodes without a heartbeat, taints them, marks their pods as not ready, and evicts their pods.
//!
//! `knarr_control_plan::node_lifecycle` decides. Heartbeats are read from memory; the only timers are the end of a node's
//! grace and of a pod's toleration.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams};
use knarr_control_plan::node_events::{NodeNews, plan_news};
use knarr_control_plan::node_lifecycle::{
    self, Disruption, Readiness, disrupted_status, found_status, plan_evictions, plan_found,
    plan_health, plan_taints, plan_unready, unready_status,
};
use knarr_control_plan::pods::PodView;
use knarr_control_plan::reason::{ConditionReason, EventReason};
use knarr_control_plan::replica_set::PodRef;
use parking_lot::Mutex;

use crate::clock;
use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::{Change, Informer};
use crate::nodes::NodeView;
use crate::pods::bound_to;
use crate::queue::{Outcome, Queue};
use crate::recorder::{Recorder, reference};
use crate::settings::Heartbeats;
use crate::shared::Shared;

const NAME: &str = "node-controller";
/// Nodes that are reconciled at once.
const WORKERS: usize = 4;

/// A status made of another; `None` where nothing changes.
type StatusChange = fn(&PodStatus, Timestamp) -> Option<PodStatus>;

/// Uids of the Nodes whose registration was recorded, by name. As many as there are Nodes.
struct Registered(Mutex<HashMap<String, String>>);

impl Registered {
    /// The Nodes that exist now.
    fn of(client: &Client) -> Result<Self, ApiError> {
        let nodes = client.cache_of::<Node>()?.list();
        let uids = nodes
            .iter()
            .map(|node| (node.meta.name.to_string(), node.meta.uid.to_string()));
        Ok(Self(Mutex::new(uids.collect())))
    }

    /// Takes in which uid a name has now, and returns which it had.
    fn replace(&self, name: &str, uid: Option<&str>) -> Option<String> {
        let mut known = self.0.lock();
        match uid {
            Some(uid) => known.insert(name.to_owned(), uid.to_owned()),
            None => known.remove(name),
        }
    }
}

struct NodeLifecycle {
    client: Client,
    recorder: Recorder,
    heartbeats: Arc<dyn Heartbeats>,
    grace: Duration,
    registered: Registered,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    queue: Queue<NamespacedName>,
}

/// Registers the controller; its keys are names of Nodes.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let nodes = shared.informers().of::<NodeView>()?;
    let pods = shared.informers().of::<PodView>()?;
    let nodes_of_pods = nodes.clone();
    let controller = Controller::new(shared, NAME, WORKERS)
        .watches_itself(&nodes)
        .watches(&pods, move |queue, change| {
            queue_node_of_pod(queue, &nodes_of_pods, change)
        });
    let client = shared.client();
    let queue = controller.queue();
    Ok(controller.reconcile(NodeLifecycle {
        heartbeats: shared.settings().heartbeats.clone(),
        grace: shared.settings().node_monitor_grace_period,
        // Every other Node is created later, and its registration is recorded.
        registered: Registered::of(&client)?,
        client,
        recorder: shared.recorder(NAME),
        nodes,
        pods,
        queue,
    }))
}

/// Adds the node of a changed pod, if the node is in trouble and may have to give the pod up.
fn queue_node_of_pod(
    queue: &Queue<NamespacedName>,
    nodes: &Informer<NodeView>,
    change: &Change<'_, PodView>,
) {
    let Some(node) = change.new.and_then(|pod| pod.node.as_deref()) else {
        return;
    };
    let node = NamespacedName::cluster(node);
    let ready = change.new.and_then(|pod| pod.ready);
    let is_lost = ready.is_some_and(|ready| ready.is_lost);
    let view = nodes.view(&node);
    if is_lost || view.is_some_and(|view| view.evicts || view.readiness == Readiness::Unknown) {
        queue.add(node);
    }
}

#[async_trait]
impl Reconcile for NodeLifecycle {
    type Key = NamespacedName;

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ApiError> {
        let name = key.name.as_str();
        let client = &self.client;
        let mut node = match client.get::<Node>(None, name).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => {
                self.heartbeats.forget(name);
                self.record_registration(name, None);
                return Ok(Outcome::Done);
            }
            Err(error) => return Err(error),
        };
        self.record_registration(name, node.metadata.uid.as_deref());
        let now = clock::now();
        let silence = self.heartbeats.silence(name);
        let health = plan_health(&node, silence, self.grace, now);
        if let Some(conditions) = health.conditions {
            tracing::warn!(node = name, "the node's heartbeat is overdue");
            node.status.get_or_insert_default().conditions = Some(conditions);
            node = client.update_status(&node).await?;
            if let Some(news) = health.news {
                let uid = node.metadata.uid.as_deref().unwrap_or_default();
                self.record(name, uid, news);
            }
        }
        self.queue_others(name, &node);
        if let Some(taints) = plan_taints(&node, self.disruption(name, &node), now) {
            node.spec.get_or_insert_default().taints = (!taints.is_empty()).then_some(taints);
            node = client.update(&node).await?;
        }
        let on_node = self.pods.indexed(&bound_to(name));
        let pods: Vec<&PodView> = on_node.iter().map(Arc::as_ref).collect();
        let mut failed = None;
        for pod in plan_unready(&node, &pods) {
            failed = self.mark(&pod, unready_status).await.err().or(failed);
        }
        for pod in plan_found(&node, &pods) {
            failed = self.mark(&pod, found_status).await.err().or(failed);
        }
        let evictions = plan_evictions(&node, &pods, now);
        for pod in &evictions.now {
            failed = self.evict(pod).await.err().or(failed);
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let next = [health.again_after, evictions.again_after]
            .into_iter()
            .flatten()
            .min();
        Ok(next.map_or(Outcome::Done, Outcome::After))
    }
}

impl NodeLifecycle {
    /// Records that a Node was created or deleted.
    fn record_registration(&self, name: &str, uid: Option<&str>) {
        let before = self.registered.replace(name, uid);
        for (news, uid) in plan_news(before.as_deref(), uid) {
            self.record(name, uid, news);
        }
    }

    fn record(&self, name: &str, uid: &str, news: NodeNews) {
        let meta = ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        };
        let about = reference("v1", "Node", &meta);
        self.recorder
            .normal(about, news.reason(), news.message(name));
    }

    /// Whether any node is ready, with `node` as it is now.
    fn disruption(&self, name: &str, node: &Node) -> Disruption {
        let this_is_ready = node_lifecycle::readiness(node) == Readiness::Ready;
        let other_is_ready = self
            .nodes
            .views()
            .into_iter()
            .any(|(other, view)| other.name != name && view.readiness == Readiness::Ready);
        if this_is_ready || other_is_ready {
            Disruption::Partial
        } else {
            Disruption::Full
        }
    }

    /// Pods are evicted from nodes in trouble only while there is a ready node: when this node is the first or the last
    /// of the ready ones, the others are reconciled again.
    fn queue_others(&self, name: &str, node: &Node) {
        let others = self.nodes.views();
        let ready = |view: &NodeView| view.readiness == Readiness::Ready;
        let others: Vec<_> = others
            .into_iter()
            .filter(|(other, _)| other.name != name)
            .collect();
        if others.iter().any(|(_, view)| ready(view)) {
            return;
        }
        let is_ready = node_lifecycle::readiness(node) == Readiness::Ready;
        for (other, view) in others {
            // Nodes without a heartbeat are evicted from while a node is ready, and only then.
            if view.evicts != is_ready && view.readiness != Readiness::Never {
                self.queue.add(other);
            }
        }
    }

    /// Gives a pod the status that `changed` makes of its present one.
    async fn mark(&self, pod: &PodRef, changed: StatusChange) -> Result<(), ApiError> {
        let Some(mut current) = self.current(pod).await? else {
            return Ok(());
        };
        let status = current.status.clone().unwrap_or_default();
        if let Some(status) = changed(&status, clock::now()) {
            current.status = Some(status);
            self.client.update_status(&current).await?;
        }
        Ok(())
    }

    async fn evict(&self, pod: &PodRef) -> Result<(), ApiError> {
        let Some(mut current) = self.current(pod).await? else {
            return Ok(());
        };
        let about = reference("v1", "Pod", &current.metadata);
        let message = format!("Marking for deletion Pod {}", pod.name);
        self.recorder
            .normal(about, EventReason::TaintManagerEviction, message);
        let status = current.status.clone().unwrap_or_default();
        let why = "Taint manager: deleting due to NoExecute taint";
        current.status = Some(disrupted_status(
            &status,
            ConditionReason::DeletionByTaintManager,
            why,
            clock::now(),
        ));
        self.client.update_status(&current).await?;
        let params = DeleteParams {
            uid: Some(pod.uid.clone()),
            ..DeleteParams::default()
        };
        let PodRef { name, .. } = pod;
        match self
            .client
            .delete::<Pod>(name.namespace(), &name.name, &params)
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The pod as it is now; `None` when it is gone or another has its name.
    async fn current(&self, pod: &PodRef) -> Result<Option<Pod>, ApiError> {
        let PodRef { name, uid } = pod;
        match self.client.get::<Pod>(name.namespace(), &name.name).await {
            Ok(current) => Ok(Some(current).filter(|pod| pod.metadata.uid.as_ref() == Some(uid))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
