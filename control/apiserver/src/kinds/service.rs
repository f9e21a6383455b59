// SPDX-License-Identifier: Apache-2.0
//! Service: addresses and ports that stand for a changing set of pods.
//!
//! Cluster IPs and node ports are given out by `allocations`. Types that nothing implements yet are stored
//! as they are: a LoadBalancer stays pending, as on any cluster without one.

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use super::ignored::{self, Ignored, ignored};
use crate::allocations::needs_health_port;
use crate::field::FieldErrors;
use crate::registry::rules::pairs;
use crate::registry::{
    Column, DeletedAnswer, Kind, NameRule, Rules, Scope, Selectable, Strategy, Subresource,
    Validate, meta, texts,
};
use crate::{table, value};

mod advice;
mod validation;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["svc"]),
        categories: texts(&["all"]),
        name_rule: NameRule::ServiceLabel,
        subresources: vec![Subresource::status("", "v1", "Service")],
        selectable: vec![
            Selectable::new("spec.clusterIP"),
            Selectable::new("spec.type"),
        ],
        columns: vec![
            Column::NAME,
            Column::new(
                "Type",
                "string",
                "type determines how the Service is exposed.",
            ),
            Column::new(
                "Cluster-IP",
                "string",
                "clusterIP is the IP address of the service.",
            ),
            Column::new(
                "External-IP",
                "string",
                "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
            ),
            Column::new(
                "Port(s)",
                "string",
                "The list of ports that are exposed by this service.",
            ),
            Column::AGE,
            Column::new(
                "Selector",
                "string",
                "Route service traffic to pods with label keys and values matching this selector.",
            )
            .wide(),
        ],
        ..Kind::new("", "v1", "Service", "services", Scope::Namespaced, Service)
    }
}

/// Seconds that `ClientIP` affinity holds without a request.
const AFFINITY_S: i64 = 10_800;

/// What nodes do not know of a Service.
const IGNORED: &[Ignored] = &[
    ignored(
        "spec.externalIPs",
        "has no effect in this version: nodes take no connections to these addresses",
    ),
    ignored("spec.loadBalancerClass", NO_LOAD_BALANCER),
    ignored("spec.loadBalancerIP", NO_LOAD_BALANCER),
    ignored(
        "spec.loadBalancerSourceRanges",
        "has no effect in this version: nodes refuse no source",
    ),
    ignored(
        "spec.trafficDistribution",
        "has no effect in this version: all ready endpoints are alike",
    ),
];
const NO_HEALTH_CHECK: &str = "has no effect in this version: no node listens on it";
const NO_LOAD_BALANCER: &str =
    "has no effect in this version: no addresses of load balancers are given out";

struct Service;

impl Strategy for Service {
    fn allocates(&self) -> bool {
        true
    }

    fn deleted_answer(&self) -> DeletedAnswer {
        DeletedAnswer::Object
    }

