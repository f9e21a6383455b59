// SPDX-License-Identifier: Apache-2.0
//! `/openapi/v2` and `/openapi/v3`: the registry's paths, with the schemas that knarr-schema keeps.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::OnceLock;

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, ETAG, HeaderValue};
use knarr_schema::{OpenApiOperation, OpenApiPath, Schemas};
use serde_json::{Map, json};

use super::negotiate::{Format, OpenApiProtobuf};
use super::path::{Review, versions_of};
use super::{Call, discovery, not_found, respond};
use crate::ApiError;
use crate::registry::{self, BINDING, Kind};

/// `GET /openapi/v3`
pub(crate) fn v3_index() -> Response {
    let mut paths = Map::new();
    let mut add = |path: String| {
        let url = format!("/openapi/v3/{path}?hash={}", hash());
        paths.insert(path, json!({"serverRelativeURL": url}));
    };
    add("api/v1".to_owned());
    for group in discovery::groups() {
        for version in versions_of(group) {
            add(format!("apis/{group}/{version}"));
        }
    }
    respond::tree(Format::Json, StatusCode::OK, &json!({"paths": paths}))
}

/// Names the documents' content, so that clients keep what they have downloaded as long as it is the same. Documents
/// change only with the program; made at the first question.
fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        Schemas::builtin()
            .openapi_v2(&all_paths())
            .hash(&mut hasher);
        format!("{:016X}", hasher.finish())
    })
}

/// `GET /openapi/v3/apis/GROUP/VERSION`
pub(crate) fn v3(group: &str, version: &str, call: &Call) -> Result<Response, ApiError> {
    if !versions_of(group).any(|v| v == version) {
        return Err(not_found());
    }
    call.accept.plain()?;
    Ok(document(
        Schemas::builtin().openapi_v3(&paths(group, version)),
    ))
}

/// What the answer in protobuf calls itself. Clients ask with an `@`, which a Content-Type must not have:
/// Go's `mime` package refuses it, so kube-apiserver answers with a dot.
const OPENAPI_V2_PROTOBUF_SENT: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `GET /openapi/v2`
pub(crate) fn v2(call: &Call) -> Result<Response, ApiError> {
    let all = all_paths();
    let schemas = Schemas::builtin();
    if call.accept.openapi_v2_protobuf() == OpenApiProtobuf::First {
        let document = schemas.openapi_v2_protobuf(&all);
        return Ok(cacheable(respond::build(
            StatusCode::OK,
            OPENAPI_V2_PROTOBUF_SENT,
            Body::from(document),
        )));
    }
    call.accept.plain()?;
    Ok(document(schemas.openapi_v2(&all)))
}

fn document(json: Vec<u8>) -> Response {
    cacheable(respond::build(
        StatusCode::OK,
        "application/json",
        Body::from(json),
    ))
}

fn cacheable(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=600"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", hash())) {
        headers.insert(ETAG, tag);
    }
    response
}

fn all_paths() -> Vec<OpenApiPath> {
    let mut all = paths("", "v1");
    for group in discovery::groups() {
        for version in versions_of(group) {
            all.extend(paths(group, version));
        }
    }
    all
}

fn paths(group: &str, version: &str) -> Vec<OpenApiPath> {
    let root = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let mut all = Vec::new();
    for kind in registry::all().filter(|k| k.group == group && k.version == version) {
        kind_paths(&root, kind, &mut all);
    }
    if group.is_empty() {
        all.push(OpenApiPath {
            path: format!("{root}/namespaces/{{namespace}}/bindings"),
            operations: vec![operation("post", "post", "", "v1", BINDING.kind)],
        });
    }
    for review in Review::ALL.into_iter().filter(|r| r.group() == group) {
        all.push(OpenApiPath {
            path: format!("{root}/{}", review.plural()),
            operations: vec![operation("post", "post", group, version, review.kind())],
        });
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

fn kind_paths(root: &str, kind: &'static Kind, all: &mut Vec<OpenApiPath>) {
    let own = |method, action| operation(method, action, kind.group, kind.version, kind.kind);
    let base = if kind.namespaced() {
        all.push(OpenApiPath {
            path: format!("{root}/{}", kind.plural),
            operations: vec![own("get", "list")],
        });
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let mut collection = vec![own("get", "list"), own("post", "post")];
    if kind.plural != "namespaces" {
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
    for sub in kind.subresources {
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
                Some(operation(method, method, sub.group, sub.version, sub.kind))
            })
            .collect();
        all.push(OpenApiPath {
            path: format!("{base}/{{name}}/{}", sub.name),
            operations,
        });
    }
}
