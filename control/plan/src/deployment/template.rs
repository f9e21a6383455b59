// SPDX-License-Identifier: Apache-2.0
//! Compares pod templates, and makes the ReplicaSet of a template.

use std::collections::BTreeMap;

use knarr_api::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use knarr_api::k8s_openapi::api::core::v1::PodTemplateSpec;
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::owners::new_controller_ref;

/// Label that keeps the pods of a Deployment's ReplicaSets apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
/// Kubernetes' alphabet for generated names: no vowels and nothing that looks like another letter.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short text that differs for different templates. `collisions` makes it another one where the name made
/// from it was taken. The same in every process; not the same as kube-controller-manager's.
pub fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // The generated types keep maps sorted, so equal templates give equal bytes; they always serialise.
    let bytes = serde_json::to_vec(template).unwrap_or_default();
    let all = bytes.into_iter().chain(collisions.to_le_bytes());
    let mut hash = all.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut text = String::new();
    for _ in 0..10 {
        let digit = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or(0);
        text.push(char::from(ALPHABET[digit]));
        hash /= ALPHABET.len() as u64;
    }
    text
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        meta.creation_timestamp = None;
        if let Some(labels) = &mut meta.labels {
            labels.remove(POD_TEMPLATE_HASH);
            if labels.is_empty() {
                meta.labels = None;
            }
        }
    }
    template.metadata = template
        .metadata
        .filter(|meta| *meta != ObjectMeta::default());
    template
}

/// True when the set makes pods of the Deployment's template.
pub(super) fn is_template_of(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let own = set.spec.template.as_ref();
    own.is_some_and(|own| without_hash(own) == without_hash(&deployment.spec.template))
}

/// The set for the Deployment's template, with no replicas and no annotations yet.
pub(super) fn new_set(deployment: &Deployment) -> ReplicaSet {
    let spec = &deployment.spec;
    let collisions = deployment
        .status
        .as_ref()
        .and_then(|status| status.collision_count);
    let mut template = without_hash(&spec.template);
    let hash = template_hash(&template, collisions.unwrap_or(0));
    let with_hash = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
        Some(labels)
    };
    let meta = template.metadata.get_or_insert_default();
    meta.labels = with_hash(meta.labels.take());
    let labels = meta.labels.clone();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}-{hash}",
                deployment.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: deployment.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![new_controller_ref(
                "apps/v1",
                "Deployment",
                &deployment.metadata,
            )]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector {
                match_labels: with_hash(spec.selector.match_labels.clone()),
                match_expressions: spec.selector.match_expressions.clone(),
            },
            template: Some(template),
        },
        status: None,
    }
}
