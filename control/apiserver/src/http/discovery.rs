// SPDX-License-Identifier: Apache-2.0
//! Discovery: which groups, versions and resources there are, in the old form and aggregated.

use std::net::SocketAddr;

use axum::response::Response;
use http::header::USER_AGENT;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::negotiate::Form;
use super::path::versions_of;
use super::{Call, respond};
use crate::ApiError;
use crate::codec::Format;
use crate::registry::{Kind, Registry, Text, group_version};

const READ_WRITE: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// The groups besides core, in the order in which they are listed.
pub(crate) fn groups(registry: &Registry) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for group in registry.all().map(|k| &*k.group) {
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// `GET /`
pub(crate) fn root(registry: &Registry) -> Response {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for group in groups(registry) {
        paths.push(format!("/apis/{group}"));
        let versions = versions_of(registry, group);
        paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    respond::indented(&json!({"paths": paths}))
}

/// Whether a request for the CustomResourceDefinitions is kubectl's, or helm's, which is made of the same parts.
///
/// Before they refuse a kind that they do not know, they read this list, and take every error for the reason: in
/// Kubernetes it is always there (`QueryParamVerifier` of cli-runtime, v0.37). For all others the API is not there, as
/// discovery says.
pub(crate) fn reads_definitions(parts: &Parts) -> bool {
    let agent = parts.headers.get(USER_AGENT).map(|agent| agent.as_bytes());
    let agent = agent.unwrap_or_default();
    let is_known = agent.starts_with(b"kubectl") || agent.starts_with(b"Helm/");
    parts.method == Method::GET && is_known
}

/// The CustomResourceDefinitions: there are none.
pub(crate) fn no_definitions(revision: u64) -> Response {
    let body = json!({
        "kind": "CustomResourceDefinitionList",
        "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"resourceVersion": revision.to_string()},
        "items": [],
    });
    respond::tree(Format::Json, StatusCode::OK, &body)
}

fn is_discovery(form: &Form) -> bool {
    matches!(form, Form::Discovery(_))
}

/// `GET /api`; `advertised` is where clients reach this server.
pub(crate) fn api(call: &Call, advertised: Option<SocketAddr>) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(is_discovery)?;
    if let Form::Discovery(version) = form {
        return Ok(aggregated(&call.registry, format, version, &[""]));
    }
    let addresses: Vec<Value> = advertised
        .iter()
        .map(|address| json!({"clientCIDR": "0.0.0.0/0", "serverAddress": address.to_string()}))
        .collect();
    let body = json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": addresses,
    });
    Ok(respond::tree(format, StatusCode::OK, &body))
}

/// `GET /apis`
pub(crate) fn apis(call: &Call) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(is_discovery)?;
    if let Form::Discovery(version) = form {
        let groups = groups(&call.registry);
        return Ok(aggregated(&call.registry, format, version, &groups));
    }
    let groups = groups(&call.registry).into_iter();
    let groups: Vec<Value> = groups
        .map(|group| group_of(&call.registry, group))
        .collect();
    let body = json!({
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": groups,
    });
    Ok(respond::tree(format, StatusCode::OK, &body))
}

fn group_of(registry: &Registry, group: &str) -> Value {
    let versions: Vec<Value> = versions_of(registry, group)
        .into_iter()
        .map(|v| json!({"groupVersion": group_version(group, v), "version": v}))
        .collect();
    json!({
        "name": group,
        "preferredVersion": versions.first(),
        "versions": versions,
    })
}

/// `GET /apis/GROUP`
pub(crate) fn group(group: &str, call: &Call) -> Response {
    let mut body = group_of(&call.registry, group);
    body["kind"] = "APIGroup".into();
    body["apiVersion"] = "v1".into();
    let format = call.accept.plain().unwrap_or(Format::Json);
    respond::tree(format, StatusCode::OK, &body)
}

fn resource_list(registry: &Registry, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for resource in resources_of(registry, group, version) {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced(),
        });
        if let Some((group, version)) = resource.other_group {
            entry["group"] = group.into();
            entry["version"] = version.into();
        }
        entry["kind"] = resource.kind.into();
        entry["verbs"] = json!(resource.verbs);
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        resources.push(entry);
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group, version),
        "resources": resources,
    })
}

