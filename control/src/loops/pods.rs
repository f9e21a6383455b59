// SPDX-License-Identifier: Apache-2.0
//! The groups in which the loops look pods up: by owner, by node, and those without an owner.

use knarr_control_plan::pods::PodView;

/// The group of pods that the owner with this uid controls.
pub(super) fn owned_by(uid: &str) -> String {
    format!("owner/{uid}")
}

/// The group of pods of a namespace that nobody controls.
pub(super) fn orphans_in(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// The group of pods that are bound to a node.
pub(super) fn bound_to(node: &str) -> String {
    format!("node/{node}")
}

/// The groups of a pod, for the informer's index.
pub(super) fn keys(pod: &PodView) -> Vec<String> {
    let mut keys = vec![match &pod.controller {
        Some(owner) => owned_by(&owner.uid),
        None => orphans_in(&pod.name.namespace),
    }];
    keys.extend(pod.node.as_deref().map(bound_to));
    keys
}
