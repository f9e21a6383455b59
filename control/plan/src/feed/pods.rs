// SPDX-License-Identifier: Apache-2.0
//! What the feed keeps of a pod: where it runs, what it refers to, and a digest of all but its status.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use knarr_api::k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::References;
use super::objects::{ObjectKey, ObjectKind};

/// A pod that is bound to a node.
#[derive(Debug, Clone, PartialEq)]
pub struct PodView {
    /// `metadata.uid`
    pub uid: String,
    /// The node that it is bound to.
    pub node: Arc<str>,
    /// The pod as the API serves it.
    pub json: Bytes,
    /// Same digest, same pod for its node: everything counts but the status and the resource version.
    pub digest: u64,
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
            digest: digest(pod),
            refers: references(pod.metadata.namespace.as_deref().unwrap_or_default(), spec),
        })
    }
}

fn digest(pod: &Pod) -> u64 {
    let mut metadata = pod.metadata.clone();
    metadata.resource_version = None;
    metadata.managed_fields = None;
    let mut hasher = DefaultHasher::new();
    // Serialised because the generated types do not implement `Hash`; they cannot fail to serialise.
    serde_json::to_vec(&metadata)
        .unwrap_or_default()
        .hash(&mut hasher);
    serde_json::to_vec(&pod.spec)
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
