// SPDX-License-Identifier: Apache-2.0
//! The pod spec, wherever it stands: in a Pod or in the template of a workload.
//!
//! Defaults of `pkg/apis/core/v1/defaults.go`; validation is in `podspec/validation.rs`.

use serde_json::{Value, json};

use crate::registry::meta;
use crate::value;

mod advice;
mod containers;
mod ports;
mod probes;
mod scheduling;
mod security;
mod signals;
mod validation;
mod volumes;
mod warnings;

pub(super) use advice::advice;
pub(super) use ports::{validate_port_name, validate_port_number};
pub(super) use validation::{of_pod as validate, template as validate_template};
pub(super) use warnings::warnings;

/// The lists of containers in a pod spec.
pub(super) const CONTAINER_LISTS: [&str; 3] =
    ["initContainers", "containers", "ephemeralContainers"];
/// Grace of a pod whose spec names none, in seconds.
const GRACE_S: i64 = 30;
/// Mode of files in volumes made from objects: 0644.
const FILE_MODE: i64 = 0o644;

/// What Kubernetes warns of in a workload with `spec.template`; of a changed one only where its spec changed.
pub(super) fn template_advice(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| value::same(new, old, "spec")) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if old.is_none() {
        found.extend(meta::hostname_advice(new, "Pod names and hostnames"));
    }
    if let Some(template) = value::at(new, "spec.template") {
        found.extend(advice(template, "spec.template."));
    }
    found
}

/// Fills a pod spec with what depends on more than one field. The schema's own defaults are in already.
pub(super) fn default(spec: &mut Value) {
    value::default_text(spec, "dnsPolicy", "ClusterFirst");
    value::default_text(spec, "restartPolicy", "Always");
    value::default_text(spec, "schedulerName", "default-scheduler");
    value::default(spec, "securityContext", json!({}));
    value::default(spec, "terminationGracePeriodSeconds", GRACE_S);
    let host_network = value::is_true(spec, "hostNetwork");
    for list in CONTAINER_LISTS {
        for container in value::items_mut(spec, list) {
            default_container(container);
            for port in value::items_mut(container, "ports") {
                if host_network && value::int(port, "hostPort").unwrap_or(0) == 0 {
                    value::copy(port, &port.clone(), "hostPort");
                    let number = value::int(port, "containerPort").unwrap_or(0);
                    value::set(port, "hostPort", number);
                }
            }
        }
    }
    for volume in value::items_mut(spec, "volumes") {
        default_volume(volume);
    }
    // The deprecated name of the same field.
    let account = value::text(spec, "serviceAccountName").to_owned();
    let old_name = value::text(spec, "serviceAccount").to_owned();
    if account.is_empty() && !old_name.is_empty() {
        value::set(spec, "serviceAccountName", old_name);
    } else if !account.is_empty() {
        value::set(spec, "serviceAccount", account);
    }
}

fn default_container(container: &mut Value) {
    if value::text(container, "imagePullPolicy").is_empty() {
        let policy = if is_latest(value::text(container, "image")) {
            "Always"
        } else {
            "IfNotPresent"
        };
        value::set(container, "imagePullPolicy", policy);
    }
    value::default_text(container, "terminationMessagePath", "/dev/termination-log");
    value::default_text(container, "terminationMessagePolicy", "File");
    value::default(container, "resources", json!({}));
    for part in ["resources.limits", "resources.requests"] {
        if let Some(quantities) = value::at_mut(container, part) {
            canonical_quantities(quantities);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = value::at_mut(container, probe) {
            for (name, default) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                // Go cannot tell 0 from absent.
                if value::int(probe, name).unwrap_or(0) == 0 {
                    value::set(probe, name, default);
                }
            }
            default_handler(probe);
        }
    }
    for hook in ["lifecycle.postStart", "lifecycle.preStop"] {
        if let Some(hook) = value::at_mut(container, hook) {
            default_handler(hook);
        }
    }
    for env in value::items_mut(container, "env") {
        if let Some(field) = value::at_mut(env, "valueFrom.fieldRef") {
            value::default_text(field, "apiVersion", "v1");
        }
    }
}

fn default_handler(handler: &mut Value) {
    if let Some(get) = value::at_mut(handler, "httpGet") {
        value::default_text(get, "path", "/");
        value::default_text(get, "scheme", "HTTP");
    }
}

/// A reference without tag and digest, or with the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

fn default_volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|members| members.iter().any(|(k, v)| k != "name" && !v.is_null()));
    if !has_source {
        value::set(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = value::at_mut(volume, source) {
            value::default(source, "defaultMode", FILE_MODE);
        }
    }
    let fields = |items: &mut Value| {
        for item in items.as_array_mut().into_iter().flatten() {
            if let Some(field) = value::at_mut(item, "fieldRef") {
                value::default_text(field, "apiVersion", "v1");
            }
        }
    };
    if let Some(items) = value::at_mut(volume, "downwardAPI.items") {
        fields(items);
    }
    for source in value::items_mut(volume, "projected.sources") {
        if let Some(token) = value::at_mut(source, "serviceAccountToken") {
            value::default(token, "expirationSeconds", 3600);
        }
        if let Some(items) = value::at_mut(source, "downwardAPI.items") {
            fields(items);
        }
    }
    if let Some(host) = value::at_mut(volume, "hostPath") {
        value::default(host, "type", "");
    }
    if let Some(limit) = value::at_mut(volume, "emptyDir.sizeLimit") {
        canonical_quantity(limit);
    }
}

/// Writes every quantity of a map as Kubernetes stores it: `1000m` is `1`.
pub(super) fn canonical_quantities(map: &mut Value) {
    for (_, quantity) in map.as_object_mut().into_iter().flatten() {
        canonical_quantity(quantity);
    }
}

fn canonical_quantity(quantity: &mut Value) {
    let text = match quantity {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    // What does not parse stays as it is for validation to refuse.
    if let Ok(parsed) = text.parse::<knarr_api::quantity::Quantity>() {
        *quantity = parsed.to_string().into();
    }
}

/// Requests that only a Pod's own defaulting makes of limits, not a template's.
pub(super) fn default_requests(spec: &mut Value) {
    for list in ["initContainers", "containers"] {
        for container in value::items_mut(spec, list) {
            let limits: Vec<(String, Value)> = value::members(container, "resources.limits")
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            if limits.is_empty() {
                continue;
            }
            let mut requests = value::at(container, "resources.requests")
                .cloned()
                .unwrap_or(json!({}));
            for (name, limit) in limits {
                if requests.get(&name).is_none() {
                    requests[name.as_str()] = limit;
                }
            }
            value::set(container, "resources.requests", requests);
        }
    }
}

#[cfg(test)]
mod tests;
