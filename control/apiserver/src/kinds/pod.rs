// SPDX-License-Identifier: Apache-2.0
//! Pod: containers that run together on one node.

use serde_json::{Map, Value, json};

use super::podspec;
use crate::field::FieldErrors;
use crate::registry::{
    Column, Generation, Kind, Scope, Selectable, Strategy, Subresource, meta, texts,
};
use crate::{table, value};

pub(super) mod admission;
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

impl Strategy for Pod {
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

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let empty = Value::Null;
        podspec::validate(value::at(object, "spec").unwrap_or(&empty), "spec", errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.validate(new, errors);
        if !errors.is_empty() {
            return;
        }
        tolerations_only_grow(new, old, errors);
        let mut allowed = new.clone();
        for list in ["initContainers", "containers"] {
            let path = format!("spec.{list}");
            let before = value::items(old, &path).to_vec();
            for (container, old) in value::items_mut(&mut allowed, &path).zip(&before) {
                value::copy(container, old, "image");
            }
        }
        for changeable in ["spec.activeDeadlineSeconds", "spec.tolerations"] {
            value::copy(&mut allowed, old, changeable);
        }
        if value::int(old, "spec.terminationGracePeriodSeconds").is_some_and(|s| s < 0)
            && value::int(new, "spec.terminationGracePeriodSeconds") == Some(1)
        {
            value::copy(&mut allowed, old, "spec.terminationGracePeriodSeconds");
        }
        if !value::items(old, "spec.schedulingGates").is_empty() {
            value::copy(&mut allowed, old, "spec.schedulingGates");
            value::copy(&mut allowed, old, "spec.nodeSelector");
        }
        if !value::same(&allowed, old, "spec") {
            errors.forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            );
        }
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

fn tolerations_only_grow(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let after = value::items(new, "spec.tolerations");
    for before in value::items(old, "spec.tolerations") {
        let kept = after.iter().any(|t| {
            ["key", "operator", "value", "effect"]
                .iter()
                .all(|part| value::text(t, part) == value::text(before, part))
        });
        if !kept {
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
