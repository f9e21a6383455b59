// SPDX-License-Identifier: Apache-2.0
//! Pod: containers that run together on one node.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Map, Value, json};

use super::podspec;
use crate::field::FieldErrors;
use crate::registry::rules::{items, text};
use crate::registry::{
    Column, DeletedAnswer, Generation, Kind, Rules, Scope, Selectable, Strategy, Subresource,
    Validate, meta, texts,
};
use crate::{table, value};

pub(super) mod admission;
mod binding;
mod qos;
mod row;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["po"]),
        categories: texts(&["all"]),
        generation: Generation::Spec,
        subresources: vec![
            Subresource::new("attach", "", "v1", "PodAttachOptions", &["create", "get"]),
            Subresource::new("binding", "", "v1", "Binding", &["create"]),
            Subresource::new("eviction", "policy", "v1", "Eviction", &["create"]),
            Subresource::new("exec", "", "v1", "PodExecOptions", &["create", "get"]),
            Subresource::new("log", "", "v1", "Pod", &["get"]),
            Subresource::new("portforward", "", "v1", "PodPortForwardOptions", &["create", "get"]),
            Subresource::status("", "v1", "Pod"),
        ],
        selectable: vec![
            Selectable::new("spec.nodeName"),
            Selectable::new("spec.restartPolicy"),
            Selectable::new("spec.schedulerName"),
            Selectable::new("spec.serviceAccountName"),
            Selectable::new("spec.hostNetwork").or("false"),
            Selectable::new("status.phase"),
            Selectable::new("status.podIP"),
            // Kubernetes takes this label and never finds anything; a pod here has one address.
            Selectable::new("status.podIPs").at(&["status.podIP"]),
            Selectable::new("status.nominatedNodeName"),
            // What the oldest clients call it.
            Selectable::new("spec.host").at(&["spec.nodeName"]),
        ],
        columns: vec![
            Column::NAME,
            Column::new("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
            Column::new("Status", "string", "The aggregate status of the containers in this pod."),
            Column::new("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
            Column::AGE,
            Column::new("IP", "string", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.").wide(),
            Column::new("Node", "string", "NodeName indicates in which node this pod is scheduled.").wide(),
            Column::new("Nominated Node", "string", "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods.").wide(),
            Column::new("Readiness Gates", "string", "If specified, all readiness gates will be evaluated for pod readiness.").wide(),
        ],
        ..Kind::new("", "v1", "Pod", "pods", Scope::Namespaced, Pod)
    }
}

struct Pod;

/// Grace of a pod whose spec names none, in seconds.
const GRACE_DEFAULT_S: i64 = 30;
/// Longest grace, in seconds: 4,355 years. Kubernetes sets no bound, but the moment of the end has to be one that a
/// timestamp can hold, and taking the grace off it again has to give the moment when the deletion began.
const GRACE_MAX_S: i64 = 1 << 37;

impl Strategy for Pod {
    /// A pod that has ended, or that no node has, goes at once.
    fn grace_s(&self, object: &Value, asked: Option<i64>) -> i64 {
        let ended = matches!(value::text(object, "status.phase"), "Succeeded" | "Failed");
        if ended || value::text(object, "spec.nodeName").is_empty() {
            return 0;
        }
        let asked = asked
            .or_else(|| value::int(object, "spec.terminationGracePeriodSeconds"))
            .unwrap_or(GRACE_DEFAULT_S);
        if asked < 0 { 1 } else { asked.min(GRACE_MAX_S) }
    }

    fn check_binding(&self, binding: &Value, errors: &mut FieldErrors) {
        super::binding::check(binding, errors);
    }

    fn bind(&self, current: &Value, binding: &Value) -> Result<Value, String> {
        binding::bind(current, binding)
    }

    fn deleted_answer(&self) -> DeletedAnswer {
        DeletedAnswer::Object
    }

    fn default(&self, object: &mut Value) {
        if value::at(object, "spec").is_none() {
            value::set(object, "spec", Map::new());
        }
        let Some(spec) = value::at_mut(object, "spec") else {
            return;
        };
        podspec::default(spec);
        podspec::default_requests(spec);
        value::default(spec, "enableServiceLinks", true);
    }

    fn prepare_create(&self, object: &mut Value) {
        let class = qos::class(object);
        value::set(
            object,
            "status",
            json!({"phase": "Pending", "qosClass": class}),
        );
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        for kept in ["spec.nodeName", "spec.hostname", "spec.subdomain"] {
            if value::text(new, kept).is_empty() {
                value::copy(new, old, kept);
            }
        }
        // Admission has set these; Priority and ServiceAccount of kube-apiserver keep them alike.
        for admitted in [
            "spec.serviceAccountName",
            "spec.serviceAccount",
            "spec.priority",
            "spec.preemptionPolicy",
        ] {
            if value::at(new, admitted).is_none() {
                value::copy(new, old, admitted);
            }
        }
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        if value::text(new, "status.qosClass").is_empty() {
            value::copy(new, old, "status.qosClass");
        }
    }

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
    }

    fn advice(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut found = Vec::new();
        if old.is_none() {
            found.extend(meta::hostname_advice(new, "the Pod's hostname"));
        }
        found.extend(podspec::advice(new, ""));
        found
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let spec = value::at(object, "spec").unwrap_or(&Value::Null);
        podspec::warnings(spec, "spec")
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        row::cells(object)
    }
}

