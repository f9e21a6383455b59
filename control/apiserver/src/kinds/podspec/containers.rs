// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the containers of a pod spec.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, EphemeralContainer, PodSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use knarr_api::names::{validate_dns_label, validate_qualified_name};
use knarr_api::quantity::Quantity;

use super::ports::{validate_port_name, validate_port_number};
use super::{probes, security, signals};
use crate::field::FieldErrors;
use crate::registry::rules::{items, text};

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
/// The one action of a restart rule that is carried out.
const RESTART: &str = "Restart";
const CODE_OPERATORS: [&str; 2] = ["In", "NotIn"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const MESSAGE_POLICIES: [&str; 2] = ["File", "FallbackToLogsOnError"];
/// Which list of a pod spec a container stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Init,
    Main,
    Ephemeral,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            Self::Init => "initContainers",
            Self::Main => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
}

/// All lists of containers; `volumes` are the names that mounts may refer to.
pub(super) fn containers(spec: &PodSpec, field: &str, volumes: &[&str], errors: &mut FieldErrors) {
    let os = spec.os.as_ref().map_or("", |os| &os.name);
    let ephemeral: Vec<Container> = items(&spec.ephemeral_containers)
        .iter()
        .map(as_container)
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for (list, containers) in [
        (List::Init, items(&spec.init_containers)),
        (List::Main, spec.containers.as_slice()),
        (List::Ephemeral, ephemeral.as_slice()),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let field = format!("{field}.{}[{index}]", list.name());
            let name = container.name.as_str();
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
            ports(container, &field, errors);
            if list == List::Init {
                init_only(container, &field, errors);
            }
        }
    }
}

