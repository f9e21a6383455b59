// SPDX-License-Identifier: Apache-2.0
//! Subresources that are steps of a life: binding a pod to a node, evicting it, finalizing a namespace.

use serde_json::{Value, json};

use super::{DeleteOptions, WriteOptions, Written, check_uid};
use crate::admission::Part;
use crate::core::Core;
use crate::field::FieldErrors;
use crate::{ApiError, clock, value};

impl Core {
    /// Binds a pod to the node that the Binding names.
    pub(crate) async fn bind(
        &self,
        namespace: &str,
        pod: &str,
        binding: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        super::create::check_namespace(namespace, binding)?;
        let kind = &self.registry().resource("", "v1", "pods")?;
        let node = value::text(binding, "target.name");
        let target = value::text(binding, "target.kind");
        let mut errors = FieldErrors::default();
        if !matches!(target, "" | "Node") {
            errors.not_supported("target.kind", target, &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required("target.name", "");
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Binding", pod, &errors));
        }
        if pod.is_empty() {
            return Err(ApiError::bad_request("Name parameter required."));
        }
        let refuse = |why: String| Err(ApiError::conflict("", "pods/binding", pod, &why));
        let change = |current: &Value| {
            check_uid("", "pods/binding", pod, current, binding)?;
            if value::at(current, "metadata.deletionTimestamp").is_some() {
                return refuse(format!(
                    "pod {pod} is being deleted, cannot be assigned to a host"
                ));
            }
            let bound = value::text(current, "spec.nodeName");
            if !bound.is_empty() {
                return refuse(format!("pod {pod} is already assigned to node {bound:?}"));
            }
            if !value::items(current, "spec.schedulingGates").is_empty() {
                return refuse(format!("pod {pod} has non-empty .spec.schedulingGates"));
            }
            let mut bound = current.clone();
            value::set(&mut bound, "spec.nodeName", node);
            for part in ["annotations", "labels"] {
                let path = format!("metadata.{part}");
                for (key, set) in value::members(binding, &path) {
                    let mut all = value::at(&bound, &path).cloned().unwrap_or(json!({}));
                    all[key.as_str()] = set.clone();
                    value::set(&mut bound, &path, all);
                }
            }
            set_scheduled(&mut bound);
            Ok(bound.into())
        };
        self.modify(kind, namespace, pod, Part::Binding, options, &change)
            .await
    }

    /// Evicts a pod. There are no disruption budgets that could forbid it, so it is a deletion.
    pub(crate) async fn evict(
        &self,
        namespace: &str,
        pod: &str,
        deletion: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let kind = &self.registry().resource("", "v1", "pods")?;
        self.delete(kind, namespace, pod, Part::Eviction, deletion, options)
            .await
    }

    /// Replaces the finalizers in a namespace's spec.
    pub(crate) async fn finalize(
        &self,
        name: &str,
        sent: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let kind = &self.registry().resource("", "v1", "namespaces")?;
        let change = |current: &Value| {
            check_uid(&kind.group, &kind.plural, name, current, sent)?;
            let mut new = current.clone();
            value::copy(&mut new, sent, "metadata.resourceVersion");
            value::copy(&mut new, sent, "spec.finalizers");
            if value::at(&new, "spec").is_none() {
                value::set(&mut new, "spec", json!({}));
            }
            Ok(new.into())
        };
        self.modify(kind, "", name, Part::Finalize, options, &change)
            .await
    }

    /// Takes the `kubernetes` finalizer off.
    pub(crate) async fn finalize_namespace(&self, name: &str) -> Result<(), ApiError> {
        let kept = json!({"spec": {}});
        self.finalize(name, &kept, &WriteOptions::in_process())
            .await
            .map(|_| ())
    }
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
