// SPDX-License-Identifier: Apache-2.0
//! Node: a machine, as it reports itself and as the node lifecycle sees it.

use serde_json::Value;

use super::ignored::{self, Ignored, ignored};
use super::podspec::canonical_quantities;
use crate::field::FieldErrors;
use crate::registry::{Column, Kind, Scope, Selectable, Strategy, Subresource, texts};
use crate::{table, value};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["no"]),
        subresources: vec![Subresource::status("", "v1", "Node")],
        selectable: vec![Selectable::new("spec.unschedulable").or("false")],
        columns: vec![
            Column::NAME,
            Column::new("Status", "string", "The status of the node"),
            Column::new("Roles", "string", "The roles of the node"),
            Column::AGE,
            Column::new("Version", "string", "Kubelet Version reported by the node."),
            Column::new(
                "Internal-IP",
                "string",
                "List of addresses reachable to the node.",
            )
            .wide(),
            Column::new(
                "External-IP",
                "string",
                "List of addresses reachable to the node.",
            )
            .wide(),
            Column::new("OS-Image", "string", "OS Image reported by the node.").wide(),
            Column::new(
                "Kernel-Version",
                "string",
                "Kernel Version reported by the node.",
            )
            .wide(),
            Column::new(
                "Container-Runtime",
                "string",
                "ContainerRuntime Version reported by the node.",
            )
            .wide(),
        ],
        ..Kind::new("", "v1", "Node", "nodes", Scope::Cluster, Node)
    }
}

struct Node;

/// What nobody reads of a Node.
const IGNORED: &[Ignored] = &[
    ignored("spec.configSource", "the feature is no longer supported"),
    ignored(
        "spec.externalID",
        "this field is deprecated, and is unused by Kubernetes",
    ),
    ignored(
        "spec.podPreemptionPolicy",
        "has no effect in this version: no pod is preempted",
    ),
];

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        if value::at(object, "status.allocatable").is_none() {
            let capacity = object.clone();
            if value::at(&capacity, "status.capacity").is_some() {
                let all = value::at(&capacity, "status.capacity").cloned();
                value::set(object, "status.allocatable", all.unwrap_or_default());
            }
        }
        for part in ["status.capacity", "status.allocatable"] {
            if let Some(quantities) = value::at_mut(object, part) {
                canonical_quantities(quantities);
            }
        }
    }

    fn prepare_status(&self, new: &mut Value, _old: &Value) {
        self.default(new);
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        for (index, taint) in value::items(object, "spec.taints").iter().enumerate() {
            let field = format!("spec.taints[{index}]");
            for message in knarr_api::names::validate_qualified_name(value::text(taint, "key")) {
                errors.invalid(&format!("{field}.key"), value::text(taint, "key"), &message);
            }
            let effect = value::text(taint, "effect");
            const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            if effect.is_empty() {
                errors.required(&format!("{field}.effect"), "");
            } else if !EFFECTS.contains(&effect) {
                errors.not_supported(&format!("{field}.effect"), effect, &EFFECTS);
            }
            let duplicate = value::items(object, "spec.taints")[..index]
                .iter()
                .any(|t| value::same(t, taint, "key") && value::same(t, taint, "effect"));
            if duplicate {
                errors.duplicate(&field, taint.clone());
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.validate(new, errors);
        if !value::items(old, "spec.podCIDRs").is_empty() && !value::same(new, old, "spec.podCIDRs")
        {
            errors.forbidden(
                "spec.podCIDRs",
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
        if !value::text(old, "spec.providerID").is_empty()
            && !value::same(new, old, "spec.providerID")
        {
            errors.forbidden(
                "spec.providerID",
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        ignored::warnings(IGNORED, object, "")
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let address = |kind: &str| {
            value::items(object, "status.addresses")
                .iter()
                .find(|a| value::text(a, "type") == kind)
                .map_or("<none>", |a| value::text(a, "address"))
                .to_owned()
        };
        let info = |name: &str| {
            let text = value::text(object, &format!("status.nodeInfo.{name}"));
            if text.is_empty() { "<unknown>" } else { text }.to_owned()
        };
        vec![
            table::name(object),
            status(object).into(),
            roles(object).into(),
            table::age(object),
            value::text(object, "status.nodeInfo.kubeletVersion").into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            info("osImage").into(),
            info("kernelVersion").into(),
            info("containerRuntimeVersion").into(),
        ]
    }
}

fn status(node: &Value) -> String {
    let ready = value::items(node, "status.conditions")
        .iter()
        .find(|c| value::text(c, "type") == "Ready");
    let mut status = match ready.map(|c| value::text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if value::is_true(node, "spec.unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = value::members(node, "metadata.labels")
        .filter_map(
            |(key, set)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) if !role.is_empty() => Some(role),
                _ if key == "kubernetes.io/role" => set.as_str().filter(|r| !r.is_empty()),
                _ => None,
            },
        )
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}
