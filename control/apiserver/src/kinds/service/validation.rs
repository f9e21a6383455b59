// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a Service, worded as `ValidateService` of Kubernetes v1.37.

use std::net::IpAddr;

use knarr_api::names::{validate_dns_label, validate_dns_subdomain};
use serde_json::Value;

use crate::allocations::needs_health_port;
use crate::field::FieldErrors;
use crate::kinds::podspec::{validate_port_name, validate_port_number};
use crate::value;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const HEALTH_PORT: &str = "spec.healthCheckNodePort";
/// Longest affinity: a day.
const AFFINITY_S_MAX: i64 = 86_400;

pub(super) fn service(object: &Value, errors: &mut FieldErrors) {
    let kind = value::text(object, "spec.type");
    let ip = value::text(object, "spec.clusterIP");
    let ports = value::items(object, "spec.ports");
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
        external_name(object, errors);
    }
    for (index, port) in ports.iter().enumerate() {
        service_port(port, &ports[..index], ports.len(), index, errors);
    }
    let affinity = value::text(object, "spec.sessionAffinity");
    if !matches!(affinity, "ClientIP" | "None") {
        errors.not_supported("spec.sessionAffinity", affinity, &["ClientIP", "None"]);
    }
    if affinity == "ClientIP" {
        const FIELD: &str = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let seconds = value::int(object, FIELD).unwrap_or(0);
        if !(1..=AFFINITY_S_MAX).contains(&seconds) {
            errors.invalid(
                FIELD,
                seconds,
                &format!("must be greater than 0 and less than {AFFINITY_S_MAX}"),
            );
        }
    }
    cluster_ips(object, errors);
    policies(object, errors);
    for (index, address) in value::items(object, "spec.externalIPs").iter().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        crate::kinds::endpoints::validate_ip(address.as_str().unwrap_or_default(), &field, errors);
    }
}

fn external_name(object: &Value, errors: &mut FieldErrors) {
    if !value::items(object, "spec.clusterIPs").is_empty() {
        errors.forbidden(
            "spec.clusterIPs",
            "may not be set when `type` is 'ExternalName'",
        );
    }
    let name = value::text(object, "spec.externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required("spec.externalName", "");
    } else {
        for message in validate_dns_subdomain(name) {
            errors.invalid("spec.externalName", name, &message);
        }
    }
}

fn service_port(
    port: &Value,
    before: &[Value],
    count: usize,
    index: usize,
    errors: &mut FieldErrors,
) {
    let field = format!("spec.ports[{index}]");
    let name = value::text(port, "name");
    if name.is_empty() {
        if count > 1 {
            errors.required(&format!("{field}.name"), "");
        }
    } else {
        for message in validate_dns_label(name) {
            errors.invalid(&format!("{field}.name"), name, &message);
        }
        if before.iter().any(|p| value::text(p, "name") == name) {
            errors.duplicate(&format!("{field}.name"), name);
        }
    }
    let number = value::int(port, "port").unwrap_or(0);
    validate_port_number(number, &format!("{field}.port"), errors);
    let protocol = value::text(port, "protocol");
    if !PROTOCOLS.contains(&protocol) {
        errors.not_supported(&format!("{field}.protocol"), protocol, &PROTOCOLS);
    }
    match value::at(port, "targetPort") {
        Some(Value::String(name)) => {
            validate_port_name(name, &format!("{field}.targetPort"), errors);
        }
        Some(target) => validate_port_number(
            target.as_i64().unwrap_or(0),
            &format!("{field}.targetPort"),
            errors,
        ),
        None => {}
    }
    let same = |other: &&Value| value::text(other, "protocol") == protocol;
    if before
        .iter()
        .filter(same)
        .any(|p| value::int(p, "port") == Some(number))
    {
        errors.duplicate(
            &field,
            serde_json::json!({"protocol": protocol, "port": number}),
        );
    }
    if let Some(node) = value::int(port, "nodePort").filter(|n| *n != 0) {
        if before
            .iter()
            .filter(same)
            .any(|p| value::int(p, "nodePort") == Some(node))
        {
            errors.duplicate(&format!("{field}.nodePort"), node);
        }
        if !(1..=65535).contains(&node) {
            validate_port_number(node, &format!("{field}.nodePort"), errors);
        }
    }
}

