// SPDX-License-Identifier: Apache-2.0
//! What the feed keeps of a pod: where it runs, what it refers to, and digests that say when its node has to see it again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use knarr_api::k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use serde::Serialize;

use super::References;
use super::objects::{ObjectKey, ObjectKind};
use super::reports::is_of_node;

/// A pod that is bound to a node.
#[derive(Debug, Clone, PartialEq)]
pub struct PodView {
    /// `metadata.uid`
    pub uid: String,
    /// The node that it is bound to.
    pub node: Arc<str>,
    /// The pod as the API serves it.
    pub json: Bytes,
    /// Same digest, same pod for its node. Everything counts but the resource version and the parts of the status that
    /// the node does not read.
    pub digest: u64,
    /// A digest of what of the status is the node's to say.
    pub status: u64,
    /// The same of what the node said last; `None` as long as it has said nothing to this control plane.
    pub reported: Option<u64>,
    /// ConfigMaps and Secrets that its containers' environment refers to.
    pub refers: References,
}

impl PodView {
    /// `None` for a pod that is bound to no node.
    pub fn of(pod: &Pod, json: Bytes) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let node = spec.node_name.as_deref().filter(|name| !name.is_empty())?;
        Some(Self {
            uid: pod.metadata.uid.clone()?,
            node: node.into(),
            json,
            digest: digest(pod, spec),
            status: pod.status.as_ref().map_or(0, status_digest),
            reported: None,
            refers: references(pod.metadata.namespace.as_deref().unwrap_or_default(), spec),
        })
    }
}

fn digest(pod: &Pod, spec: &PodSpec) -> u64 {
    let mut metadata = pod.metadata.clone();
    metadata.resource_version = None;
    metadata.managed_fields = None;
    hash(&(metadata, spec, gates(pod, spec)))
}

/// The conditions that the pod's readiness gates name, which others than its node set: type and status.
fn gates<'a>(pod: &'a Pod, spec: &'a PodSpec) -> Vec<(&'a str, &'a str)> {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let conditions = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten());
    let named = conditions.filter(|c| gates.iter().any(|gate| gate.condition_type == c.type_));
    let mut named: Vec<_> = named
        .map(|c| (c.type_.as_str(), c.status.as_str()))
        .collect();
    named.sort_unstable();
    named
}

/// A digest of what of a pod's status is its node's to say.
pub(super) fn status_digest(status: &PodStatus) -> u64 {
    let mut own = status.clone();
    let mut conditions = own.conditions.take().unwrap_or_default();
    conditions.retain(is_of_node);
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    // These are kept from before where the node does not say them.
    own.nominated_node_name = None;
    own.qos_class = None;
    own.observed_generation = None;
    hash(&(own, conditions))
}

fn hash(value: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Serialised because the generated types do not implement `Hash`; they cannot fail to serialise.
    serde_json::to_vec(value)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

fn references(namespace: &str, spec: &PodSpec) -> References {
    let key = |kind, name: &str| ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let of_container = |container: &Container| {
        let mut found = References::new();
        for variable in container.env.iter().flatten() {
            let Some(source) = &variable.value_from else {
                continue;
            };
            if let Some(map) = &source.config_map_key_ref {
                found.insert(key(ObjectKind::ConfigMap, &map.name));
            }
            if let Some(secret) = &source.secret_key_ref {
                found.insert(key(ObjectKind::Secret, &secret.name));
            }
        }
        for source in container.env_from.iter().flatten() {
            if let Some(map) = &source.config_map_ref {
                found.insert(key(ObjectKind::ConfigMap, &map.name));
            }
            if let Some(secret) = &source.secret_ref {
                found.insert(key(ObjectKind::Secret, &secret.name));
            }
        }
        found
    };
    let mut found: References = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .flat_map(of_container)
        .collect();
    for volume in spec.volumes.iter().flatten() {
        if let Some(map) = &volume.config_map {
            found.insert(key(ObjectKind::ConfigMap, &map.name));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.as_ref()) {
            found.insert(key(ObjectKind::Secret, name));
        }
        let projected = volume.projected.as_ref().and_then(|p| p.sources.as_ref());
        for source in projected.into_iter().flatten() {
            if let Some(map) = &source.config_map {
                found.insert(key(ObjectKind::ConfigMap, &map.name));
            }
            if let Some(secret) = &source.secret {
                found.insert(key(ObjectKind::Secret, &secret.name));
            }
        }
    }
    found
}
