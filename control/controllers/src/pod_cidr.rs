// SPDX-License-Identifier: Apache-2.0
//! Assigns every node its range of pod addresses, one node at a time so that no two get the same.
//!
//! `knarr_control_plan::pod_cidr` knows which ranges are assigned. It is filled from the stored Nodes first, so no range
//! is assigned twice after a crash.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client};
use knarr_control_plan::pod_cidr::{PodCidrError, PodCidrs};
use knarr_control_plan::reason::EventReason;
use parking_lot::Mutex;

use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::Informer;
use crate::nodes::NodeView;
use crate::queue::{Outcome, Queue};
use crate::recorder::{Recorder, reference};
use crate::shared::Shared;

const NAME: &str = "cidrAllocator";
/// One worker: what is planned for a node is taken before the next is planned.
const WORKERS: usize = 1;

struct NodeCidrs {
    client: Client,
    recorder: Recorder,
    nodes: Informer<NodeView>,
    queue: Queue<NamespacedName>,
    cidrs: Arc<Mutex<PodCidrs>>,
}

/// Registers the controller; its keys are names of Nodes.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let nodes = shared.informers().of::<NodeView>()?;
    let cidrs = Arc::new(Mutex::new(shared.settings().pod_cidrs.clone()));
    let (stored, taken) = (nodes.clone(), cidrs.clone());
    let controller = Controller::new(shared, NAME, WORKERS)
        .starts_with(move |_| {
            for (name, view) in stored.views() {
                observe(&taken, &name.name, &view);
            }
        })
        .watches(&nodes, |queue, change| {
            let ranges = |view: &Arc<NodeView>| view.pod_cidrs.clone();
            if change.old.map(ranges) != change.new.map(ranges) {
                queue.add(change.name.clone());
            }
        });
    let queue = controller.queue();
    Ok(controller.reconcile(NodeCidrs {
        client: shared.client(),
        recorder: shared.recorder(NAME),
        nodes,
        queue,
        cidrs,
    }))
}

/// Takes in which ranges a node has.
fn observe(cidrs: &Mutex<PodCidrs>, name: &str, view: &NodeView) {
    if let Err(shared) = cidrs.lock().observe(name, &view.pod_cidrs) {
        tracing::error!(%shared, "two nodes have one pod range: delete and register one of them");
    }
}

#[async_trait]
impl Reconcile for NodeCidrs {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        let client = &self.client;
        client.sync().await?;
        self.nodes.catch_up().await;
        if client.has_unreadable_of::<Node>()? {
            return Err(ApiError::internal(
                "a stored Node cannot be read, so no pod range is known to be free; the log names it",
            ));
        }
        let Some(view) = self.nodes.view(name) else {
            self.cidrs.lock().release(&name.name);
            // A range became free. A node that waits for one is reconciled, and one that had the same range has it alone now.
            for (other, view) in self.nodes.views() {
                if view.pod_cidrs.is_empty() {
                    self.queue.add(other)
                } else {
                    observe(&self.cidrs, &other.name, &view)
                }
            }
            return Ok(Outcome::Done);
        };
        if !view.pod_cidrs.is_empty() {
            observe(&self.cidrs, &name.name, &view);
            return Ok(Outcome::Done);
        }
        let mut node = match client.get::<Node>(None, &name.name).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => return Ok(Outcome::Retry),
            Err(error) => return Err(error),
        };
        let assigned = self.cidrs.lock().assign(&name.name);
        let cidr = match assigned {
            Ok(cidr) => cidr,
            Err(error) => {
                self.record_exhausted(&node, &error);
                return Ok(Outcome::Done);
            }
        };
        let spec = node.spec.get_or_insert_default();
        spec.pod_cidr = Some(cidr.clone());
        spec.pod_cidrs = Some(vec![cidr.clone()]);
        // With the version that was read: a range that was written meanwhile stays.
        client.update(&node).await?;
        tracing::info!(node = name.name, cidr, "the node has its pod range");
        Ok(Outcome::Done)
    }
}

impl NodeCidrs {
    fn record_exhausted(&self, node: &Node, error: &PodCidrError) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(node = name, %error, "no pod range is left");
        let about = reference("v1", "Node", &node.metadata);
        let reason = EventReason::CidrNotAvailable;
        let message = format!("Node {name} status is now: {}: {error}", reason.as_str());
        self.recorder.warning(about, reason, message);
    }
}
