// SPDX-License-Identifier: Apache-2.0
//! ReplicaSet: so many pods of one template.

use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use knarr_api::labels::Selector;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{podspec, scale};
use crate::field::FieldErrors;
use crate::registry::rules::{items, pairs, same, text};
use crate::registry::{
    Column, Generation, Kind, Rules, Scope, StatusRules, Strategy, Subresource, Validate, meta,
    texts,
};
use crate::{table, value};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["rs"]),
        categories: texts(&["all"]),
        generation: Generation::Spec,
        subresources: vec![
            scale::subresource(),
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

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
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

impl Validate for ReplicaSet {
    type Object = Selecting<api::ReplicaSet>;

    fn validate(&self, new: &Self::Object, errors: &mut FieldErrors) {
        let spec = &new.object.spec;
        not_negative(
            &[
                ("spec.replicas", spec.replicas.map(i64::from)),
                (
                    "spec.minReadySeconds",
                    spec.min_ready_seconds.map(i64::from),
                ),
            ],
            errors,
        );
        let selector = new.selector.given(&spec.selector);
        let absent = PodTemplateSpec::default();
        let template = spec.template.as_ref().unwrap_or(&absent);
        selector_and_template(selector, template, errors);
    }

    fn validate_update(&self, new: &Self::Object, old: &Self::Object, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let before = old.selector.given(&old.object.spec.selector);
        let now = new.selector.given(&new.object.spec.selector);
        selector_stays(now, before, errors);
    }

    const STATUS_RULES: StatusRules = StatusRules::Some;

    fn validate_status(&self, new: &Self::Object, errors: &mut FieldErrors) {
        let status = new.object.status.clone().unwrap_or_default();
        not_negative(
            &[
                ("status.replicas", Some(i64::from(status.replicas))),
                ("status.readyReplicas", status.ready_replicas.map(i64::from)),
                (
                    "status.availableReplicas",
                    status.available_replicas.map(i64::from),
                ),
                ("status.observedGeneration", status.observed_generation),
            ],
            errors,
        );
    }
}

/// Whether a workload has a selector. Its type has one always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Given,
    Missing,
}

impl Presence {
    /// The selector where it was given.
    pub(super) fn given(self, selector: &LabelSelector) -> Option<&LabelSelector> {
        (self == Self::Given).then_some(selector)
    }
}

/// A workload, and whether its selector was given.
#[derive(Debug)]
pub(super) struct Selecting<K> {
    pub(super) object: K,
    pub(super) selector: Presence,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Selecting<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = Value::deserialize(deserializer)?;
        let selector = match value::at(&tree, "spec.selector") {
            Some(_) => Presence::Given,
            None => Presence::Missing,
        };
        let object = K::deserialize(tree).map_err(serde::de::Error::custom)?;
        Ok(Self { object, selector })
    }
}

/// Numbers that count something, by their paths.
pub(super) fn not_negative(numbers: &[(&str, Option<i64>)], errors: &mut FieldErrors) {
    for (path, number) in numbers {
        if let Some(number) = number
            && *number < 0
        {
            errors.invalid(path, *number, "must be greater than or equal to 0");
        }
    }
}

/// The selector has to select the template, which has to run for ever.
pub(super) fn selector_and_template(
    selector: Option<&LabelSelector>,
    template: &PodTemplateSpec,
    errors: &mut FieldErrors,
) {
    let usable = match selector {
        None => {
            errors.required("spec.selector", "");
            None
        }
        Some(selector) => usable_selector(selector, errors),
    };
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let pairs: Vec<(String, String)> = labels
        .into_iter()
        .flatten()
        .map(|(key, set)| (key.clone(), set.clone()))
        .collect();
    if let Some(selector) = usable
        && !selector.matches(pairs.as_slice())
    {
        let shown = labels.map_or_else(|| json!({}), |labels| json!(labels));
        errors.invalid(
            "spec.template.metadata.labels",
            shown,
            "`selector` does not match template `labels`",
        );
    }
    podspec::validate_template(template, "spec.template", errors);
    let Some(spec) = &template.spec else {
        return;
    };
    let policy = text(&spec.restart_policy);
    if matches!(policy, "OnFailure" | "Never") {
        errors.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        errors.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

/// The selector, where it is valid and selects something.
fn usable_selector(selector: &LabelSelector, errors: &mut FieldErrors) -> Option<Selector> {
    let is_empty = selector.match_labels.iter().flatten().next().is_none()
        && items(&selector.match_expressions).is_empty();
    let before = errors.iter().count();
    selector_parts(selector, errors);
    if is_empty {
        errors.invalid(
            "spec.selector",
            shown_selector(selector),
            "empty selector is invalid for deployment",
        );
        return None;
    }
    if errors.iter().count() > before {
        return None;
    }
    let usable = Selector::from_object(Some(selector));
    if usable.is_err() {
        errors.invalid(
            "spec.selector",
            shown_selector(selector),
            "invalid label selector",
        );
    }
    usable.ok()
}

fn selector_parts(selector: &LabelSelector, errors: &mut FieldErrors) {
    let labels = pairs(&selector.match_labels);
    meta::labels(labels, "spec.selector.matchLabels", errors);
    for (index, expression) in items(&selector.match_expressions).iter().enumerate() {
        let field = format!("spec.selector.matchExpressions[{index}]");
        let key = expression.key.as_str();
        for message in knarr_api::names::validate_qualified_name(key) {
            errors.invalid(&format!("{field}.key"), key, &message);
        }
        let values = items(&expression.values).len();
        match expression.operator.as_str() {
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

/// A selector in the order in which Kubernetes writes it.
fn shown_selector(selector: &LabelSelector) -> Value {
    let mut shown = json!({});
    if let Some(labels) = &selector.match_labels {
        shown["matchLabels"] = json!(labels);
    }
    if let Some(expressions) = &selector.match_expressions {
        shown["matchExpressions"] = json!(expressions);
    }
    shown
}

/// `spec.selector` cannot be changed.
pub(super) fn selector_stays(
    new: Option<&LabelSelector>,
    old: Option<&LabelSelector>,
    errors: &mut FieldErrors,
) {
    let is_same = match (new, old) {
        (Some(new), Some(old)) => {
            same(&new.match_labels, &old.match_labels)
                && same(&new.match_expressions, &old.match_expressions)
        }
        (new, old) => new == old,
    };
    if !is_same {
        let shown = new.map(shown_selector).unwrap_or_default();
        errors.invalid("spec.selector", shown, "field is immutable");
    }
}

#[cfg(test)]
mod tests;