    fn default(&self, object: &mut Value) {
        value::default_text(object, "spec.type", "ClusterIP");
        let kind = value::text(object, "spec.type").to_owned();
        value::default_text(object, "spec.sessionAffinity", "None");
        if value::text(object, "spec.sessionAffinity") == "None" {
            value::remove(object, "spec.sessionAffinityConfig");
        } else {
            value::default(
                object,
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                AFFINITY_S,
            );
        }
        for port in value::items_mut(object, "spec.ports") {
            if matches!(value::at(port, "targetPort"), None | Some(Value::String(_)))
                && value::text(port, "targetPort").is_empty()
                || value::int(port, "targetPort") == Some(0)
            {
                let number = value::int(port, "port").unwrap_or(0);
                value::set(port, "targetPort", number);
            }
        }
        let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
        if external {
            value::default_text(object, "spec.externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            value::default(object, "spec.allocateLoadBalancerNodePorts", true);
        }
        if kind == "ExternalName" {
            return;
        }
        value::default_text(object, "spec.internalTrafficPolicy", "Cluster");
        let ip = value::text(object, "spec.clusterIP").to_owned();
        let listed = value::items(object, "spec.clusterIPs").len();
        if !ip.is_empty() && listed == 0 {
            value::set(object, "spec.clusterIPs", json!([ip]));
        } else if ip.is_empty() && listed > 0 {
            let first = value::items(object, "spec.clusterIPs")[0].clone();
            value::set(object, "spec.clusterIP", first);
        }
        if value::items(object, "spec.ipFamilies").is_empty() {
            value::set(object, "spec.ipFamilies", json!(["IPv4"]));
        }
        value::default_text(object, "spec.ipFamilyPolicy", "SingleStack");
    }

    fn prepare_create(&self, object: &mut Value) {
        value::set(object, "status", json!({"loadBalancer": {}}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_allocated(new, old);
        normalize_cluster_ips(new, old);
        drop_unneeded(new, old);
    }

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
    }

    fn advice(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        advice::service(new)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut found = ignored::warnings(IGNORED, object, "");
        if needs_health_port(object) {
            // Also one that is given out after this.
            found.push(format!("spec.healthCheckNodePort: {NO_HEALTH_CHECK}"));
        }
        found
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let ip = match value::text(object, "spec.clusterIP") {
            "" => "<none>",
            ip => ip,
        };
        let ports: Vec<String> = value::items(object, "spec.ports")
            .iter()
            .map(|port| {
                let number = value::int(port, "port").unwrap_or(0);
                let protocol = value::text(port, "protocol");
                match value::int(port, "nodePort").filter(|n| *n > 0) {
                    Some(node) => format!("{number}:{node}/{protocol}"),
                    None => format!("{number}/{protocol}"),
                }
            })
            .collect();
        let ports = if ports.is_empty() {
            "<none>".to_owned()
        } else {
            ports.join(",")
        };
        vec![
            table::name(object),
            value::text(object, "spec.type").into(),
            ip.into(),
            external_ip(object).into(),
            ports.into(),
            table::age(object),
            table::labels(value::at(object, "spec.selector")).into(),
        ]
    }
}

impl Validate for Service {
    type Object = api::Service;

    fn validate(&self, new: &api::Service, errors: &mut FieldErrors) {
        let default = api::ServiceSpec::default();
        let spec = new.spec.as_ref().unwrap_or(&default);
        validation::service(spec, errors);
        meta::labels(pairs(&spec.selector), "spec.selector", errors);
    }

    fn validate_update(&self, new: &api::Service, old: &api::Service, errors: &mut FieldErrors) {
        if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
            validation::update(new, old, errors);
        }
        self.validate(new, errors);
    }
}

/// A client that leaves out what the server gave does not give it back.
fn keep_allocated(new: &mut Value, old: &Value) {
    let type_new = value::text(new, "spec.type").to_owned();
    let type_old = value::text(old, "spec.type");
    if type_new == "ExternalName" || type_old == "ExternalName" {
        return;
    }
    if value::text(new, "spec.clusterIP").is_empty() {
        value::copy(new, old, "spec.clusterIP");
    }
    if value::items(new, "spec.clusterIPs").is_empty() && value::same(new, old, "spec.clusterIP") {
        value::copy(new, old, "spec.clusterIPs");
    }
    let needs = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if !needs(&type_new) || !needs(type_old) {
        return;
    }
    if needs_health_port(new)
        && needs_health_port(old)
        && value::int(new, "spec.healthCheckNodePort").unwrap_or(0) == 0
    {
        value::copy(new, old, "spec.healthCheckNodePort");
    }
    let mut used: Vec<i64> = value::items(new, "spec.ports")
        .iter()
        .filter_map(|p| value::int(p, "nodePort"))
        .filter(|p| *p != 0)
        .collect();
    for port in value::items_mut(new, "spec.ports") {
        if value::int(port, "nodePort").unwrap_or(0) != 0 {
            continue;
        }
        let before = value::items(old, "spec.ports")
            .iter()
            .find(|p| value::same(p, port, "port") && value::same(p, port, "protocol"));
        if let Some(node) = before
            .and_then(|p| value::int(p, "nodePort"))
            .filter(|p| *p != 0 && !used.contains(p))
        {
            used.push(node);
            value::set(port, "nodePort", node);
        }
    }
}

/// A client that knows only `clusterIP` means `clusterIPs` as well: `normalizeClusterIPs` of Kubernetes' Service
/// storage (v1.37), for a change.
fn normalize_cluster_ips(new: &mut Value, old: &Value) {
    let (before, after) = (
        value::text(old, "spec.clusterIP"),
        value::text(new, "spec.clusterIP").to_owned(),
    );
    if before == after || !value::same(new, old, "spec.clusterIPs") {
        return;
    }
    if after.is_empty() {
        value::remove(new, "spec.clusterIPs");
    } else {
        value::set(new, "spec.clusterIPs", json!([after]));
    }
}

/// A change of type takes along what the old type had been given, unless the client sets it anew.
fn drop_unneeded(new: &mut Value, old: &Value) {
    // The traffic policy counts as well as the type here.
    if needs_health_port(old)
        && !needs_health_port(new)
        && value::same(new, old, "spec.healthCheckNodePort")
    {
        value::remove(new, "spec.healthCheckNodePort");
    }
    let kind = value::text(new, "spec.type").to_owned();
    let before = value::text(old, "spec.type");
    if kind == before {
        return;
    }
    if kind == "ExternalName" && value::same(new, old, "spec.clusterIP") {
        for gone in [
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ] {
            value::remove(new, &format!("spec.{gone}"));
        }
    }
    if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        let ports_before: Vec<i64> = value::items(old, "spec.ports")
            .iter()
            .filter_map(|p| value::int(p, "nodePort"))
            .collect();
        for port in value::items_mut(new, "spec.ports") {
            if value::int(port, "nodePort").is_some_and(|p| ports_before.contains(&p)) {
                value::remove(port, "nodePort");
            }
        }
        if value::same(new, old, "spec.externalTrafficPolicy") {
            value::remove(new, "spec.externalTrafficPolicy");
        }
    }
    if kind != "LoadBalancer" && value::same(new, old, "spec.allocateLoadBalancerNodePorts") {
        value::remove(new, "spec.allocateLoadBalancerNodePorts");
    }
}

fn external_ip(service: &Value) -> String {
    let given: Vec<&str> = value::items(service, "spec.externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match value::text(service, "spec.type") {
        "ExternalName" => value::text(service, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = value::items(service, "status.loadBalancer.ingress")
                .iter()
                .map(|i| match value::text(i, "ip") {
                    "" => value::text(i, "hostname"),
                    ip => ip,
                })
                .collect();
            all.extend(given);
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        _ if given.is_empty() => "<none>".to_owned(),
        _ => given.join(","),
    }
}
