// SPDX-License-Identifier: Apache-2.0
//! ReplicaSet: so many pods of one template.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use knarr_api::labels::Selector;
use serde_json::{Value, json};

use super::podspec;
use crate::field::FieldErrors;
use crate::registry::{Column, Generation, Kind, Scope, Strategy, Subresource, texts};
use crate::{table, value};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["rs"]),
        categories: texts(&["all"]),
        generation: Generation::Spec,
        subresources: vec![
            Subresource::SCALE,
            Subresource::status("apps", "v1", "ReplicaSet"),
        ],
        columns: vec![
            Column::NAME,
            Column::new(
                "Desired",
                "integer",
                "Replicas is the number of desired pods.",
            ),
            Column::new(
                "Current",
                "integer",
                "Replicas is the most recently observed number of non-terminating pods.",
            ),
            Column::new(
                "Ready",
                "integer",
                "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
            ),
            Column::AGE,
            Column::new(
                "Containers",
                "string",
                "Names of each container in the template.",
            )
            .wide(),
            Column::new(
                "Images",
                "string",
                "Images referenced by each container in the template.",
            )
            .wide(),
            Column::new(
                "Selector",
                "string",
                "Selector is a label query over pods that should match the replica count.",
            )
            .wide(),
        ],
        ..Kind::new(
            "apps",
            "v1",
            "ReplicaSet",
            "replicasets",
            Scope::Namespaced,
            ReplicaSet,
        )
    }
}

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        value::default(object, "spec.replicas", 1);
        default_template(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        value::set(object, "status", json!({"replicas": 0}));
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        not_negative(object, &["spec.replicas", "spec.minReadySeconds"], errors);
        selector_and_template(object, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.validate(new, errors);
        selector_stays(new, old, errors);
    }

    fn validate_status(&self, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        not_negative(
            new,
            &[
                "status.replicas",
                "status.readyReplicas",
                "status.availableReplicas",
                "status.observedGeneration",
            ],
            errors,
        );
    }

    fn advice(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        podspec::template_advice(new, old)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        const SPEC: &str = "spec.template.spec";
        podspec::warnings(value::at(object, SPEC).unwrap_or(&Value::Null), SPEC)
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let count = |path: &str| value::int(object, path).unwrap_or(0).into();
        let (names, images) = table::containers(object);
        vec![
            table::name(object),
            count("spec.replicas"),
            count("status.replicas"),
            count("status.readyReplicas"),
            table::age(object),
            names.into(),
            images.into(),
            table::selector(object).into(),
        ]
    }
}

/// Defaults of `spec.template`.
pub(super) fn default_template(object: &mut Value) {
    value::default(object, "spec.template", json!({}));
    value::default(object, "spec.template.metadata", json!({}));
    value::default(object, "spec.template.spec", json!({}));
    if let Some(spec) = value::at_mut(object, "spec.template.spec") {
        podspec::default(spec);
    }
}

/// Numbers that count something.
pub(super) fn not_negative(object: &Value, paths: &[&str], errors: &mut FieldErrors) {
    for path in paths {
        if let Some(number) = value::int(object, path)
            && number < 0
        {
            errors.invalid(path, number, "must be greater than or equal to 0");
        }
    }
}

/// The selector has to select the template, which has to run for ever.
pub(super) fn selector_and_template(object: &Value, errors: &mut FieldErrors) {
    let parsed: Option<LabelSelector> =
        value::at(object, "spec.selector").and_then(|s| serde_json::from_value(s.clone()).ok());
    let mut usable = None;
    match &parsed {
        None => errors.required("spec.selector", ""),
        Some(selector) => {
            let empty = selector.match_labels.as_ref().is_none_or(|m| m.is_empty())
                && selector
                    .match_expressions
                    .as_ref()
                    .is_none_or(|m| m.is_empty());
            let before = errors.iter().count();
            selector_parts(object, errors);
            if empty {
                errors.invalid(
                    "spec.selector",
                    value::at(object, "spec.selector")
                        .cloned()
                        .unwrap_or_default(),
                    "empty selector is invalid for deployment",
                );
            } else if errors.iter().count() == before {
                match Selector::from_object(Some(selector)) {
                    Ok(selector) => usable = Some(selector),
                    Err(_) => errors.invalid(
                        "spec.selector",
                        value::at(object, "spec.selector")
                            .cloned()
                            .unwrap_or_default(),
                        "invalid label selector",
                    ),
                }
            }
        }
    }
    let labels: Vec<(String, String)> = value::members(object, "spec.template.metadata.labels")
        .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
        .collect();
    if let Some(selector) = usable
        && !selector.matches(labels.as_slice())
    {
        errors.invalid(
            "spec.template.metadata.labels",
            value::at(object, "spec.template.metadata.labels")
                .cloned()
                .unwrap_or(json!({})),
            "`selector` does not match template `labels`",
        );
    }
    let empty = Value::Null;
    let template = value::at(object, "spec.template").unwrap_or(&empty);
    podspec::validate_template(template, "spec.template", errors);
    let policy = value::text(template, "spec.restartPolicy");
    if policy != "Always" && matches!(policy, "OnFailure" | "Never") {
        errors.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if value::at(template, "spec.activeDeadlineSeconds").is_some() {
        errors.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn selector_parts(object: &Value, errors: &mut FieldErrors) {
    crate::registry::meta::labels(
        value::at(object, "spec.selector.matchLabels"),
        "spec.selector.matchLabels",
        errors,
    );
    for (index, expression) in value::items(object, "spec.selector.matchExpressions")
        .iter()
        .enumerate()
    {
        let field = format!("spec.selector.matchExpressions[{index}]");
        let key = value::text(expression, "key");
        for message in knarr_api::names::validate_qualified_name(key) {
            errors.invalid(&format!("{field}.key"), key, &message);
        }
        let values = value::items(expression, "values").len();
        match value::text(expression, "operator") {
            "In" | "NotIn" if values == 0 => errors.required(
                &format!("{field}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if values > 0 => errors.forbidden(
                &format!("{field}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "Exists" | "DoesNotExist" => {}
            other => errors.invalid(
                &format!("{field}.operator"),
                other,
                "not a valid selector operator",
            ),
        }
    }
}

/// `spec.selector` cannot be changed.
pub(super) fn selector_stays(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if !value::same(new, old, "spec.selector") {
        errors.invalid(
            "spec.selector",
            value::at(new, "spec.selector").cloned().unwrap_or_default(),
            "field is immutable",
        );
    }
}
