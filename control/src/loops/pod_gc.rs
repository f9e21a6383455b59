// SPDX-License-Identifier: Apache-2.0
//! Ends pods that nobody else will end. Decides nothing: `knarr_control_plan::pod_gc` does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::{Node, Pod};
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, DeleteParams};
use knarr_control_plan::node_lifecycle::disrupted_status;
use knarr_control_plan::pod_gc::{
    Departures, NodeFate, TERMINATED_MAX, Verdict, judge, plan_terminated,
};
use knarr_control_plan::pods::{Phase, PodView};

use super::Context;
use super::nodes::{NodeView, Nodes};
use super::pods::bound_to;
use crate::clock;
use crate::informer::{Changed, Informer};
use crate::queue::{Outcome, Queue};

/// Pods that are ended together.
const WORKERS: usize = 4;
/// Ended pods are counted this long after one ended, and together with all that ended meanwhile.
const COUNT_AFTER: Duration = Duration::from_secs(20);

/// What changes of pods and nodes leave for the loop. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Homeless {
    /// Pods to look at; the empty name stands for all ended pods together.
    queue: Queue<NamespacedName>,
    /// Since when nodes that pods are bound to have been missing.
    departures: Arc<Mutex<Departures>>,
}

struct Loop {
    context: Context,
    nodes: Nodes,
    pods: Informer<PodView>,
    departures: Arc<Mutex<Departures>>,
}

/// Runs the loop until shutdown. It is woken by [`node_changed`] and [`pod_changed`].
pub(super) async fn run(
    context: Context,
    nodes: Nodes,
    pods: Informer<PodView>,
    homeless: Homeless,
) {
    nodes.synced().await;
    pods.synced().await;
    let shutdown = context.shutdown.clone();
    let Homeless { queue, departures } = homeless;
    let this = Arc::new(Loop {
        context,
        nodes,
        pods,
        departures,
    });
    queue
        .work(WORKERS, shutdown, move |name| {
            let this = this.clone();
            async move { this.reconcile(&name).await }
        })
        .await;
}

/// Wakes the pods of a node that is gone or declared off. A node that is there has not departed any more, also
/// where no pod of it is looked at before it goes again.
pub(super) fn node_changed(
    homeless: &Homeless,
    pods: &Informer<PodView>,
    changed: &Changed<'_, NodeView>,
) {
    if changed.new.is_some() {
        locked(&homeless.departures).is_back(&changed.name.name);
    }
    if changed
        .new
        .is_some_and(|view| view.fate == NodeFate::Exists)
    {
        return;
    }
    for pod in pods.indexed(&bound_to(&changed.name.name)) {
        homeless.queue.add(pod.name.clone());
    }
}

fn locked(departures: &Mutex<Departures>) -> MutexGuard<'_, Departures> {
    // A panic while a time is stored leaves the map whole.
    departures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes a pod that is deleted before it has a node, or whose node is not there.
pub(super) fn pod_changed(homeless: &Homeless, nodes: &Nodes, changed: &Changed<'_, PodView>) {
    let Some(pod) = changed.new else {
        return;
    };
    let needs_look = match &pod.node {
        None => pod.deleted_at.is_some(),
        Some(node) => {
            let view = nodes.view(&NamespacedName::cluster(&**node));
            view.is_none_or(|view| view.fate != NodeFate::Exists)
        }
    };
    if needs_look {
        homeless.queue.add(changed.name.clone());
    }
    let has_ended =
        pod.phase.is_terminal() && !changed.old.is_some_and(|old| old.phase.is_terminal());
    if has_ended {
        homeless
            .queue
            .add_after(NamespacedName::default(), COUNT_AFTER);
    }
}

impl Loop {
    async fn reconcile(&self, name: &NamespacedName) -> Outcome {
        let result = if name.name.is_empty() {
            self.remove_ended().await.map(|()| Outcome::Done)
        } else {
            self.try_reconcile(name).await
        };
        match result {
            Ok(outcome) => outcome,
            Err(error) => super::failed("the Pod", name, &error),
        }
    }

    fn fate(&self, node: &str) -> NodeFate {
        // Looked up under the lock: a node that comes back now is seen here, or ends its departure after this.
        let mut departures = locked(&self.departures);
        match self.nodes.view(&NamespacedName::cluster(node)) {
            Some(view) => view.fate,
            None => {
                let has_pods = |node: &str| !self.pods.indexed(&bound_to(node)).is_empty();
                NodeFate::GoneSince(departures.since(node, has_pods, clock::now()))
            }
        }
    }

    async fn try_reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.context.client.sync().await?;
        self.nodes.catch_up().await;
        self.pods.catch_up().await;
        if self.context.client.has_unreadable_of::<Node>()? {
            // It looks like one that is gone.
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

    /// Gives the pod its last status and takes it away at once.
    async fn remove(
        &self,
        name: &NamespacedName,
        uid: &str,
        message: Option<&'static str>,
    ) -> Result<(), ApiError> {
        let client = &self.context.client;
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
            let reason = "DeletionByPodGC";
            pod.status = Some(disrupted_status(&status, reason, message, clock::now()));
            client.update_status(&pod).await?;
        }
        tracing::info!(pod = %name, message, "removing a pod that nobody ends");
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