/// An ephemeral container has the fields of any other, and one more.
fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = ephemeral.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// `restartPolicyRules`: which exit codes start a container again (`validateContainerRestartPolicy`, Kubernetes v1.37).
fn restart_rules(container: &Container, field: &str, errors: &mut FieldErrors) {
    let rules = items(&container.restart_policy_rules);
    if !rules.is_empty() && text(&container.restart_policy).is_empty() {
        errors.required(
            &format!("{field}.restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        );
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("{field}.restartPolicyRules[{index}]");
        // Kubernetes' `RestartAllContainers` is not carried out.
        let action = rule.action.as_str();
        if action != RESTART {
            errors.not_supported(&format!("{field}.action"), action, &[RESTART]);
        }
        let Some(codes) = &rule.exit_codes else {
            errors.required(&format!("{field}.exitCodes"), "must be specified");
            continue;
        };
        let operator = codes.operator.as_str();
        if !CODE_OPERATORS.contains(&operator) {
            let field = format!("{field}.exitCodes.operator");
            errors.not_supported(&field, operator, &CODE_OPERATORS);
        }
    }
}

fn init_only(container: &Container, field: &str, errors: &mut FieldErrors) {
    if text(&container.restart_policy) == "Always" {
        return;
    }
    for (part, is_set) in [
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if is_set {
            errors.forbidden(
                &format!("{field}.{part}"),
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn container_parts(container: &Container, field: &str, volumes: &[&str], errors: &mut FieldErrors) {
    let image = text(&container.image);
    if image.is_empty() {
        errors.required(&format!("{field}.image"), "");
    } else if image.trim() != image {
        errors.invalid(
            &format!("{field}.image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    let pull = text(&container.image_pull_policy);
    if !PULL_POLICIES.contains(&pull) {
        errors.not_supported(&format!("{field}.imagePullPolicy"), pull, &PULL_POLICIES);
    }
    let message = text(&container.termination_message_policy);
    if !MESSAGE_POLICIES.contains(&message) {
        errors.not_supported(
            &format!("{field}.terminationMessagePolicy"),
            message,
            &MESSAGE_POLICIES,
        );
    }
    for (index, env) in items(&container.env).iter().enumerate() {
        variable(env, &format!("{field}.env[{index}]"), errors);
    }
    mounts(container, field, volumes, errors);
    if let Some(wanted) = &container.resources {
        resources(wanted, &format!("{field}.resources"), errors);
    }
    probes::of_container(container, field, errors);
}

fn ports(container: &Container, field: &str, errors: &mut FieldErrors) {
    let mut names: Vec<&str> = Vec::new();
    for (index, port) in items(&container.ports).iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let name = text(&port.name);
        if !name.is_empty() {
            validate_port_name(name, &format!("{field}.name"), errors);
            if names.contains(&name) {
                errors.duplicate(&format!("{field}.name"), name);
            }
            names.push(name);
        }
        match port.container_port {
            0 => errors.required(&format!("{field}.containerPort"), ""),
            number => validate_port_number(number, &format!("{field}.containerPort"), errors),
        }
        if let Some(number) = port.host_port.filter(|n| *n != 0) {
            validate_port_number(number, &format!("{field}.hostPort"), errors);
        }
        let protocol = text(&port.protocol);
        if protocol.is_empty() {
            errors.required(&format!("{field}.protocol"), "");
        } else if !PROTOCOLS.contains(&protocol) {
            errors.not_supported(&format!("{field}.protocol"), protocol, &PROTOCOLS);
        }
    }
}

fn variable(env: &EnvVar, field: &str, errors: &mut FieldErrors) {
    let name = env.name.as_str();
    if name.is_empty() {
        errors.required(&format!("{field}.name"), "");
    } else if !name.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        errors.invalid(
            &format!("{field}.name"),
            name,
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
        );
    }
    let Some(from) = &env.value_from else {
        return;
    };
    let field = format!("{field}.valueFrom");
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = from;
    let sources = [
        config_map_key_ref.is_some(),
        field_ref.is_some(),
        file_key_ref.is_some(),
        resource_field_ref.is_some(),
        secret_key_ref.is_some(),
    ];
    match sources.into_iter().filter(|is_set| *is_set).count() {
        0 => errors.invalid(
            &field,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        1 if !text(&env.value).is_empty() => errors.invalid(
            &field,
            "",
            "may not be specified when `value` is not empty",
        ),
        1 => {}
        _ => errors.invalid(
            &field,
            "",
            "may not have more than one field specified at a time",
        ),
    }
    let map = config_map_key_ref.as_ref().map(|r| (&r.name, &r.key));
    let secret = secret_key_ref.as_ref().map(|r| (&r.name, &r.key));
    for (source, reference) in [("configMapKeyRef", map), ("secretKeyRef", secret)] {
        if let Some((name, key)) = reference {
            if name.is_empty() {
                errors.required(&format!("{field}.{source}.name"), "");
            }
            if key.is_empty() {
                errors.required(&format!("{field}.{source}.key"), "");
            }
        }
    }
    if let Some(reference) = field_ref
        && reference.field_path.is_empty()
    {
        errors.required(&format!("{field}.fieldRef.fieldPath"), "");
    }
}

fn mounts(container: &Container, field: &str, volumes: &[&str], errors: &mut FieldErrors) {
    let mut paths: Vec<&str> = Vec::new();
    for (index, mount) in items(&container.volume_mounts).iter().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let name = mount.name.as_str();
        if name.is_empty() {
            errors.required(&format!("{field}.name"), "");
        } else if !volumes.contains(&name) {
            errors.not_found(&format!("{field}.name"), name);
        }
        let path = mount.mount_path.as_str();
        if path.is_empty() {
            errors.required(&format!("{field}.mountPath"), "");
        } else if paths.contains(&path) {
            errors.invalid(&format!("{field}.mountPath"), path, "must be unique");
        }
        paths.push(path);
        let sub = text(&mount.sub_path);
        if sub.starts_with('/') {
            errors.invalid(&format!("{field}.subPath"), sub, "must be a relative path");
        }
        if sub.split('/').any(|part| part == "..") {
            errors.invalid(&format!("{field}.subPath"), sub, "must not contain '..'");
        }
        security::propagation(container, mount, &field, errors);
    }
}

fn resources(wanted: &ResourceRequirements, field: &str, errors: &mut FieldErrors) {
    let limits = quantities(&wanted.limits, &format!("{field}.limits"), errors);
    let requests = quantities(&wanted.requests, &format!("{field}.requests"), errors);
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

/// Checks a map of quantities and returns those that can be read.
fn quantities<'a>(
    map: &'a Option<BTreeMap<String, Text>>,
    field: &str,
    errors: &mut FieldErrors,
) -> Vec<(&'a str, Quantity)> {
    let mut all = Vec::new();
    for (name, Text(quantity)) in map.iter().flatten() {
        let (name, quantity) = (name.as_str(), quantity.as_str());
        let field = format!("{field}[{name}]");
        for message in validate_qualified_name(name) {
            errors.invalid(&field, name, &message);
        }
        if !name.contains('/') && !standard_resource(name) {
            errors.invalid(
                &field,
                name,
                "must be a standard resource type or fully qualified",
            );
            errors.invalid(&field, name, "must be a standard resource for containers");
        }
        match quantity.parse::<Quantity>() {
            Err(error) => errors.invalid(&field, quantity, &error.to_string()),
            Ok(parsed) if parsed.is_negative() => {
                errors.invalid(&field, quantity, "must be greater than or equal to 0");
            }
            Ok(parsed) => all.push((name, parsed)),
        }
    }
    all
}

fn standard_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}
