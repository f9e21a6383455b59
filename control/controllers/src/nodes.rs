// SPDX-License-Identifier: Apache-2.0
//! What the controllers keep of a Node.

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_apiserver::Object;
use knarr_control_plan::node_lifecycle::{Readiness, readiness};
use knarr_control_plan::pod_gc::{NodeFate, fate_of};

use crate::informer::View;

/// Label with the zone that a node is in.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node as the controllers see it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeView {
    /// What its `Ready` condition says.
    pub(crate) readiness: Readiness,
    /// A `NoExecute` taint may drive pods away.
    pub(crate) evicts: bool,
    /// Whether the machine is declared off.
    pub(crate) fate: NodeFate,
    /// Its zone, if it has one.
    pub(crate) zone: Option<String>,
    /// Its ranges of pod addresses.
    pub(crate) pod_cidrs: Vec<String>,
}

impl View for NodeView {
    type Kind = Node;

    fn of(object: &Object) -> Option<Self> {
        let node: Node = object.parse().ok()?;
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref());
        Some(Self {
            readiness: readiness(&node),
            evicts: taints
                .into_iter()
                .flatten()
                .any(|taint| taint.effect == "NoExecute"),
            fate: fate_of(&node),
            zone: node
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(ZONE))
                .cloned(),
            pod_cidrs: spec
                .and_then(|spec| spec.pod_cidrs.clone())
                .unwrap_or_default(),
        })
    }
}
