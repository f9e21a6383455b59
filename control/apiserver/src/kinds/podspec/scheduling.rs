// SPDX-License-Identifier: Apache-2.0
//! What is wrong with where a pod wants to run: node affinity and topology spread.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PodSpec};
use knarr_api::names::{validate_label_value, validate_qualified_name};

use crate::field::FieldErrors;
use crate::registry::rules::items;

const OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
const FIELD_OPERATORS: [&str; 2] = ["In", "NotIn"];
/// What Kubernetes says of another operator.
const OPERATOR: &str = "not a valid selector operator";
/// The one field of a node that can be selected by.
const NODE_NAME: &str = "metadata.name";
const UNSATISFIABLE: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];

/// `affinity.nodeAffinity`.
pub(super) fn node_affinity(spec: &PodSpec, field: &str, errors: &mut FieldErrors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let affinity = spec.affinity.as_ref();
    let Some(affinity) = affinity.and_then(|a| a.node_affinity.as_ref()) else {
        return;
    };
    let field = format!("{field}.affinity.nodeAffinity");
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        let field = format!("{field}.{REQUIRED}.nodeSelectorTerms");
        let terms = &required.node_selector_terms;
        if terms.is_empty() {
            errors.required(&field, "must have at least one node selector term");
        }
        for (index, one) in terms.iter().enumerate() {
            term(one, &format!("{field}[{index}]"), errors);
        }
    }
    let preferred = &affinity.preferred_during_scheduling_ignored_during_execution;
    for (index, preferred) in items(preferred).iter().enumerate() {
        let field = format!("{field}.{PREFERRED}[{index}]");
        if !(1..=100).contains(&preferred.weight) {
            errors.invalid(
                &format!("{field}.weight"),
                preferred.weight,
                "must be in the range 1-100",
            );
        }
        term(
            &preferred.preference,
            &format!("{field}.preference"),
            errors,
        );
    }
}

fn term(term: &NodeSelectorTerm, field: &str, errors: &mut FieldErrors) {
    for (index, requirement) in items(&term.match_expressions).iter().enumerate() {
        expression(
            requirement,
            &format!("{field}.matchExpressions[{index}]"),
            errors,
        );
    }
    for (index, requirement) in items(&term.match_fields).iter().enumerate() {
        node_field(
            requirement,
            &format!("{field}.matchFields[{index}]"),
            errors,
        );
    }
}

fn expression(requirement: &NodeSelectorRequirement, field: &str, errors: &mut FieldErrors) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
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
    let key = requirement.key.as_str();
    for message in validate_qualified_name(key) {
        errors.invalid(&format!("{field}.key"), key, &message);
    }
    for (index, set) in values.iter().enumerate() {
        for message in validate_label_value(set) {
            errors.invalid(&format!("{field}.values[{index}]"), set.as_str(), &message);
        }
    }
}

fn node_field(requirement: &NodeSelectorRequirement, field: &str, errors: &mut FieldErrors) {
    let operator = requirement.operator.as_str();
    if !FIELD_OPERATORS.contains(&operator) {
        errors.not_supported(&format!("{field}.operator"), operator, &FIELD_OPERATORS);
    } else if items(&requirement.values).len() != 1 {
        errors.required(
            &format!("{field}.values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        );
    }
    if requirement.key != NODE_NAME {
        errors.invalid(
            &format!("{field}.key"),
            requirement.key.as_str(),
            "not a valid field selector key",
        );
    }
}

/// `topologySpreadConstraints`.
pub(super) fn topology_spread(spec: &PodSpec, field: &str, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    let constraints = items(&spec.topology_spread_constraints).iter().enumerate();
    for (index, constraint) in constraints {
        let field = format!("{field}.topologySpreadConstraints[{index}]");
        if constraint.max_skew <= 0 {
            errors.invalid(
                &format!("{field}.maxSkew"),
                constraint.max_skew,
                "must be greater than zero",
            );
        }
        let key = constraint.topology_key.as_str();
        if key.is_empty() {
            errors.required(&format!("{field}.topologyKey"), "can not be empty");
        } else {
            for message in validate_qualified_name(key) {
                errors.invalid(&format!("{field}.topologyKey"), key, &message);
            }
        }
        let action = constraint.when_unsatisfiable.as_str();
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
