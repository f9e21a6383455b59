// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a pod spec, worded as `ValidatePodSpec` of Kubernetes v1.37.

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec, Toleration};
use knarr_api::names::{validate_dns_label, validate_dns_subdomain, validate_qualified_name};

use super::containers::containers;
use super::ports::valid_ip;
use super::{scheduling, security, signals, volumes};
use crate::field::FieldErrors;
use crate::registry::meta;
use crate::registry::rules::{items, pairs, text};

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A pod template: labels, annotations and the spec.
pub(in crate::kinds) fn template(
    template: &PodTemplateSpec,
    field: &str,
    errors: &mut FieldErrors,
) {
    if let Some(metadata) = &template.metadata {
        let labels = pairs(&metadata.labels);
        meta::labels(labels, &format!("{field}.labels"), errors);
        let annotations = pairs(&metadata.annotations);
        meta::annotations(annotations, &format!("{field}.annotations"), errors);
    }
    let default = PodSpec::default();
    let pod = template.spec.as_ref().unwrap_or(&default);
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
pub(in crate::kinds) fn of_pod(pod: &PodSpec, field: &str, errors: &mut FieldErrors) {
    no_ephemeral_containers(pod, field, "cannot be set on create", errors);
    spec(pod, field, errors);
}

/// They come into a pod that runs, by a subresource.
fn no_ephemeral_containers(spec: &PodSpec, field: &str, why: &str, errors: &mut FieldErrors) {
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.forbidden(&format!("{field}.ephemeralContainers"), why);
    }
}

/// A pod spec.
fn spec(spec: &PodSpec, field: &str, errors: &mut FieldErrors) {
    let names = volumes::volumes(spec, &format!("{field}.volumes"), errors);
    if spec.containers.is_empty() {
        errors.required(&format!("{field}.containers"), "");
    }
    signals::operating_system(spec, field, errors);
    containers(spec, field, &names, errors);
    let policy = text(&spec.restart_policy);
    if policy.is_empty() {
        errors.required(&format!("{field}.restartPolicy"), "");
    } else if !RESTART_POLICIES.contains(&policy) {
        errors.not_supported(&format!("{field}.restartPolicy"), policy, &RESTART_POLICIES);
    }
    let dns = text(&spec.dns_policy);
    if !DNS_POLICIES.contains(&dns) {
        errors.not_supported(&format!("{field}.dnsPolicy"), dns, &DNS_POLICIES);
    }
    let servers = spec.dns_config.as_ref().map(|c| items(&c.nameservers));
    if dns == "None" && servers.unwrap_or_default().is_empty() {
        errors.required(
            &format!("{field}.dnsConfig.nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    let selector = pairs(&spec.node_selector);
    meta::labels(selector, &format!("{field}.nodeSelector"), errors);
    numbers(spec, field, errors);
    security::sysctls(spec, field, errors);
    names_in(spec, field, errors);
    scheduling::node_affinity(spec, field, errors);
    scheduling::topology_spread(spec, field, errors);
    for (index, toleration) in items(&spec.tolerations).iter().enumerate() {
        tolerate(toleration, &format!("{field}.tolerations[{index}]"), errors);
    }
}

fn numbers(spec: &PodSpec, field: &str, errors: &mut FieldErrors) {
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(
            &format!("{field}.activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    if let Some(seconds) = spec.termination_grace_period_seconds
        && seconds < 0
    {
        errors.invalid(
            &format!("{field}.terminationGracePeriodSeconds"),
            seconds,
            "must be greater than or equal to 0",
        );
    }
}

fn names_in(spec: &PodSpec, field: &str, errors: &mut FieldErrors) {
    for (name, text) in [
        ("serviceAccountName", text(&spec.service_account_name)),
        ("nodeName", text(&spec.node_name)),
        ("priorityClassName", text(&spec.priority_class_name)),
        ("runtimeClassName", text(&spec.runtime_class_name)),
    ] {
        if !text.is_empty() {
            for message in validate_dns_subdomain(text) {
                errors.invalid(&format!("{field}.{name}"), text, &message);
            }
        }
    }
    for (name, text) in [
        ("hostname", text(&spec.hostname)),
        ("subdomain", text(&spec.subdomain)),
    ] {
        if !text.is_empty() {
            for message in validate_dns_label(text) {
                errors.invalid(&format!("{field}.{name}"), text, &message);
            }
        }
    }
    for (index, secret) in items(&spec.image_pull_secrets).iter().enumerate() {
        if secret.name.is_empty() {
            errors.required(&format!("{field}.imagePullSecrets[{index}].name"), "");
        }
    }
    for (index, alias) in items(&spec.host_aliases).iter().enumerate() {
        let field = format!("{field}.hostAliases[{index}]");
        valid_ip(&alias.ip, &format!("{field}.ip"), errors);
        for (at, name) in items(&alias.hostnames).iter().enumerate() {
            for message in validate_dns_subdomain(name) {
                errors.invalid(&format!("{field}.hostnames[{at}]"), name.as_str(), &message);
            }
        }
    }
}

fn tolerate(toleration: &Toleration, field: &str, errors: &mut FieldErrors) {
    let key = text(&toleration.key);
    let operator = text(&toleration.operator);
    let set = text(&toleration.value);
    let effect = text(&toleration.effect);
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
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
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
