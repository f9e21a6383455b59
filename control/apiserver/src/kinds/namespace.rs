// SPDX-License-Identifier: Apache-2.0
//! Namespace: the `kubernetes` finalizer in its spec keeps it until its content is gone.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use crate::field::FieldErrors;
use crate::registry::{
    Column, Kind, NameRule, Rules, Scope, Selectable, StatusRules, Strategy, Subresource, Validate,
    texts,
};
use crate::{table, value};

pub(super) mod lifecycle;

/// The plural name, which is also what stands before a namespace in the paths of its objects.
pub(crate) const NAMESPACES: &str = "namespaces";

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ns"]),
        name_rule: NameRule::Label,
        subresources: vec![
            Subresource::new("finalize", "", "v1", "Namespace", &["update"]),
            Subresource::status("", "v1", "Namespace"),
        ],
        selectable: vec![Selectable::new("status.phase")],
        columns: vec![
            Column::NAME,
            Column::new("Status", "string", "The status of the namespace"),
            Column::AGE,
        ],
        ..Kind::new(
            "",
            "v1",
            "Namespace",
            "namespaces",
            Scope::Cluster,
            Namespace,
        )
    }
}

struct Namespace;

impl Strategy for Namespace {
    fn is_held(&self, object: &Value) -> bool {
        !value::items(object, "spec.finalizers").is_empty()
    }

    fn begin_deletion(&self, object: &mut Value) {
        value::set(object, "status.phase", "Terminating");
    }

    fn deletes_collections(&self) -> bool {
        false
    }

    fn default(&self, object: &mut Value) {
        let name = value::text(object, "metadata.name").to_owned();
        let mut labels = value::at(object, "metadata.labels")
            .cloned()
            .unwrap_or(json!({}));
        if !name.is_empty() {
            labels["kubernetes.io/metadata.name"] = name.into();
            value::set(object, "metadata.labels", labels);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        value::set(object, "status", json!({"phase": "Active"}));
        let mut finalizers = value::items(object, "spec.finalizers").to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        value::set(object, "spec", json!({"finalizers": finalizers}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        value::copy(new, old, "spec.finalizers");
        if value::at(new, "spec").is_none() {
            value::copy(new, old, "spec");
        }
    }

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![
            table::name(object),
            value::text(object, "status.phase").into(),
            table::age(object),
        ]
    }
}

impl Validate for Namespace {
    type Object = api::Namespace;

    const STATUS_RULES: StatusRules = StatusRules::Some;

    fn validate_status(&self, new: &api::Namespace, errors: &mut FieldErrors) {
        let phase = new.status.as_ref().and_then(|s| s.phase.as_deref());
        let phase = phase.unwrap_or_default();
        let deleting = new.metadata.deletion_timestamp.is_some();
        if deleting && phase != "Terminating" {
            errors.invalid(
                "status.Phase",
                phase,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            );
        }
        if !deleting && phase != "Active" {
            errors.invalid(
                "status.Phase",
                phase,
                "may only be 'Active' if `deletionTimestamp` is empty",
            );
        }
    }
}
