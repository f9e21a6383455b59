// SPDX-License-Identifier: Apache-2.0
//! What is wrong with where a pod wants to run: node affinity and topology spread.

use knarr_api::names::{validate_label_value, validate_qualified_name};
use serde_json::Value;

use crate::field::FieldErrors;
use crate::value;

const OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
const FIELD_OPERATORS: [&str; 2] = ["In", "NotIn"];
/// What Kubernetes says of another operator.
const OPERATOR: &str = "not a valid selector operator";
/// The one field of a node that can be selected by.
const NODE_NAME: &str = "metadata.name";
const UNSATISFIABLE: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];

/// `affinity.nodeAffinity`.
pub(super) fn node_affinity(spec: &Value, field: &str, errors: &mut FieldErrors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let Some(affinity) = value::at(spec, "affinity.nodeAffinity") else {
        return;
    };
    let field = format!("{field}.affinity.nodeAffinity");
    if let Some(required) = value::at(affinity, REQUIRED) {
        let field = format!("{field}.{REQUIRED}.nodeSelectorTerms");
        let terms = value::items(required, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(&field, "must have at least one node selector term");
        }
        for (index, one) in terms.iter().enumerate() {
            term(one, &format!("{field}[{index}]"), errors);
        }
    }
    for (index, preferred) in value::items(affinity, PREFERRED).iter().enumerate() {
        let field = format!("{field}.{PREFERRED}[{index}]");
        let weight = value::int(preferred, "weight").unwrap_or(0);
        if !(1..=100).contains(&weight) {
            errors.invalid(
                &format!("{field}.weight"),
                weight,
                "must be in the range 1-100",
            );
        }
        if let Some(preference) = value::at(preferred, "preference") {
            term(preference, &format!("{field}.preference"), errors);
        }
    }
}

fn term(term: &Value, field: &str, errors: &mut FieldErrors) {
    let expressions = value::items(term, "matchExpressions").iter().enumerate();
    for (index, requirement) in expressions {
        expression(
            requirement,
            &format!("{field}.matchExpressions[{index}]"),
            errors,
        );
    }
    for (index, requirement) in value::items(term, "matchFields").iter().enumerate() {
        node_field(
            requirement,
            &format!("{field}.matchFields[{index}]"),
            errors,
        );
    }
}

fn expression(requirement: &Value, field: &str, errors: &mut FieldErrors) {
    let values = value::items(requirement, "values");
    let operator = value::text(requirement, "operator");
    match operator {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &format!("{field}.values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.forbidden(
            &format!("{field}.values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        "Gt" | "Lt" if values.len() != 1 => errors.required(
            &format!("{field}.values"),
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        known if OPERATORS.contains(&known) => {}
        other => errors.invalid(&format!("{field}.operator"), other, OPERATOR),
    }
    let key = value::text(requirement, "key");
    for message in validate_qualified_name(key) {
        errors.invalid(&format!("{field}.key"), key, &message);
    }
    for (index, set) in values.iter().enumerate() {
        let set = set.as_str().unwrap_or_default();
        for message in validate_label_value(set) {
            errors.invalid(&format!("{field}.values[{index}]"), set, &message);
        }
    }
}

fn node_field(requirement: &Value, field: &str, errors: &mut FieldErrors) {
    let operator = value::text(requirement, "operator");
    if !FIELD_OPERATORS.contains(&operator) {
        errors.not_supported(&format!("{field}.operator"), operator, &FIELD_OPERATORS);
    } else if value::items(requirement, "values").len() != 1 {
        errors.required(
            &format!("{field}.values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        );
    }
    let key = value::text(requirement, "key");
    if key != NODE_NAME {
        errors.invalid(
            &format!("{field}.key"),
            key,
            "not a valid field selector key",
        );
    }
}

/// `topologySpreadConstraints`.
pub(super) fn topology_spread(spec: &Value, field: &str, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let constraints = value::items(spec, "topologySpreadConstraints")
        .iter()
        .enumerate();
    for (index, constraint) in constraints {
        let field = format!("{field}.topologySpreadConstraints[{index}]");
        let skew = value::int(constraint, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            errors.invalid(
                &format!("{field}.maxSkew"),
                skew,
                "must be greater than zero",
            );
        }
        let key = value::text(constraint, "topologyKey");
        if key.is_empty() {
            errors.required(&format!("{field}.topologyKey"), "can not be empty");
        } else {
            for message in validate_qualified_name(key) {
                errors.invalid(&format!("{field}.topologyKey"), key, &message);
            }
        }
        let action = value::text(constraint, "whenUnsatisfiable");
        if !UNSATISFIABLE.contains(&action) {
            errors.not_supported(
                &format!("{field}.whenUnsatisfiable"),
                action,
                &UNSATISFIABLE,
            );
        }
        let pair = (key, action);
        if seen.contains(&pair) {
            errors.duplicate(
                &format!("{field}.{{topologyKey, whenUnsatisfiable}}"),
                format!("{{{key}, {action}}}"),
            );
        }
        seen.push(pair);
    }
}
