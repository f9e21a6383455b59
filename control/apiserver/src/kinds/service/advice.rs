// SPDX-License-Identifier: Apache-2.0
//! What Kubernetes itself warns of in Services: `GetWarningsForService` of `pkg/api/service/warnings.go` (v1.37).

use serde_json::Value;

use crate::registry::meta::address_advice;
use crate::value;

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// The warnings about a Service.
pub(super) fn service(service: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let kind = value::text(service, "spec.type");
    let external_ips = value::items(service, "spec.externalIPs");
    let has_external_ips = !external_ips.is_empty();
    let is_external_name = kind == "ExternalName";
    let is_headless = kind == "ClusterIP" && value::text(service, "spec.clusterIP") == "None";
    let balancer_ip = value::text(service, "spec.loadBalancerIP");
    let annotations = value::at(service, "metadata.annotations");
    if annotations.is_some_and(|all| all.get(TOPOLOGY_HINTS).is_some()) {
        found.push(format!(
            "annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"
        ));
    }
    let addresses = |list: &'static str| {
        let items = value::items(service, list).iter().enumerate();
        items.filter_map(move |(index, address)| {
            address_advice(&format!("{list}[{index}]"), address.as_str()?)
        })
    };
    found.extend(addresses("spec.clusterIPs"));
    if is_headless {
        if !balancer_ip.is_empty() {
            found.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if has_external_ips {
            found.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if value::text(service, "spec.sessionAffinity") != "None" {
            found.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    found.extend(addresses("spec.externalIPs"));
    if has_external_ips && !is_headless && !is_external_name {
        found.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .to_owned(),
        );
    }
    found.extend(address_advice("spec.loadBalancerIP", balancer_ip));
    if is_external_name && has_external_ips {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_external_name && !value::text(service, "spec.externalName").is_empty() {
        found
            .push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if value::text(service, "spec.trafficDistribution") == "PreferClose" {
        found.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\""
                .to_owned(),
        );
    }
    found
}
