// SPDX-License-Identifier: Apache-2.0
//! Deployment: ReplicaSets that replace one another.

use k8s_openapi::api::apps::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::replicaset::{
    Selecting, default_template, not_negative, selector_and_template, selector_stays,
};
use super::scale;
use crate::field::FieldErrors;
use crate::registry::rules::text;
use crate::registry::{
    Column, Generation, Kind, Rules, Scope, StatusRules, Strategy, Subresource, Validate, texts,
};
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
            scale::subresource(),
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

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
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

impl Validate for Deployment {
    type Object = Selecting<api::Deployment>;

    fn validate(&self, new: &Self::Object, errors: &mut FieldErrors) {
        let spec = &new.object.spec;
        not_negative(&[("spec.replicas", spec.replicas.map(i64::from))], errors);
        let selector = new.selector.given(&spec.selector);
        selector_and_template(selector, &spec.template, errors);
        strategy(&spec.strategy.clone().unwrap_or_default(), errors);
        let history = spec.revision_history_limit.map(i64::from);
        not_negative(
            &[
                (
                    "spec.minReadySeconds",
                    spec.min_ready_seconds.map(i64::from),
                ),
                ("spec.revisionHistoryLimit", history),
            ],
            errors,
        );
        if let Some(deadline) = spec.progress_deadline_seconds {
            const FIELD: &str = "spec.progressDeadlineSeconds";
            not_negative(&[(FIELD, Some(i64::from(deadline)))], errors);
            if deadline <= spec.min_ready_seconds.unwrap_or(0) {
                errors.invalid(FIELD, deadline, "must be greater than minReadySeconds");
            }
        }
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
        let updated = ("status.updatedReplicas", status.updated_replicas);
        let ready = ("status.readyReplicas", status.ready_replicas);
        let available = ("status.availableReplicas", status.available_replicas);
        let wide = |(path, count): (&'static str, Option<i32>)| (path, count.map(i64::from));
        not_negative(
            &[
                ("status.observedGeneration", status.observed_generation),
                wide(("status.replicas", status.replicas)),
                wide(updated),
                wide(ready),
                wide(available),
                wide(("status.unavailableReplicas", status.unavailable_replicas)),
            ],
            errors,
        );
        let all = status.replicas.unwrap_or(0);
        for (path, count) in [updated, ready, available] {
            let count = count.unwrap_or(0);
            if count > all {
                errors.invalid(path, count, "cannot be greater than status.replicas");
            }
        }
        let (path, count) = available;
        let count = count.unwrap_or(0);
        if count > status.ready_replicas.unwrap_or(0) {
            errors.invalid(path, count, "cannot be greater than readyReplicas");
        }
    }
}

fn strategy(strategy: &api::DeploymentStrategy, errors: &mut FieldErrors) {
    const UNAVAILABLE: &str = "spec.strategy.rollingUpdate.maxUnavailable";
    match text(&strategy.type_) {
        "Recreate" => {
            if strategy.rolling_update.is_some() {
                errors.forbidden(
                    "spec.strategy.rollingUpdate",
                    "may not be specified when strategy `type` is 'Recreate'",
                );
            }
        }
        "RollingUpdate" => {
            let rolling = strategy.rolling_update.clone().unwrap_or_default();
            let (surge, unavailable) = (&rolling.max_surge, &rolling.max_unavailable);
            int_or_percent(unavailable, UNAVAILABLE, errors);
            int_or_percent(surge, "spec.strategy.rollingUpdate.maxSurge", errors);
            if amount(surge) == Some(0) && amount(unavailable) == Some(0) {
                errors.invalid(
                    UNAVAILABLE,
                    json!(unavailable),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            if matches!(unavailable, Some(IntOrString::String(_)))
                && amount(unavailable).is_some_and(|p| p > 100)
            {
                errors.invalid(
                    UNAVAILABLE,
                    json!(unavailable),
                    "must not be greater than 100%",
                );
            }
        }
        other => errors.not_supported("spec.strategy.type", other, &["Recreate", "RollingUpdate"]),
    }
}

/// The number, or the number of per cent.
fn amount(value: &Option<IntOrString>) -> Option<i64> {
    match value.as_ref()? {
        IntOrString::String(text) => text.strip_suffix('%')?.parse().ok(),
        IntOrString::Int(number) => Some(i64::from(*number)),
    }
}

fn int_or_percent(value: &Option<IntOrString>, field: &str, errors: &mut FieldErrors) {
    match value {
        Some(IntOrString::String(text)) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errors.invalid(
                    field,
                    text.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                );
            }
        }
        Some(IntOrString::Int(number)) if *number < 0 => {
            errors.invalid(field, *number, "must be greater than or equal to 0");
        }
        Some(IntOrString::Int(_)) | None => {}
    }
}
