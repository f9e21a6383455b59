// SPDX-License-Identifier: Apache-2.0
//! Deployment: ReplicaSets that replace one another.

use serde_json::{Value, json};

use super::replicaset::{default_template, not_negative, selector_and_template, selector_stays};
use crate::field::FieldErrors;
use crate::registry::{Column, Generation, Kind, Scope, Strategy, Subresource, texts};
use crate::{table, value};

/// Old ReplicaSets that are kept for going back.
const HISTORY: i64 = 10;
/// Seconds without progress after which a rollout has failed.
const PROGRESS_S: i64 = 600;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["deploy"]),
        categories: texts(&["all"]),
        generation: Generation::SpecAndAnnotations,
        subresources: vec![
            Subresource::SCALE,
            Subresource::status("apps", "v1", "Deployment"),
        ],
        columns: vec![
            Column::NAME,
            Column::new("Ready", "string", "Number of the pod with ready state"),
            Column::new(
                "Up-to-date",
                "string",
                "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
            ),
            Column::new(
                "Available",
                "string",
                "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
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
            Column::new("Selector", "string", "Label selector for pods.").wide(),
        ],
        ..Kind::new(
            "apps",
            "v1",
            "Deployment",
            "deployments",
            Scope::Namespaced,
            Deployment,
        )
    }
}

struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        value::default(object, "spec.replicas", 1);
        default_template(object);
        value::default_text(object, "spec.strategy.type", "RollingUpdate");
        if value::text(object, "spec.strategy.type") == "RollingUpdate" {
            value::default(object, "spec.strategy.rollingUpdate.maxUnavailable", "25%");
            value::default(object, "spec.strategy.rollingUpdate.maxSurge", "25%");
        }
        value::default(object, "spec.revisionHistoryLimit", HISTORY);
        value::default(object, "spec.progressDeadlineSeconds", PROGRESS_S);
    }

    fn prepare_create(&self, object: &mut Value) {
        value::set(object, "status", json!({}));
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        value::copy(new, old, "metadata.labels");
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        not_negative(object, &["spec.replicas"], errors);
        selector_and_template(object, errors);
        strategy(object, errors);
        not_negative(
            object,
            &["spec.minReadySeconds", "spec.revisionHistoryLimit"],
            errors,
        );
        if let Some(deadline) = value::int(object, "spec.progressDeadlineSeconds") {
            not_negative(object, &["spec.progressDeadlineSeconds"], errors);
            if deadline <= value::int(object, "spec.minReadySeconds").unwrap_or(0) {
                errors.invalid(
                    "spec.progressDeadlineSeconds",
                    deadline,
                    "must be greater than minReadySeconds",
                );
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.validate(new, errors);
        selector_stays(new, old, errors);
    }

    fn validate_status(&self, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        not_negative(
            new,
            &[
                "status.observedGeneration",
                "status.replicas",
                "status.updatedReplicas",
                "status.readyReplicas",
                "status.availableReplicas",
                "status.unavailableReplicas",
            ],
            errors,
        );
        let count = |path: &str| value::int(new, path).unwrap_or(0);
        let all = count("status.replicas");
        for (path, than) in [
            ("status.updatedReplicas", all),
            ("status.readyReplicas", all),
            ("status.availableReplicas", all),
        ] {
            if count(path) > than {
                errors.invalid(path, count(path), "cannot be greater than status.replicas");
            }
        }
        if count("status.availableReplicas") > count("status.readyReplicas") {
            errors.invalid(
                "status.availableReplicas",
                count("status.availableReplicas"),
                "cannot be greater than readyReplicas",
            );
        }
    }

    fn advice(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        super::podspec::template_advice(new, old)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        const SPEC: &str = "spec.template.spec";
        super::podspec::warnings(value::at(object, SPEC).unwrap_or(&Value::Null), SPEC)
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let count = |path: &str| value::int(object, path).unwrap_or(0);
        let (names, images) = table::containers(object);
        vec![
            table::name(object),
            format!(
                "{}/{}",
                count("status.readyReplicas"),
                count("spec.replicas")
            )
            .into(),
            count("status.updatedReplicas").into(),
            count("status.availableReplicas").into(),
            table::age(object),
            names.into(),
            images.into(),
            table::selector(object).into(),
        ]
    }
}

fn strategy(object: &Value, errors: &mut FieldErrors) {
    const FIELD: &str = "spec.strategy";
    match value::text(object, "spec.strategy.type") {
        "Recreate" => {
            if value::at(object, "spec.strategy.rollingUpdate").is_some() {
                errors.forbidden(
                    &format!("{FIELD}.rollingUpdate"),
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => {
            let surge = value::at(object, "spec.strategy.rollingUpdate.maxSurge");
            let unavailable = value::at(object, "spec.strategy.rollingUpdate.maxUnavailable");
            int_or_percent(
                unavailable,
                &format!("{FIELD}.rollingUpdate.maxUnavailable"),
                errors,
            );
            int_or_percent(surge, &format!("{FIELD}.rollingUpdate.maxSurge"), errors);
            if amount(surge) == Some(0) && amount(unavailable) == Some(0) {
                errors.invalid(
                    &format!("{FIELD}.rollingUpdate.maxUnavailable"),
                    unavailable.cloned().unwrap_or_default(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            if matches!(unavailable, Some(Value::String(_)))
                && amount(unavailable).is_some_and(|p| p > 100)
            {
                errors.invalid(
                    &format!("{FIELD}.rollingUpdate.maxUnavailable"),
                    unavailable.cloned().unwrap_or_default(),
                    "must not be greater than 100%",
                );
            }
        }
        other => errors.not_supported(
            &format!("{FIELD}.type"),
            other,
            &["Recreate", "RollingUpdate"],
        ),
    }
}

/// The number, or the number of per cent.
fn amount(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => text.strip_suffix('%')?.parse().ok(),
        number => number.as_i64(),
    }
}

fn int_or_percent(value: Option<&Value>, field: &str, errors: &mut FieldErrors) {
    match value {
        Some(Value::String(text)) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errors.invalid(
                    field,
                    text.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                );
            }
        }
        Some(number) => {
            if let Some(number) = number.as_i64()
                && number < 0
            {
                errors.invalid(field, number, "must be greater than or equal to 0");
            }
        }
        None => {}
    }
}
