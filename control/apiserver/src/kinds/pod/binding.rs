// SPDX-License-Identifier: Apache-2.0
//! What a Binding makes of a pod. The verb is in `verbs/steps.rs`.

use serde_json::{Value, json};

use crate::kinds::binding;
use crate::{clock, value};

/// The pod bound to the node that the Binding names, or why it cannot be.
pub(super) fn bind(current: &Value, binding: &Value) -> Result<Value, String> {
    let pod = value::text(current, "metadata.name");
    if value::at(current, "metadata.deletionTimestamp").is_some() {
        return Err(format!(
            "pod {pod} is being deleted, cannot be assigned to a host"
        ));
    }
    let bound = value::text(current, "spec.nodeName");
    if !bound.is_empty() {
        return Err(format!("pod {pod} is already assigned to node {bound:?}"));
    }
    if !value::items(current, "spec.schedulingGates").is_empty() {
        return Err(format!("pod {pod} has non-empty .spec.schedulingGates"));
    }
    let mut bound = current.clone();
    value::set(&mut bound, "spec.nodeName", binding::node(binding));
    for part in ["annotations", "labels"] {
        let path = format!("metadata.{part}");
        for (key, set) in value::members(binding, &path) {
            let mut all = value::at(&bound, &path).cloned().unwrap_or(json!({}));
            all[key.as_str()] = set.clone();
            value::set(&mut bound, &path, all);
        }
    }
    set_scheduled(&mut bound);
    Ok(bound)
}

/// The condition that the API server itself sets at binding.
fn set_scheduled(pod: &mut Value) {
    let mut conditions: Vec<Value> = value::items(pod, "status.conditions").to_vec();
    conditions.retain(|c| value::text(c, "type") != "PodScheduled");
    conditions.push(json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": clock::rfc3339(clock::now()),
    }));
    value::set(pod, "status.conditions", conditions);
}