fn cluster_ips(object: &Value, errors: &mut FieldErrors) {
    let kind = value::text(object, "spec.type");
    let ips = value::items(object, "spec.clusterIPs");
    if kind == "ExternalName" {
        return;
    }
    for (index, ip) in ips.iter().enumerate() {
        let field = format!("spec.clusterIPs[{index}]");
        let text = ip.as_str().unwrap_or_default();
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
                value::at(object, "spec.clusterIPs")
                    .cloned()
                    .unwrap_or_default(),
                "may only hold one value on a cluster that is not dual-stack",
            ),
            Ok(IpAddr::V4(_)) => {}
        }
    }
    let first = ips.first().and_then(Value::as_str).unwrap_or_default();
    let ip = value::text(object, "spec.clusterIP");
    if first != ip {
        errors.invalid(
            "spec.clusterIPs",
            Value::from(ips),
            "first value must match `clusterIP`",
        );
    }
    let policy = value::text(object, "spec.ipFamilyPolicy");
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
    for (index, family) in value::items(object, "spec.ipFamilies").iter().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        match family.as_str().unwrap_or_default() {
            "IPv4" => {}
            "IPv6" => errors.invalid(&field, "IPv6", "not configured on this cluster"),
            other => errors.not_supported(&field, other, &["IPv4", "IPv6"]),
        }
    }
}

fn policies(object: &Value, errors: &mut FieldErrors) {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    let kind = value::text(object, "spec.type");
    let external = value::text(object, "spec.externalTrafficPolicy");
    let exposed = matches!(kind, "NodePort" | "LoadBalancer")
        || !value::items(object, "spec.externalIPs").is_empty();
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
    let health = value::int(object, HEALTH_PORT).unwrap_or(0);
    if health != 0 && !needs_health_port(object) {
        errors.invalid(
            HEALTH_PORT,
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    } else if health != 0 {
        // One that is missing is given out after this.
        validate_port_number(health, HEALTH_PORT, errors);
    }
    let internal = value::text(object, "spec.internalTrafficPolicy");
    if !internal.is_empty() && !POLICIES.contains(&internal) {
        errors.not_supported("spec.internalTrafficPolicy", internal, &POLICIES);
    }
    if value::at(object, "spec.allocateLoadBalancerNodePorts").is_some() && kind != "LoadBalancer" {
        errors.forbidden(
            "spec.allocateLoadBalancerNodePorts",
            "may only be used when `type` is 'LoadBalancer'",
        );
    }
    if kind == "ClusterIP" {
        for (index, port) in value::items(object, "spec.ports").iter().enumerate() {
            if value::int(port, "nodePort").unwrap_or(0) != 0 {
                errors.forbidden(
                    &format!("spec.ports[{index}].nodePort"),
                    "may not be used when `type` is 'ClusterIP'",
                );
            }
        }
    }
}

/// The cluster IP of a Service stays as long as it has one, and so does its health check port.
pub(super) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let had = value::int(old, HEALTH_PORT).unwrap_or(0);
    if had != 0
        && needs_health_port(old)
        && needs_health_port(new)
        && value::int(new, HEALTH_PORT) != Some(had)
    {
        errors.forbidden(HEALTH_PORT, "field is immutable");
    }
    let (kind, before) = (value::text(new, "spec.type"), value::text(old, "spec.type"));
    if kind == "ExternalName" || before == "ExternalName" {
        return;
    }
    let had = value::text(old, "spec.clusterIP");
    if had.is_empty() || value::same(new, old, "spec.clusterIPs") {
        return;
    }
    errors.invalid(
        "spec.clusterIPs[0]",
        value::at(new, "spec.clusterIPs")
            .cloned()
            .unwrap_or_default(),
        "may not change once set",
    );
}
