// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the containers of a pod spec.

use std::net::IpAddr;

use knarr_api::names::{validate_dns_label, validate_qualified_name};
use knarr_api::quantity::Quantity;
use serde_json::Value;

use super::{security, signals};
use crate::field::FieldErrors;
use crate::value;

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
/// The one action of a restart rule that is carried out.
const RESTART: &str = "Restart";
const CODE_OPERATORS: [&str; 2] = ["In", "NotIn"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const HTTP_SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
/// What Kubernetes says of a text that is no header's name.
const HTTP_HEADER_NAME: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];
/// Longest name of a port (RFC 6335).
const PORT_NAME_MAX: usize = 15;
/// What Kubernetes says of a text that is no quantity.
pub(super) const QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// All lists of containers; `volumes` are the names that mounts may refer to.
pub(super) fn containers(spec: &Value, field: &str, volumes: &[&str], errors: &mut FieldErrors) {
    let os = value::text(spec, "os.name");
    let mut names: Vec<&str> = Vec::new();
    for list in super::CONTAINER_LISTS {
        let mut port_names: Vec<&str> = Vec::new();
        for (index, container) in value::items(spec, list).iter().enumerate() {
            let field = format!("{field}.{list}[{index}]");
            let name = value::text(container, "name");
            if name.is_empty() {
                errors.required(&format!("{field}.name"), "");
            } else {
                for message in validate_dns_label(name) {
                    errors.invalid(&format!("{field}.name"), name, &message);
                }
                if names.contains(&name) {
                    errors.duplicate(&format!("{field}.name"), name);
                }
                names.push(name);
            }
            container_parts(container, &field, volumes, errors);
            signals::stop_signal(container, os, &field, errors);
            restart_rules(container, &field, errors);
            port_names.clear();
            ports(container, &field, &mut port_names, errors);
            if list == "initContainers" {
                init_only(container, &field, errors);
            }
        }
    }
}

