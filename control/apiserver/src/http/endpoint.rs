// SPDX-License-Identifier: Apache-2.0
//! What a request is counted as: the labels of `apiserver_request_total` and its relatives, with the values that
//! kube-apiserver (v1.37) gives them, so that its dashboards and alerts work here.
//!
//! See `MonitorRequest`, `CleanVerb` and `CleanScope` of apiserver's `endpoints/metrics`.

use http::request::Parts;

use super::body;
use super::path::{Query, ResourcePath, Target};
use crate::metrics::EndpointLabels;
use crate::registry::Kind;

/// The labels of a request with this verb of authorization.
pub(super) fn of(target: &Target, verb: &str, parts: &Parts) -> EndpointLabels {
    let labels = EndpointLabels {
        verb: reported_verb(verb, parts),
        ..EndpointLabels::default()
    };
    match target {
        Target::Resource(path) => {
            let subresource = path
                .subresource
                .as_deref()
                .and_then(|s| path.kind.subresource(s));
            let subresource = subresource.map(|s| s.name.clone()).unwrap_or_default();
            EndpointLabels {
                verb: match &*subresource {
                    "exec" | "attach" | "portforward" => "CONNECT",
                    _ => labels.verb,
                },
                group: path.kind.group.clone(),
                version: path.kind.version.clone(),
                resource: path.kind.plural.clone(),
                subresource,
                scope: scope(path, verb),
                ..labels
            }
        }
        // Anybody can ask for any path: only what is served has a name of its own.
        Target::Health(path) => {
            let family = ["/livez", "/readyz", "/healthz"];
            let family = family.into_iter().find(|f| path.starts_with(f));
            EndpointLabels {
                subresource: family.unwrap_or_default().into(),
                ..labels
            }
        }
        Target::Metrics => EndpointLabels {
            subresource: "/metrics".into(),
            ..labels
        },
        Target::Version => EndpointLabels {
            subresource: "/version".into(),
            ..labels
        },
        _ => labels,
    }
}

/// The labels of an open watch.
pub(super) fn of_watch(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> EndpointLabels {
    EndpointLabels {
        verb: "WATCH",
        group: kind.group.clone(),
        version: kind.version.clone(),
        resource: kind.plural.clone(),
        scope: match (name, namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        },
        ..EndpointLabels::default()
    }
}

/// The label `dry_run`.
pub(super) fn dry_run(query: &Query) -> &'static str {
    let mut given = query.all("dryRun");
    match (given.next(), given.all(|value| value == "All")) {
        (None, _) => "",
        (Some("All"), true) => "All",
        _ => "invalid",
    }
}

fn reported_verb(verb: &str, parts: &Parts) -> &'static str {
    match verb {
        "get" | "log" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => {
            let sent = parts.headers.get(http::header::CONTENT_TYPE);
            let sent = sent
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default();
            match body::media_type(sent) {
                "application/apply-patch+yaml" | "application/apply-patch+cbor" => "APPLY",
                _ => "PATCH",
            }
        }
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

fn scope(path: &ResourcePath, verb: &str) -> &'static str {
    if path.name.is_some() || verb == "create" {
        "resource"
    } else if path.namespace.is_some() {
        "namespace"
    } else {
        "cluster"
    }
}
