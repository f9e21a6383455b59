// SPDX-License-Identifier: Apache-2.0
//! `/openapi/v2` and `/openapi/v3`: the registry's paths, with the schemas that knarr-schema keeps.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, ETAG, HeaderValue};
use knarr_schema::{OpenApiOperation, OpenApiPath};
use serde_json::{Map, json};

use super::negotiate::OpenApiProtobuf;
use super::path::versions_of;
use super::{Call, discovery, not_found, respond};
use crate::ApiError;
use crate::codec::Format;
use crate::kinds::NAMESPACES;
use crate::registry::{Kind, Registry};

/// `GET /openapi/v3`
pub(crate) fn v3_index(registry: &Registry) -> Response {
    let mut paths = Map::new();
    let mut add = |path: String| {
        let url = format!("/openapi/v3/{path}?hash={}", hash(registry));
        paths.insert(path, json!({"serverRelativeURL": url}));
    };
    add("api/v1".to_owned());
    for group in discovery::groups(registry) {
        for version in versions_of(registry, group) {
            add(format!("apis/{group}/{version}"));
        }
    }
    respond::tree(Format::Json, StatusCode::OK, &json!({"paths": paths}))
}

/// Names the documents' content, so that clients keep what they have downloaded as long as it is the same. Documents
/// change only with the registry; made at the first question.
fn hash(registry: &Registry) -> &str {
    registry.openapi_hash.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        let document = registry.schemas.openapi_v2(&all_paths(registry));
        document.hash(&mut hasher);
        format!("{:016X}", hasher.finish())
    })
}

/// `GET /openapi/v3/apis/GROUP/VERSION`
pub(crate) fn v3(group: &str, version: &str, call: &Call) -> Result<Response, ApiError> {
    let registry = &call.registry;
    if !versions_of(registry, group).contains(&version) {
        return Err(not_found());
    }
    call.accept.text()?;
    let json = registry
        .schemas
        .openapi_v3(&paths(registry, group, version));
    Ok(document(registry, json))
}

/// What the answer in protobuf calls itself. Clients ask with an `@`, which a Content-Type must not have:
/// Go's `mime` package refuses it, so kube-apiserver answers with a dot.
const OPENAPI_V2_PROTOBUF_SENT: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `GET /openapi/v2`
pub(crate) fn v2(call: &Call) -> Result<Response, ApiError> {
    let registry = &call.registry;
    let all = all_paths(registry);
    let schemas = &registry.schemas;
    if call.accept.openapi_v2_protobuf() == OpenApiProtobuf::First {
        let document = schemas.openapi_v2_protobuf(&all);
        let response = respond::build(
            StatusCode::OK,
            OPENAPI_V2_PROTOBUF_SENT,
            Body::from(document),
        );
        return Ok(cacheable(registry, response));
    }
    call.accept.text()?;
    Ok(document(registry, schemas.openapi_v2(&all)))
}

fn document(registry: &Registry, json: Vec<u8>) -> Response {
    let response = respond::build(StatusCode::OK, "application/json", Body::from(json));
    cacheable(registry, response)
}

fn cacheable(registry: &Registry, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=600"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", hash(registry))) {
        headers.insert(ETAG, tag);
    }
    response
}

fn all_paths(registry: &Registry) -> Vec<OpenApiPath> {
    let mut all = paths(registry, "", "v1");
    for group in discovery::groups(registry) {
        for version in versions_of(registry, group) {
            all.extend(paths(registry, group, version));
        }
    }
    all
}

fn paths(registry: &Registry, group: &str, version: &str) -> Vec<OpenApiPath> {
    let root = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let mut all = Vec::new();
    for kind in registry
        .all()
        .filter(|k| k.group == group && k.version == version)
    {
        kind_paths(&root, kind, &mut all);
    }
    all
}

fn operation(
    method: &'static str,
    action: &'static str,
    group: &str,
    version: &str,
    kind: &str,
) -> OpenApiOperation {
    OpenApiOperation {
        method,
        action,
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
    }
}

fn kind_paths(root: &str, kind: &Kind, all: &mut Vec<OpenApiPath>) {
    let own = |method, action| operation(method, action, &kind.group, &kind.version, &kind.kind);
    let base = if kind.namespaced() {
        if kind.is_kept() {
            all.push(OpenApiPath {
                path: format!("{root}/{}", kind.plural),
                operations: vec![own("get", "list")],
            });
        }
        format!("{root}/{NAMESPACES}/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    if !kind.is_kept() {
        all.push(OpenApiPath {
            path: base,
            operations: vec![own("post", "post")],
        });
        return;
    }
    let mut collection = vec![own("get", "list"), own("post", "post")];
    if kind.strategy.deletes_collections() {
        collection.push(own("delete", "deletecollection"));
    }
    all.push(OpenApiPath {
        path: base.clone(),
        operations: collection,
    });
    all.push(OpenApiPath {
        path: format!("{base}/{{name}}"),
        operations: vec![
            own("get", "get"),
            own("put", "put"),
            own("patch", "patch"),
            own("delete", "delete"),
        ],
    });
    for sub in &kind.subresources {
        let operations = sub
            .verbs
            .iter()
            .filter_map(|verb| {
                let method = match *verb {
                    "get" => "get",
                    "update" => "put",
                    "patch" => "patch",
                    "create" => "post",
                    _ => return None,
                };
                Some(operation(
                    method,
                    method,
                    &sub.schema.group,
                    &sub.schema.version,
                    &sub.schema.kind,
                ))
            })
            .collect();
        all.push(OpenApiPath {
            path: format!("{base}/{{name}}/{}", sub.name),
            operations,
        });
    }
}
