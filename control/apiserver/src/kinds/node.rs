// SPDX-License-Identifier: Apache-2.0
//! Node: a machine, as it reports itself and as the node lifecycle sees it.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use super::ignored::{self, Ignored, ignored};
use super::podspec::canonical_quantities;
use crate::field::FieldErrors;
use crate::registry::{
    Column, Kind, Rules, Scope, Selectable, Strategy, Subresource, Validate, texts,
};
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

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
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

impl Validate for Node {
    type Object = api::Node;

    fn validate(&self, new: &api::Node, errors: &mut FieldErrors) {
        const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        let spec = new.spec.as_ref();
        let taints = spec.and_then(|s| s.taints.as_deref()).unwrap_or_default();
        for (index, taint) in taints.iter().enumerate() {
            let field = format!("spec.taints[{index}]");
            for message in knarr_api::names::validate_qualified_name(&taint.key) {
                errors.invalid(&format!("{field}.key"), taint.key.as_str(), &message);
            }
            let effect = taint.effect.as_str();
            if effect.is_empty() {
                errors.required(&format!("{field}.effect"), "");
            } else if !EFFECTS.contains(&effect) {
                errors.not_supported(&format!("{field}.effect"), effect, &EFFECTS);
            }
            let is_same =
                |other: &api::Taint| other.key == taint.key && other.effect == taint.effect;
            if taints[..index].iter().any(is_same) {
                errors.duplicate(&field, shown_taint(taint));
            }
        }
    }

    fn validate_update(&self, new: &api::Node, old: &api::Node, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let ranges = |node: &api::Node| -> Vec<String> {
            let spec = node.spec.as_ref();
            spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default()
        };
        if !ranges(old).is_empty() && ranges(new) != ranges(old) {
            errors.forbidden(
                "spec.podCIDRs",
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
        let provider = |node: &api::Node| -> String {
            let spec = node.spec.as_ref();
            spec.and_then(|s| s.provider_id.clone()).unwrap_or_default()
        };
        if !provider(old).is_empty() && provider(new) != provider(old) {
            errors.forbidden(
                "spec.providerID",
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }
}

/// A taint in the order in which Kubernetes writes it.
fn shown_taint(taint: &api::Taint) -> Value {
    let mut shown = json!({"key": taint.key});
    if let Some(value) = &taint.value {
        shown["value"] = value.as_str().into();
    }
    shown["effect"] = taint.effect.as_str().into();
    if let Some(added) = &taint.time_added {
        shown["timeAdded"] = json!(added);
    }
    shown
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
