// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a pod spec, worded as `ValidatePodSpec` of Kubernetes v1.37.

use knarr_api::names::{validate_dns_label, validate_dns_subdomain, validate_qualified_name};
use serde_json::Value;

use super::containers::{self, containers};
use super::{scheduling, security, signals, volumes};
use crate::field::FieldErrors;
use crate::registry::meta;
use crate::value;

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A pod template: labels, annotations and the spec.
pub(in crate::kinds) fn template(template: &Value, field: &str, errors: &mut FieldErrors) {
    meta::labels(
        value::at(template, "metadata.labels"),
        &format!("{field}.labels"),
        errors,
    );
    meta::annotations(
        value::at(template, "metadata.annotations"),
        &format!("{field}.annotations"),
        errors,
    );
    let empty = Value::Null;
    let pod = value::at(template, "spec").unwrap_or(&empty);
    let field = format!("{field}.spec");
    no_ephemeral_containers(
        pod,
        &field,
        "ephemeral containers not allowed in pod template",
        errors,
    );
    spec(pod, &field, errors);
}

/// The spec of a pod that is created.
pub(in crate::kinds) fn of_pod(pod: &Value, field: &str, errors: &mut FieldErrors) {
    no_ephemeral_containers(pod, field, "cannot be set on create", errors);
    spec(pod, field, errors);
}

/// They come into a pod that runs, by a subresource.
fn no_ephemeral_containers(spec: &Value, field: &str, why: &str, errors: &mut FieldErrors) {
    if !value::items(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(&format!("{field}.ephemeralContainers"), why);
    }
}

/// A pod spec.
pub(super) fn spec(spec: &Value, field: &str, errors: &mut FieldErrors) {
    let names = volumes::volumes(spec, &format!("{field}.volumes"), errors);
    if value::items(spec, "containers").is_empty() {
        errors.required(&format!("{field}.containers"), "");
    }
    signals::operating_system(spec, field, errors);
    containers(spec, field, &names, errors);
    let policy = value::text(spec, "restartPolicy");
    if policy.is_empty() {
        errors.required(&format!("{field}.restartPolicy"), "");
    } else if !RESTART_POLICIES.contains(&policy) {
        errors.not_supported(&format!("{field}.restartPolicy"), policy, &RESTART_POLICIES);
    }
    let dns = value::text(spec, "dnsPolicy");
    if !DNS_POLICIES.contains(&dns) {
        errors.not_supported(&format!("{field}.dnsPolicy"), dns, &DNS_POLICIES);
    }
    if dns == "None" && value::items(spec, "dnsConfig.nameservers").is_empty() {
        errors.required(
            &format!("{field}.dnsConfig.nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    meta::labels(
        value::at(spec, "nodeSelector"),
        &format!("{field}.nodeSelector"),
        errors,
    );
    numbers(spec, field, errors);
    security::sysctls(spec, field, errors);
    names_in(spec, field, errors);
    scheduling::node_affinity(spec, field, errors);
    scheduling::topology_spread(spec, field, errors);
    for (index, toleration) in value::items(spec, "tolerations").iter().enumerate() {
        tolerate(toleration, &format!("{field}.tolerations[{index}]"), errors);
    }
}

fn numbers(spec: &Value, field: &str, errors: &mut FieldErrors) {
    if let Some(seconds) = value::int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(
            &format!("{field}.activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    if let Some(seconds) = value::int(spec, "terminationGracePeriodSeconds")
        && seconds < 0
    {
        errors.invalid(
            &format!("{field}.terminationGracePeriodSeconds"),
            seconds,
            "must be greater than or equal to 0",
        );
    }
}

fn names_in(spec: &Value, field: &str, errors: &mut FieldErrors) {
    let subdomain = |name: &str, errors: &mut FieldErrors| {
        let text = value::text(spec, name);
        if !text.is_empty() {
            for message in validate_dns_subdomain(text) {
                errors.invalid(&format!("{field}.{name}"), text, &message);
            }
        }
    };
    subdomain("serviceAccountName", errors);
    subdomain("nodeName", errors);
    subdomain("priorityClassName", errors);
    subdomain("runtimeClassName", errors);
    for name in ["hostname", "subdomain"] {
        let text = value::text(spec, name);
        if !text.is_empty() {
            for message in validate_dns_label(text) {
                errors.invalid(&format!("{field}.{name}"), text, &message);
            }
        }
    }
    for (index, secret) in value::items(spec, "imagePullSecrets").iter().enumerate() {
        if value::text(secret, "name").is_empty() {
            errors.required(&format!("{field}.imagePullSecrets[{index}].name"), "");
        }
    }
    for (index, alias) in value::items(spec, "hostAliases").iter().enumerate() {
        containers::valid_ip(
            value::text(alias, "ip"),
            &format!("{field}.hostAliases[{index}].ip"),
            errors,
        );
        for (at, name) in value::items(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            for message in validate_dns_subdomain(name) {
                errors.invalid(
                    &format!("{field}.hostAliases[{index}].hostnames[{at}]"),
                    name,
                    &message,
                );
            }
        }
    }
}

fn tolerate(toleration: &Value, field: &str, errors: &mut FieldErrors) {
    let key = value::text(toleration, "key");
    let operator = value::text(toleration, "operator");
    let set = value::text(toleration, "value");
    let effect = value::text(toleration, "effect");
    if !key.is_empty() {
        for message in validate_qualified_name(key) {
            errors.invalid(&format!("{field}.key"), key, &message);
        }
    } else if operator != "Exists" {
        errors.invalid(
            &format!("{field}.operator"),
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if value::at(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
        errors.invalid(
            &format!("{field}.effect"),
            effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
    match operator {
        "" | "Equal" => {
            for message in knarr_api::names::validate_label_value(set) {
                errors.invalid(&format!("{field}.operator"), set, &message);
            }
        }
        "Exists" => {
            if !set.is_empty() {
                errors.invalid(
                    &format!("{field}.operator"),
                    set,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
        }
        // `Gt` and `Lt` stand behind a feature gate (TaintTolerationComparisonOperators) and are not carried out.
        other => errors.not_supported(&format!("{field}.operator"), other, &["Equal", "Exists"]),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.not_supported(&format!("{field}.effect"), effect, &EFFECTS);
    }
}