/// `restartPolicyRules`: which exit codes start a container again (`validateContainerRestartPolicy`, Kubernetes v1.37).
fn restart_rules(container: &Value, field: &str, errors: &mut FieldErrors) {
    let rules = value::items(container, "restartPolicyRules");
    if !rules.is_empty() && value::text(container, "restartPolicy").is_empty() {
        errors.required(
            &format!("{field}.restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        );
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("{field}.restartPolicyRules[{index}]");
        // Kubernetes' `RestartAllContainers` is not carried out.
        let action = value::text(rule, "action");
        if action != RESTART {
            errors.not_supported(&format!("{field}.action"), action, &[RESTART]);
        }
        let Some(codes) = value::at(rule, "exitCodes") else {
            errors.required(&format!("{field}.exitCodes"), "must be specified");
            continue;
        };
        let operator = value::text(codes, "operator");
        if !CODE_OPERATORS.contains(&operator) {
            let field = format!("{field}.exitCodes.operator");
            errors.not_supported(&field, operator, &CODE_OPERATORS);
        }
    }
}

fn init_only(container: &Value, field: &str, errors: &mut FieldErrors) {
    if value::text(container, "restartPolicy") == "Always" {
        return;
    }
    for part in [
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ] {
        if value::at(container, part).is_some() {
            errors.forbidden(
                &format!("{field}.{part}"),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn container_parts(container: &Value, field: &str, volumes: &[&str], errors: &mut FieldErrors) {
    let image = value::text(container, "image");
    if image.is_empty() {
        errors.required(&format!("{field}.image"), "");
    } else if image.trim() != image {
        errors.invalid(
            &format!("{field}.image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    let pull = value::text(container, "imagePullPolicy");
    if !PULL_POLICIES.contains(&pull) {
        errors.not_supported(&format!("{field}.imagePullPolicy"), pull, &PULL_POLICIES);
    }
    let message = value::text(container, "terminationMessagePolicy");
    if !MESSAGE_POLICIES.contains(&message) {
        errors.not_supported(
            &format!("{field}.terminationMessagePolicy"),
            message,
            &MESSAGE_POLICIES,
        );
    }
    env(container, field, errors);
    mounts(container, field, volumes, errors);
    resources(container, &format!("{field}.resources"), errors);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = value::at(container, probe) {
            handler(found, &format!("{field}.{probe}"), errors);
            probe_numbers(found, probe, &format!("{field}.{probe}"), errors);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(found) = value::at(container, &format!("lifecycle.{hook}")) {
            handler(found, &format!("{field}.lifecycle.{hook}"), errors);
        }
    }
}

fn ports<'a>(
    container: &'a Value,
    field: &str,
    names: &mut Vec<&'a str>,
    errors: &mut FieldErrors,
) {
    for (index, port) in value::items(container, "ports").iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let name = value::text(port, "name");
        if !name.is_empty() {
            validate_port_name(name, &format!("{field}.name"), errors);
            if names.contains(&name) {
                errors.duplicate(&format!("{field}.name"), name);
            }
            names.push(name);
        }
        match value::int(port, "containerPort").unwrap_or(0) {
            0 => errors.required(&format!("{field}.containerPort"), ""),
            number => validate_port_number(number, &format!("{field}.containerPort"), errors),
        }
        if let Some(number) = value::int(port, "hostPort").filter(|n| *n != 0) {
            validate_port_number(number, &format!("{field}.hostPort"), errors);
        }
        let protocol = value::text(port, "protocol");
        if protocol.is_empty() {
            errors.required(&format!("{field}.protocol"), "");
        } else if !PROTOCOLS.contains(&protocol) {
            errors.not_supported(&format!("{field}.protocol"), protocol, &PROTOCOLS);
        }
    }
}

fn env(container: &Value, field: &str, errors: &mut FieldErrors) {
    for (index, env) in value::items(container, "env").iter().enumerate() {
        let field = format!("{field}.env[{index}]");
        let name = value::text(env, "name");
        if name.is_empty() {
            errors.required(&format!("{field}.name"), "");
        } else if !name.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
            errors.invalid(
                &format!("{field}.name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            );
        }
        let Some(from) = value::at(env, "valueFrom") else {
            continue;
        };
        let sources = from
            .as_object()
            .map_or(0, |m| m.values().filter(|v| !v.is_null()).count());
        match sources {
            0 => errors.invalid(
                &format!("{field}.valueFrom"),
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            1 if !value::text(env, "value").is_empty() => errors.invalid(
                &format!("{field}.valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ),
            1 => {}
            _ => errors.invalid(
                &format!("{field}.valueFrom"),
                "",
                "may not have more than one field specified at a time",
            ),
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            if let Some(reference) = value::at(from, source) {
                let field = format!("{field}.valueFrom.{source}");
                if value::text(reference, "name").is_empty() {
                    errors.required(&format!("{field}.name"), "");
                }
                if value::text(reference, "key").is_empty() {
                    errors.required(&format!("{field}.key"), "");
                }
            }
        }
        if let Some(reference) = value::at(from, "fieldRef")
            && value::text(reference, "fieldPath").is_empty()
        {
            errors.required(&format!("{field}.valueFrom.fieldRef.fieldPath"), "");
        }
    }
}

fn mounts(container: &Value, field: &str, volumes: &[&str], errors: &mut FieldErrors) {
    let mut paths: Vec<&str> = Vec::new();
    for (index, mount) in value::items(container, "volumeMounts").iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let name = value::text(mount, "name");
        if name.is_empty() {
            errors.required(&format!("{field}.name"), "");
        } else if !volumes.contains(&name) {
            errors.not_found(&format!("{field}.name"), name);
        }
        let path = value::text(mount, "mountPath");
        if path.is_empty() {
            errors.required(&format!("{field}.mountPath"), "");
        } else if paths.contains(&path) {
            errors.invalid(&format!("{field}.mountPath"), path, "must be unique");
        }
        paths.push(path);
        let sub = value::text(mount, "subPath");
        if sub.starts_with('/') {
            errors.invalid(&format!("{field}.subPath"), sub, "must be a relative path");
        }
        if sub.split('/').any(|part| part == "..") {
            errors.invalid(&format!("{field}.subPath"), sub, "must not contain '..'");
        }
        security::propagation(container, mount, &field, errors);
    }
}

fn resources(container: &Value, field: &str, errors: &mut FieldErrors) {
    let parse = |part: &str, errors: &mut FieldErrors| -> Vec<(String, Quantity)> {
        let mut all = Vec::new();
        for (name, quantity) in value::members(container, &format!("resources.{part}")) {
            let field = format!("{field}.{part}[{name}]");
            for message in validate_qualified_name(name) {
                errors.invalid(&field, name.as_str(), &message);
            }
            if !name.contains('/') && !standard_resource(name) {
                errors.invalid(
                    &field,
                    name.as_str(),
                    "must be a standard resource type or fully qualified",
                );
                errors.invalid(
                    &field,
                    name.as_str(),
                    "must be a standard resource for containers",
                );
            }
            let text = quantity.as_str().unwrap_or_default();
            match text.parse::<Quantity>() {
                Err(_) => errors.invalid(&field, quantity.clone(), QUANTITY),
                Ok(parsed) if parsed.is_negative() => {
                    errors.invalid(&field, text, "must be greater than or equal to 0");
                }
                Ok(parsed) => all.push((name.clone(), parsed)),
            }
        }
        all
    };
    let limits = parse("limits", errors);
    let requests = parse("requests", errors);
    for (name, request) in &requests {
        let Some((_, limit)) = limits.iter().find(|(n, _)| n == name) else {
            continue;
        };
        if request > limit {
            errors.invalid(
                &format!("{field}.requests"),
                request.to_string(),
                &format!("must be less than or equal to {name} limit of {limit}"),
            );
        }
    }
}

fn standard_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

fn handler(handler: &Value, field: &str, errors: &mut FieldErrors) {
    let mut count = 0;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(found) = value::at(handler, kind) else {
            continue;
        };
        count += 1;
        if count > 1 {
            errors.forbidden(
                &format!("{field}.{kind}"),
                "may not specify more than 1 handler type",
            );
            continue;
        }
        if kind == "httpGet" {
            http_get(found, &format!("{field}.httpGet"), errors);
        }
        let port = format!("{field}.{kind}.port");
        match (kind, value::at(found, "port")) {
            ("exec", _) => {
                if value::items(found, "command").is_empty() {
                    errors.required(&format!("{field}.exec.command"), "");
                }
            }
            ("sleep", _) => {}
            (_, Some(Value::String(name))) => validate_port_name(name, &port, errors),
            (_, number) => {
                validate_port_number(number.and_then(Value::as_i64).unwrap_or(0), &port, errors);
            }
        }
    }
    if count == 0 {
        errors.required(field, "must specify a handler type");
    }
}

/// What upstream's `validateHTTPGetAction` looks at beside the port.
fn http_get(get: &Value, field: &str, errors: &mut FieldErrors) {
    let scheme = value::text(get, "scheme");
    if !HTTP_SCHEMES.contains(&scheme) {
        errors.not_supported(&format!("{field}.scheme"), scheme, &HTTP_SCHEMES);
    }
    for header in value::items(get, "httpHeaders") {
        let name = value::text(header, "name");
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(is_of_name) {
            errors.invalid(&format!("{field}.httpHeaders"), name, HTTP_HEADER_NAME);
        }
    }
}

fn probe_numbers(probe: &Value, kind: &str, field: &str, errors: &mut FieldErrors) {
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        if let Some(number) = value::int(probe, name)
            && number < 0
        {
            errors.invalid(
                &format!("{field}.{name}"),
                number,
                "must be greater than or equal to 0",
            );
        }
    }
    if kind != "readinessProbe"
        && let Some(number) = value::int(probe, "successThreshold")
        && number != 1
    {
        errors.invalid(&format!("{field}.successThreshold"), number, "must be 1");
    }
}

/// A port's number.
pub(in crate::kinds) fn validate_port_number(number: i64, field: &str, errors: &mut FieldErrors) {
    if !(1..=65535).contains(&number) {
        errors.invalid(field, number, "must be between 1 and 65535, inclusive");
    }
}

/// A port's name: an IANA service name.
pub(in crate::kinds) fn validate_port_name(name: &str, field: &str, errors: &mut FieldErrors) {
    if name.len() > PORT_NAME_MAX {
        errors.invalid(
            field,
            name,
            &format!("must be no more than {PORT_NAME_MAX} characters"),
        );
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        errors.invalid(
            field,
            name,
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        );
    }
    if !name.chars().any(|c| c.is_ascii_lowercase()) {
        errors.invalid(field, name, "must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        errors.invalid(field, name, "must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.invalid(field, name, "must not begin or end with a hyphen");
    }
}

/// An address.
pub(super) fn valid_ip(text: &str, field: &str, errors: &mut FieldErrors) {
    if text.parse::<IpAddr>().is_err() {
        errors.invalid(
            field,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
}