impl Validate for Pod {
    type Object = api::Pod;

    fn validate(&self, new: &api::Pod, errors: &mut FieldErrors) {
        let default = api::PodSpec::default();
        podspec::validate(new.spec.as_ref().unwrap_or(&default), "spec", errors);
    }

    fn validate_update(&self, new: &api::Pod, old: &api::Pod, errors: &mut FieldErrors) {
        self.validate(new, errors);
        if !errors.is_empty() {
            return;
        }
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            validate_change(new, old, errors);
        }
    }
}

/// What may be changed of a pod's spec.
fn validate_change(new: &api::PodSpec, old: &api::PodSpec, errors: &mut FieldErrors) {
    tolerations_only_grow(new, old, errors);
    let mut allowed = new.clone();
    let init = allowed.init_containers.iter_mut().flatten();
    for (container, old) in init.zip(items(&old.init_containers)) {
        container.image.clone_from(&old.image);
    }
    for (container, old) in allowed.containers.iter_mut().zip(&old.containers) {
        container.image.clone_from(&old.image);
    }
    allowed.active_deadline_seconds = old.active_deadline_seconds;
    allowed.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        allowed.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    if !items(&old.scheduling_gates).is_empty() {
        allowed.scheduling_gates.clone_from(&old.scheduling_gates);
        allowed.node_selector.clone_from(&old.node_selector);
    }
    if allowed != *old {
        errors.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

fn tolerations_only_grow(new: &api::PodSpec, old: &api::PodSpec, errors: &mut FieldErrors) {
    let parts = |t: &api::Toleration| {
        [&t.key, &t.operator, &t.value, &t.effect].map(|part| text(part).to_owned())
    };
    let after: Vec<_> = items(&new.tolerations).iter().map(parts).collect();
    for before in items(&old.tolerations) {
        if !after.contains(&parts(before)) {
            errors.forbidden(
                "spec.tolerations",
                "existing toleration can not be modified except its tolerationSeconds",
            );
            return;
        }
    }
}

/// The names of a pod's containers: init containers, containers, ephemeral containers.
pub(crate) fn container_names(pod: &Value) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    let names = |list: &str| {
        value::items(pod, list)
            .iter()
            .map(|c| value::text(c, "name"))
            .collect()
    };
    (
        names("spec.initContainers"),
        names("spec.containers"),
        names("spec.ephemeralContainers"),
    )
}

/// `3 (5m ago)`, the way restarts are shown.
fn restarts(count: i64, last: Option<&str>) -> String {
    match last {
        Some(time) if count > 0 => format!("{count} ({} ago)", table::since(time)),
        _ => count.to_string(),
    }
}

#[cfg(test)]
mod tests;
