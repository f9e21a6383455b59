// SPDX-License-Identifier: Apache-2.0
//! Removes pods that no node will end: unscheduled pods, pods of nodes that are gone or off, and the oldest of too many
//! pods that have ended. Decides nothing: `knarr_control_plan::pod_gc` does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::{Node, Pod};
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams};
use knarr_control_plan::node_lifecycle::disrupted_status;
use knarr_control_plan::pod_gc::{
    Departures, NodeFate, TERMINATED_MAX, Verdict, judge, plan_terminated,
};
use knarr_control_plan::pods::{Phase, PodView};
use knarr_control_plan::reason::ConditionReason;
use parking_lot::Mutex;

use crate::clock;
use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::{Change, Informer};
use crate::nodes::NodeView;
use crate::pods::bound_to;
use crate::queue::{Outcome, Queue};
use crate::shared::Shared;

const NAME: &str = "pod-garbage-collector";
/// Pods that are removed at once.
const WORKERS: usize = 4;
/// Ended pods are counted this long after one ended, and together with all that ended meanwhile.
const COUNT_AFTER: Duration = Duration::from_secs(20);

/// What is reconciled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Pod(NamespacedName),
    /// The number of all pods that have ended.
    EndedPods,
}

struct PodGc {
    client: Client,
    nodes: Informer<NodeView>,
    pods: Informer<PodView>,
    /// Since when nodes that pods are bound to have been missing.
    departures: Arc<Mutex<Departures>>,
}

/// Registers the controller.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let nodes = shared.informers().of::<NodeView>()?;
    let pods = shared.informers().of::<PodView>()?;
    let departures = Arc::default();
    let (present, bound) = (nodes.clone(), pods.clone());
    let departed = Arc::clone(&departures);
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches(&nodes, move |queue, change| {
            queue_pods_without_node(queue, &departed, &bound, change);
        })
        .watches(&pods, move |queue, change| {
            queue_unscheduled_pods(queue, &present, change)
        })
        .reconcile(PodGc {
            client: shared.client(),
            nodes,
            pods,
            departures,
        }))
}

/// Adds the pods of a node that is gone or declared off. A node that exists has not departed any more, also when none of
/// its pods is reconciled before it goes again.
fn queue_pods_without_node(
    queue: &Queue<Key>,
    departures: &Mutex<Departures>,
    pods: &Informer<PodView>,
    change: &Change<'_, NodeView>,
) {
    let node = change.name.name.as_str();
    if let Some(view) = change.new {
        departures.lock().is_back(node);
        if view.fate == NodeFate::Exists {
            return;
        }
    }
    for pod in pods.indexed(&bound_to(node)) {
        queue.add(Key::Pod(pod.name.clone()));
    }
}

/// Adds a pod that is deleted before it has a node, and one whose node does not exist.
fn queue_unscheduled_pods(
    queue: &Queue<Key>,
    nodes: &Informer<NodeView>,
    change: &Change<'_, PodView>,
) {
    let Some(pod) = change.new else {
        return;
    };
    let is_lost = match &pod.node {
        None => pod.deleted_at.is_some(),
        Some(node) => {
            let view = nodes.view(&NamespacedName::cluster(&**node));
            view.is_none_or(|view| view.fate != NodeFate::Exists)
        }
    };
    if is_lost {
        queue.add(Key::Pod(change.name.clone()));
    }
    let was_terminal = change.old.is_some_and(|old| old.phase.is_terminal());
    if pod.phase.is_terminal() && !was_terminal {
        queue.add_after(Key::EndedPods, COUNT_AFTER);
    }
}

#[async_trait]
impl Reconcile for PodGc {
    type Key = Key;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        match key {
            Key::Pod(name) => self.reconcile_pod(name).await,
            Key::EndedPods => self.remove_ended().await.map(|()| Outcome::Done),
        }
    }
}

impl PodGc {
    fn fate(&self, node: &str) -> NodeFate {
        // Looked up under the lock: a node that comes back now is seen here, or ends its departure afterwards.
        let mut departures = self.departures.lock();
        match self.nodes.view(&NamespacedName::cluster(node)) {
            Some(view) => view.fate,
            None => {
                let has_pods = |node: &str| !self.pods.indexed(&bound_to(node)).is_empty();
                NodeFate::GoneSince(departures.since(node, has_pods, clock::now()))
            }
        }
    }

    async fn reconcile_pod(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.client.sync().await?;
        self.nodes.catch_up().await;
        self.pods.catch_up().await;
        if self.client.has_unreadable_of::<Node>()? {
            // Such a Node looks like one that is gone.
            return Err(ApiError::internal(
                "stored Nodes cannot be read, so no node is known to be gone; the log names them",
            ));
        }
        let Some(pod) = self.pods.view(name) else {
            return Ok(Outcome::Done);
        };
        let fate = pod
            .node
            .as_deref()
            .map_or(NodeFate::Exists, |node| self.fate(node));
        match judge(&pod, fate, clock::now()) {
            Verdict::Keep => Ok(Outcome::Done),
            Verdict::LookAgain(delay) => Ok(Outcome::After(delay)),
            Verdict::Remove { message } => {
                self.remove(name, &pod.uid, Some(message)).await?;
                Ok(Outcome::Done)
            }
        }
    }

    /// Writes the pod's last status and deletes it without grace.
    async fn remove(
        &self,
        name: &NamespacedName,
        uid: &str,
        message: Option<&'static str>,
    ) -> Result<(), ApiError> {
        let client = &self.client;
        let mut pod = match client.get::<Pod>(name.namespace(), &name.name).await {
            Ok(pod) if pod.metadata.uid.as_deref() == Some(uid) => pod,
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut status = pod.status.clone().unwrap_or_default();
        if let Some(message) = message
            && !Phase::parse(status.phase.as_deref()).is_terminal()
        {
            status.phase = Some("Failed".to_owned());
            let reason = ConditionReason::DeletionByPodGc;
            pod.status = Some(disrupted_status(&status, reason, message, clock::now()));
            client.update_status(&pod).await?;
        }
        tracing::info!(pod = %name, message, "removing a pod that no node ends");
        let params = DeleteParams {
            uid: Some(uid.to_owned()),
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        match client
            .delete::<Pod>(name.namespace(), &name.name, &params)
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn remove_ended(&self) -> Result<(), ApiError> {
        let ended = self.pods.select(|pod| pod.phase.is_terminal());
        let ended: Vec<&PodView> = ended.iter().map(Arc::as_ref).collect();
        for pod in plan_terminated(&ended, TERMINATED_MAX) {
            self.remove(&pod.name, &pod.uid, None).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
