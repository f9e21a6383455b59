// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a Service, worded as `ValidateService` of Kubernetes v1.37.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_api::names::{validate_dns_label, validate_dns_subdomain};
use serde_json::{Value, json};

use crate::field::FieldErrors;
use crate::kinds::podspec::{validate_port_name, validate_port_number};
use crate::registry::rules::{items, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const HEALTH_PORT: &str = "spec.healthCheckNodePort";
/// Longest affinity: a day.
const AFFINITY_S_MAX: i32 = 86_400;

/// As `NeedsHealthCheck` of Kubernetes v1.37.
fn needs_health_port(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

pub(super) fn service(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let kind = text(&spec.type_);
    let ip = text(&spec.cluster_ip);
    let ports = items(&spec.ports);
    if ports.is_empty() && ip != "None" && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    if !TYPES.contains(&kind) {
        errors.not_supported("spec.type", kind, &TYPES);
    }
    if kind == "LoadBalancer" && ip == "None" {
        errors.invalid(
            "spec.clusterIPs[0]",
            ip,
            "may not be set to 'None' for LoadBalancer services",
        );
    }
    if kind == "NodePort" && ip == "None" {
        errors.invalid(
            "spec.clusterIPs[0]",
            ip,
            "may not be set to 'None' for NodePort services",
        );
    }
    if kind == "ExternalName" {
        external_name(spec, errors);
    }
    for index in 0..ports.len() {
        service_port(ports, index, errors);
    }
    affinity(spec, errors);
    cluster_ips(spec, errors);
    policies(spec, errors);
    for (index, address) in items(&spec.external_ips).iter().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        crate::kinds::endpoints::validate_ip(address, &field, errors);
    }
}

fn affinity(spec: &ServiceSpec, errors: &mut FieldErrors) {
    const FIELD: &str = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let affinity = text(&spec.session_affinity);
    if !matches!(affinity, "ClientIP" | "None") {
        errors.not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    if affinity != "ClientIP" {
        return;
    }
    let config = spec.session_affinity_config.as_ref();
    let client = config.and_then(|c| c.client_ip.as_ref());
    let seconds = client.and_then(|c| c.timeout_seconds).unwrap_or(0);
    if !(1..=AFFINITY_S_MAX).contains(&seconds) {
        errors.invalid(
            FIELD,
            seconds,
            &format!("must be greater than 0 and less than {AFFINITY_S_MAX}"),
        );
    }
}

fn external_name(spec: &ServiceSpec, errors: &mut FieldErrors) {
    if !items(&spec.cluster_ips).is_empty() {
        errors.forbidden(
            "spec.clusterIPs",
            "may not be set when `type` is 'ExternalName'",
        );
    }
    let name = text(&spec.external_name);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required("spec.externalName", "");
    } else {
        for message in validate_dns_subdomain(name) {
            errors.invalid("spec.externalName", name, &message);
        }
    }
}

fn service_port(ports: &[ServicePort], index: usize, errors: &mut FieldErrors) {
    let (port, before) = (&ports[index], &ports[..index]);
    let field = format!("spec.ports[{index}]");
    let name = text(&port.name);
    if name.is_empty() {
        if ports.len() > 1 {
            errors.required(&format!("{field}.name"), "");
        }
    } else {
        for message in validate_dns_label(name) {
            errors.invalid(&format!("{field}.name"), name, &message);
        }
        if before.iter().any(|p| text(&p.name) == name) {
            errors.duplicate(&format!("{field}.name"), name);
        }
    }
    let number = port.port;
    validate_port_number(number, &format!("{field}.port"), errors);
    let protocol = text(&port.protocol);
    if !PROTOCOLS.contains(&protocol) {
        errors.not_supported(&format!("{field}.protocol"), protocol, &PROTOCOLS);
    }
    match &port.target_port {
        Some(IntOrString::String(name)) => {
            validate_port_name(name, &format!("{field}.targetPort"), errors);
        }
        Some(IntOrString::Int(target)) => {
            validate_port_number(*target, &format!("{field}.targetPort"), errors);
        }
        None => {}
    }
    let same = |other: &&ServicePort| text(&other.protocol) == protocol;
    if before.iter().filter(same).any(|p| p.port == number) {
        errors.duplicate(&field, json!({"protocol": protocol, "port": number}));
    }
    if let Some(node) = port.node_port.filter(|n| *n != 0) {
        if before
            .iter()
            .filter(same)
            .any(|p| p.node_port == Some(node))
        {
            errors.duplicate(&format!("{field}.nodePort"), node);
        }
        validate_port_number(node, &format!("{field}.nodePort"), errors);
    }
}

fn cluster_ips(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let ips = items(&spec.cluster_ips);
    if text(&spec.type_) == "ExternalName" {
        return;
    }
    for (index, text) in ips.iter().enumerate() {
        let field = format!("spec.clusterIPs[{index}]");
        let text = text.as_str();
        if text == "None" {
            if index > 0 || ips.len() > 1 {
                errors.invalid(&field, text, "'None' must be the first and only value");
            }
            continue;
        }
        match text.parse::<IpAddr>() {
            Err(_) => errors.invalid(
                &field,
                text,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            Ok(IpAddr::V6(_)) => {
                errors.invalid(&field, text, "IPv6 is not configured on this cluster")
            }
            Ok(IpAddr::V4(_)) if index > 0 => errors.invalid(
                "spec.clusterIPs",
                json!(ips),
                "may only hold one value on a cluster that is not dual-stack",
            ),
            Ok(IpAddr::V4(_)) => {}
        }
    }
    let first = ips.first().map_or("", String::as_str);
    if first != text(&spec.cluster_ip) {
        errors.invalid(
            "spec.clusterIPs",
            json!(ips),
            "first value must match `clusterIP`",
        );
    }
    families(spec, errors);
}

fn families(spec: &ServiceSpec, errors: &mut FieldErrors) {
    let policy = text(&spec.ip_family_policy);
    match policy {
        "SingleStack" | "PreferDualStack" => {}
        "RequireDualStack" => errors.invalid(
            "spec.ipFamilyPolicy",
            policy,
            "this cluster is not configured for dual-stack services",
        ),
        other => errors.not_supported(
            "spec.ipFamilyPolicy",
            other,
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
    }
    for (index, family) in items(&spec.ip_families).iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        match family.as_str() {
            "IPv4" => {}
            "IPv6" => errors.invalid(&field, "IPv6", "not configured on this cluster"),
            other => errors.not_supported(&field, other, &["IPv4", "IPv6"]),
        }
    }
}

fn policies(spec: &ServiceSpec, errors: &mut FieldErrors) {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    let kind = text(&spec.type_);
    let external = text(&spec.external_traffic_policy);
    let exposed =
        matches!(kind, "NodePort" | "LoadBalancer") || !items(&spec.external_ips).is_empty();
    if !external.is_empty() {
        if !exposed {
            errors.invalid(
                "spec.externalTrafficPolicy",
                external,
                "may only be set for externally-accessible services",
            );
        } else if !POLICIES.contains(&external) {
            errors.not_supported("spec.externalTrafficPolicy", external, &POLICIES);
        }
    }
    let health = spec.health_check_node_port.unwrap_or(0);
    if health != 0 && !needs_health_port(spec) {
        errors.invalid(
            HEALTH_PORT,
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    } else if health != 0 {
        // One that is missing is given out after this.
        validate_port_number(health, HEALTH_PORT, errors);
    }
    let internal = text(&spec.internal_traffic_policy);
    if !internal.is_empty() && !POLICIES.contains(&internal) {
        errors.not_supported("spec.internalTrafficPolicy", internal, &POLICIES);
    }
    if spec.allocate_load_balancer_node_ports.is_some() && kind != "LoadBalancer" {
        errors.forbidden(
            "spec.allocateLoadBalancerNodePorts",
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    if kind == "ClusterIP" {
        for (index, port) in items(&spec.ports).iter().enumerate() {
            if port.node_port.unwrap_or(0) != 0 {
                errors.forbidden(
                    &format!("spec.ports[{index}].nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                );
            }
        }
    }
}

/// The cluster IP of a Service stays as long as it has one, and so does its health check port.
pub(super) fn update(new: &ServiceSpec, old: &ServiceSpec, errors: &mut FieldErrors) {
    let had = old.health_check_node_port.unwrap_or(0);
    if had != 0
        && needs_health_port(old)
        && needs_health_port(new)
        && new.health_check_node_port != Some(had)
    {
        errors.forbidden(HEALTH_PORT, "field is immutable");
    }
    if text(&new.type_) == "ExternalName" || text(&old.type_) == "ExternalName" {
        return;
    }
    let (now, before) = (items(&new.cluster_ips), items(&old.cluster_ips));
    if text(&old.cluster_ip).is_empty() || now == before {
        return;
    }
    let shown = if now.is_empty() {
        Value::Null
    } else {
        json!(now)
    };
    errors.invalid("spec.clusterIPs[0]", shown, "may not change once set");
}
