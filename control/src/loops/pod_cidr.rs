// SPDX-License-Identifier: Apache-2.0
//! Gives every node its range of pod addresses, one node at a time so that no two get the same.
//!
//! `knarr_control_plan::pod_cidr` knows what is taken; it is filled from the stored Nodes before anything is
//! given, so nothing is given twice after a crash.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::names::NamespacedName;
use knarr_apiserver::ApiError;
use knarr_control_plan::pod_cidr::{PodCidrError, PodCidrs};

use super::Context;
use super::nodes::{NodeView, Nodes};
use crate::informer::Changed;
use crate::queue::{Outcome, Queue};

/// One worker: what is planned for a node is taken before the next is planned.
const WORKERS: usize = 1;

/// Names of nodes to look at.
pub(super) type NodeQueue = Queue<String>;

struct Loop {
    context: Context,
    nodes: Nodes,
    cidrs: Mutex<PodCidrs>,
}

/// Runs the loop until shutdown. `queue` is woken by [`node_changed`].
pub(super) async fn run(context: Context, nodes: Nodes, cidrs: PodCidrs, queue: NodeQueue) {
    nodes.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        nodes,
        cidrs: Mutex::new(cidrs),
    });
    for (name, view) in this.nodes.views() {
        this.observe(&name.name, &view);
    }
    let waiting = queue.clone();
    queue
        .work(WORKERS, shutdown, move |name| {
            let (this, waiting) = (this.clone(), waiting.clone());
            async move { this.reconcile(&name, &waiting).await }
        })
        .await;
}

/// Wakes a node that appeared, went, or whose ranges changed.
pub(super) fn node_changed(queue: &NodeQueue, changed: &Changed<'_, NodeView>) {
    let ranges = |view: &Arc<NodeView>| view.pod_cidrs.clone();
    if changed.old.map(ranges) != changed.new.map(ranges) {
        queue.add(changed.name.name.clone());
    }
}

impl Loop {
    fn cidrs(&self) -> MutexGuard<'_, PodCidrs> {
        // No change of the table stops half-way.
        self.cidrs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, name: &str, view: &NodeView) {
        if let Err(shared) = self.cidrs().observe(name, &view.pod_cidrs) {
            tracing::error!(%shared, "two nodes have one pod range: delete and register one of them");
        }
    }

    async fn reconcile(&self, name: &str, queue: &NodeQueue) -> Outcome {
        match self.try_reconcile(name, queue).await {
            Ok(outcome) => outcome,
            Err(error) => super::failed("the pod range of the Node", &name, &error),
        }
    }

    async fn try_reconcile(&self, name: &str, queue: &NodeQueue) -> Result<Outcome, ApiError> {
        let client = &self.context.client;
        client.sync().await?;
        self.nodes.catch_up().await;
        let Some(view) = self.nodes.view(&NamespacedName::cluster(name)) else {
            self.cidrs().release(name);
            // A range became free: nodes that wait for one get their turn.
            for (other, view) in self.nodes.views() {
                if view.pod_cidrs.is_empty() {
                    queue.add(other.name);
                }
            }
            return Ok(Outcome::Done);
        };
        if !view.pod_cidrs.is_empty() {
            self.observe(name, &view);
            return Ok(Outcome::Done);
        }
        let mut node = match client.get::<Node>(None, name).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => return Ok(Outcome::Retry),
            Err(error) => return Err(error),
        };
        let assigned = self.cidrs().assign(name);
        let cidr = match assigned {
            Ok(cidr) => cidr,
            Err(error) => {
                self.tell_exhausted(&node, &error);
                return Ok(Outcome::Done);
            }
        };
        let spec = node.spec.get_or_insert_default();
        spec.pod_cidr = Some(cidr.clone());
        spec.pod_cidrs = Some(vec![cidr.clone()]);
        // With the version that was read: whoever wrote a range meanwhile wins.
        client.update(&node).await?;
        tracing::info!(node = name, cidr, "the node has its pod range");
        Ok(Outcome::Done)
    }

    fn tell_exhausted(&self, node: &Node, error: &PodCidrError) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(node = name, %error, "no pod range is left");
        let about = super::reference("v1", "Node", &node.metadata);
        let message = format!("Node {name} status is now: CIDRNotAvailable: {error}");
        self.context
            .recorder
            .warning(about, "CIDRNotAvailable", message);
    }
}
