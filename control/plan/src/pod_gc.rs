// SPDX-License-Identifier: Apache-2.0
//! Pods that no node will end: their node is gone for good, or they never had one.
//!
//! Follows kube-controller-manager's `pod-garbage-collector` (v1.37). A terminating pod on a node that is
//! without heartbeat stays until the node is back or removed: its containers may still run.

use std::collections::HashMap;
use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::pods::PodView;
use crate::replica_set::PodRef;

/// How long a node has to be gone before its pods are (Kubernetes' `quarantineTime`): the node may only
/// be registering again.
pub const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods that are kept in all (`--terminated-pod-gc-threshold`).
pub const TERMINATED_MAX: usize = 12_500;
/// The taint by which an administrator declares that a node is off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What became of the node that a pod is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeFate {
    /// There is such a Node.
    Exists,
    /// There is such a Node, and an administrator has declared the machine off.
    OutOfService,
    /// There has been no such Node since then, as far as this process has seen.
    GoneSince(Timestamp),
}

/// Nodes that pods are bound to and that are not there, with the time since when.
#[derive(Debug, Default)]
pub struct Departures {
    since: HashMap<String, Timestamp>,
}

impl Departures {
    /// Since when a node that is missing `now` has been. Nodes that pods are not bound to any more, as
    /// `has_pods` says, are forgotten, because they will not be asked for again.
    pub fn since(
        &mut self,
        node: &str,
        has_pods: impl Fn(&str) -> bool,
        now: Timestamp,
    ) -> Timestamp {
        if let Some(since) = self.since.get(node) {
            return *since;
        }
        self.since.retain(|node, _| has_pods(node));
        self.since.insert(node.to_owned(), now);
        now
    }

    /// The node is there: should it go again, that is a new departure with a quarantine of its own.
    pub fn is_back(&mut self, node: &str) {
        self.since.remove(node);
    }
}

/// What is to be done with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Nothing before this time has passed.
    LookAgain(Duration),
    /// It goes at once; `message` is what its last condition says, where it had not ended yet.
    Remove {
        /// Why.
        message: &'static str,
    },
}

/// The fate of a node that exists.
pub fn fate_of(node: &Node) -> NodeFate {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let off = taints
        .into_iter()
        .flatten()
        .any(|taint| taint.key == OUT_OF_SERVICE);
    if off && !is_ready(node) {
        NodeFate::OutOfService
    } else {
        NodeFate::Exists
    }
}

fn is_ready(node: &Node) -> bool {
    crate::node_lifecycle::readiness(node) == crate::node_lifecycle::Readiness::Ready
}

/// Decides about one pod; `fate` is that of its node, ignored for a pod without one.
pub fn judge(pod: &PodView, fate: NodeFate, now: Timestamp) -> Verdict {
    if pod.node.is_none() {
        return match pod.deleted_at {
            Some(_) => Verdict::Remove {
                message: "PodGC: unscheduled pod that was deleted",
            },
            None => Verdict::Keep,
        };
    }
    match fate {
        NodeFate::Exists => Verdict::Keep,
        NodeFate::OutOfService if pod.deleted_at.is_some() => Verdict::Remove {
            message: "PodGC: node is out of service",
        },
        NodeFate::OutOfService => Verdict::Keep,
        NodeFate::GoneSince(since) => {
            let quarantine = SignedDuration::try_from(QUARANTINE).unwrap_or(SignedDuration::ZERO);
            let left = quarantine - now.duration_since(since);
            if left > SignedDuration::ZERO {
                Verdict::LookAgain(left.unsigned_abs())
            } else {
                Verdict::Remove {
                    message: "PodGC: node no longer exists",
                }
            }
        }
    }
}

/// The oldest ended pods beyond `most`.
pub fn plan_terminated(pods: &[&PodView], most: usize) -> Vec<PodRef> {
    let mut ended: Vec<_> = pods
        .iter()
        .filter(|pod| pod.phase.is_terminal() && pod.deleted_at.is_none())
        .collect();
    let Some(surplus) = ended.len().checked_sub(most).filter(|surplus| *surplus > 0) else {
        return Vec::new();
    };
    ended.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
    ended
        .into_iter()
        .take(surplus)
        .map(|pod| PodRef {
            name: pod.name.clone(),
            uid: pod.uid.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