/// `GET /api/v1`, `GET /apis/GROUP/VERSION`
pub(crate) fn version(group: &str, version: &str, call: &Call) -> Response {
    let format = call.accept.plain().unwrap_or(Format::Json);
    let body = resource_list(&call.registry, group, version);
    respond::tree(format, StatusCode::OK, &body)
}

/// One row of discovery.
struct Resource<'a> {
    plural: String,
    singular: &'a str,
    kind: &'a str,
    scope: Scope,
    verbs: Vec<&'static str>,
    short_names: &'a [Text],
    categories: &'a [Text],
    /// Group and version of the kind, where they are not the resource's own.
    other_group: Option<(&'a str, &'a str)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Namespaced,
    Cluster,
}

impl Resource<'_> {
    fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

fn scope_of(kind: &Kind) -> Scope {
    if kind.namespaced() {
        Scope::Namespaced
    } else {
        Scope::Cluster
    }
}

fn resources_of<'a>(registry: &'a Registry, group: &str, version: &str) -> Vec<Resource<'a>> {
    let mut all = Vec::new();
    let kinds = registry.all();
    for kind in kinds.filter(|k| k.group == group && k.version == version) {
        let mut verbs = if kind.is_kept() {
            READ_WRITE.to_vec()
        } else {
            vec!["create"]
        };
        if !kind.strategy.deletes_collections() {
            verbs.retain(|v| *v != "deletecollection");
        }
        all.push(Resource {
            plural: kind.plural.to_string(),
            singular: &kind.singular,
            kind: &kind.kind,
            scope: scope_of(kind),
            verbs,
            short_names: &kind.short_names,
            categories: &kind.categories,
            other_group: None,
        });
        for sub in &kind.subresources {
            let schema = &sub.schema;
            let own = schema.group == kind.group && schema.version == kind.version;
            all.push(Resource {
                plural: format!("{}/{}", kind.plural, sub.name),
                singular: "",
                kind: &schema.kind,
                scope: scope_of(kind),
                verbs: sub.verbs.to_vec(),
                short_names: &[],
                categories: &[],
                other_group: (!own).then_some((&*schema.group, &*schema.version)),
            });
        }
    }
    all
}

/// Everything about some groups at once, as `apidiscovery.k8s.io`.
fn aggregated(
    registry: &Registry,
    format: Format,
    version: &'static str,
    groups: &[&str],
) -> Response {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = versions_of(registry, group)
                .into_iter()
                .map(|v| {
                    json!({
                        "version": v,
                        "resources": aggregated_resources(registry, group, v),
                        "freshness": "Current",
                    })
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = (*group).into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let kind = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    respond::tree_as(format, StatusCode::OK, kind, &body)
}

fn aggregated_resources(registry: &Registry, group: &str, version: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for resource in resources_of(registry, group, version) {
        let (kind_group, kind_version) = resource.other_group.unwrap_or(("", ""));
        // An own group is written out, so that clients need not guess.
        let kind = if resource.other_group.is_some() {
            json!({"group": kind_group, "version": kind_version, "kind": resource.kind})
        } else {
            json!({"group": group, "version": version, "kind": resource.kind})
        };
        if let Some((_, sub)) = resource.plural.split_once('/') {
            let entry = json!({
                "subresource": sub,
                "responseKind": kind,
                "verbs": resource.verbs,
            });
            // Subresources follow the resource that they are a part of.
            if let Some(parent) = all.last_mut() {
                match parent["subresources"].as_array_mut() {
                    Some(list) => list.push(entry),
                    None => parent["subresources"] = json!([entry]),
                }
            }
            continue;
        }
        let mut entry = json!({
            "resource": resource.plural,
            "responseKind": kind,
            "scope": if resource.namespaced() { "Namespaced" } else { "Cluster" },
            "singularResource": resource.singular,
            "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        all.push(entry);
    }
    all
}
