// SPDX-License-Identifier: Apache-2.0
//! Notices nodes that fall silent, taints them, and takes their pods out of service and away.
//!
//! `knarr_control_plan::node_lifecycle` decides. Heartbeats are read from memory; the only timers are the
//! end of a node's grace and of a pod's toleration.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
use knarr_control_plan::replica_set::PodRef;

use super::Context;
use super::nodes::{NodeView, Nodes};
use super::pods::bound_to;
use crate::clock;
use crate::feed::Heartbeats;
use crate::informer::{Changed, Informer};
use crate::queue::{Outcome, Queue};

/// Nodes that are looked at together.
const WORKERS: usize = 4;

/// Names of nodes to look at.
pub(super) type NodeQueue = Queue<String>;

/// A status made of another; `None` where nothing changes.
type StatusChange = fn(&PodStatus, Timestamp) -> Option<PodStatus>;

/// Uids of the Nodes that were told of, by name. As many as there are Nodes.
pub(super) struct Known(Mutex<HashMap<String, String>>);

impl Known {
    /// The Nodes that are there now.
    pub(super) fn of(client: &Client) -> Result<Self, ApiError> {
        let nodes = client.cache_of::<Node>()?.list();
        let uids = nodes
            .iter()
            .map(|node| (node.meta.name.to_string(), node.meta.uid.to_string()));
        Ok(Self(Mutex::new(uids.collect())))
    }

    /// Takes in which uid a name has now, and returns which it had.
    fn replace(&self, name: &str, uid: Option<&str>) -> Option<String> {
        // A panic while it is held leaves the map whole.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uid {
            Some(uid) => known.insert(name.to_owned(), uid.to_owned()),
            None => known.remove(name),
        }
    }
}

struct Loop {
    context: Context,
    heartbeats: Arc<Heartbeats>,
    grace: Duration,
    known: Known,
    nodes: Nodes,
    pods: Informer<PodView>,
}

/// Runs the loop until shutdown. `queue` is woken by [`node_changed`] and [`pod_changed`].
pub(super) async fn run(
    context: Context,
    heartbeats: Arc<Heartbeats>,
    grace: Duration,
    known: Known,
    nodes: Nodes,
    pods: Informer<PodView>,
    queue: NodeQueue,
) {
    nodes.synced().await;
    pods.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        heartbeats,
        grace,
        known,
        nodes,
        pods,
    });
    let waiting = queue.clone();
    queue
        .work(WORKERS, shutdown, move |name| {
            let (this, waiting) = (this.clone(), waiting.clone());
            async move { this.reconcile(&name, &waiting).await }
        })
        .await;
}

/// Wakes the node itself.
pub(super) fn node_changed(queue: &NodeQueue, changed: &Changed<'_, NodeView>) {
    queue.add(changed.name.name.clone());
}

/// Wakes the node of a pod that a node in trouble may have to give up.
pub(super) fn pod_changed(queue: &NodeQueue, nodes: &Nodes, changed: &Changed<'_, PodView>) {
    let Some(node) = changed.new.and_then(|pod| pod.node.as_deref()) else {
        return;
    };
    let is_lost = changed
        .new
        .and_then(|pod| pod.ready)
        .is_some_and(|ready| ready.is_lost);
    let view = nodes.view(&NamespacedName::cluster(node));
    if is_lost || view.is_some_and(|view| view.evicts || view.readiness == Readiness::Unknown) {
        queue.add(node.to_owned());
    }
}

impl Loop {
    async fn reconcile(&self, name: &str, queue: &NodeQueue) -> Outcome {
        match self.try_reconcile(name, queue).await {
            Ok(outcome) => outcome,
            Err(error) => super::failed("the Node", &name, &error),
        }
    }

    async fn try_reconcile(&self, name: &str, queue: &NodeQueue) -> Result<Outcome, ApiError> {
        let client = &self.context.client;
        let mut node = match client.get::<Node>(None, name).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => {
                self.heartbeats.forget(name);
                self.tell_registration(name, None);
                return Ok(Outcome::Done);
            }
            Err(error) => return Err(error),
        };
        self.tell_registration(name, node.metadata.uid.as_deref());
        let now = clock::now();
        let silence = self.heartbeats.silence(name, clock::moment().monotonic);
        let health = plan_health(&node, silence, self.grace, now);
        if let Some(conditions) = health.conditions {
            tracing::warn!(node = name, "the node is not heard any more");
            node.status.get_or_insert_default().conditions = Some(conditions);
            node = client.update_status(&node).await?;
            if let Some(news) = health.news {
                let uid = node.metadata.uid.as_deref().unwrap_or_default();
                self.tell(name, uid, news);
            }
        }
        self.wake_others(name, &node, queue);
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

    /// Tells of a Node that came or went.
    fn tell_registration(&self, name: &str, uid: Option<&str>) {
        let before = self.known.replace(name, uid);
        for (news, uid) in plan_news(before.as_deref(), uid) {
            self.tell(name, uid, news);
        }
    }

    fn tell(&self, name: &str, uid: &str, news: NodeNews) {
        let meta = ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        };
        let about = super::reference("v1", "Node", &meta);
        self.context
            .recorder
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

    /// Whether pods may be evicted from nodes in trouble depends on there being a ready one: when this node
    /// is the first or the last of the ready ones, the others have to be looked at again.
    fn wake_others(&self, name: &str, node: &Node, queue: &NodeQueue) {
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
            // Silent nodes are evicted from while somebody is ready, and only then.
            if view.evicts != is_ready && view.readiness != Readiness::Never {
                queue.add(other.name);
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
            self.context.client.update_status(&current).await?;
        }
        Ok(())
    }

    async fn evict(&self, pod: &PodRef) -> Result<(), ApiError> {
        let Some(mut current) = self.current(pod).await? else {
            return Ok(());
        };
        let about = super::reference("v1", "Pod", &current.metadata);
        let message = format!("Marking for deletion Pod {}", pod.name);
        self.context
            .recorder
            .normal(about, "TaintManagerEviction", message);
        let status = current.status.clone().unwrap_or_default();
        let why = "Taint manager: deleting due to NoExecute taint";
        current.status = Some(disrupted_status(
            &status,
            "DeletionByTaintManager",
            why,
            clock::now(),
        ));
        self.context.client.update_status(&current).await?;
        let params = DeleteParams {
            uid: Some(pod.uid.clone()),
            ..DeleteParams::default()
        };
        let PodRef { name, .. } = pod;
        match self
            .context
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
        match self
            .context
            .client
            .get::<Pod>(name.namespace(), &name.name)
            .await
        {
            Ok(current) => Ok(Some(current).filter(|pod| pod.metadata.uid.as_ref() == Some(uid))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
