// SPDX-License-Identifier: Apache-2.0
//! Events about Nodes: when one is registered and when one is removed.
//!
//! Reasons and messages are those of kube-controller-manager's `node-lifecycle` controller (v1.37). That controller writes
//! `RegisteredNode` for every Node at each of its starts. Here a Node that was there before the start gets no Event: a
//! start of the control plane writes nothing about nodes. Events about a node without heartbeat are planned by
//! [`crate::node_lifecycle::plan_health`].

use crate::reason::EventReason;

/// What happened to a Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeNews {
    /// It is part of the cluster from now on.
    Registered,
    /// It is gone.
    Removing,
    /// It was ready and sends no heartbeat any more.
    NotReady,
}

impl NodeNews {
    /// The event's reason.
    pub fn reason(self) -> EventReason {
        match self {
            Self::Registered => EventReason::RegisteredNode,
            Self::Removing => EventReason::RemovingNode,
            Self::NotReady => EventReason::NodeNotReady,
        }
    }

    /// The event's message about the Node of this name.
    pub fn message(self, node: &str) -> String {
        match self {
            Self::Registered => {
                format!("Node {node} event: Registered Node {node} in Controller")
            }
            Self::Removing => format!("Node {node} event: Removing Node {node} from Controller"),
            Self::NotReady => format!("Node {node} status is now: {}", self.reason().as_str()),
        }
    }
}

/// What to say of a name, by the uid of the Node that had it when it was last looked at and of the one that has it now.
/// With each the uid that it is about. A Node that was deleted and made again between two looks goes and comes.
pub fn plan_news<'a>(known: Option<&'a str>, now: Option<&'a str>) -> Vec<(NodeNews, &'a str)> {
    if known == now {
        return Vec::new();
    }
    let gone = known.map(|uid| (NodeNews::Removing, uid));
    let came = now.map(|uid| (NodeNews::Registered, uid));
    gone.into_iter().chain(came).collect()
}

#[cfg(test)]
mod tests;
