// SPDX-License-Identifier: Apache-2.0
//! Responses: JSON or YAML bodies, Status errors, warnings.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};

use super::negotiate::Format;
use crate::{ApiError, Reason};

/// Bytes of a list that go into one piece of the body.
const PIECE_BYTES: usize = 64 * 1024;
/// Bytes of one warning, and of all; longer ones are cut, as in kube-apiserver.
const WARNING_BYTES_MAX: usize = 2048;

/// A JSON tree.
pub(crate) fn tree(format: Format, code: StatusCode, body: &Value) -> Response {
    let json = serde_json::to_vec(body).unwrap_or_default();
    bytes(format, code, json.into())
}

/// JSON that is encoded already.
pub(crate) fn bytes(format: Format, code: StatusCode, json: Bytes) -> Response {
    let (kind, body) = match format {
        Format::Json => ("application/json", json),
        Format::Yaml => {
            let tree: Value = serde_json::from_slice(&json).unwrap_or_default();
            let yaml = serde_yaml_ng::to_string(&tree).unwrap_or_default();
            ("application/yaml", yaml.into())
        }
    };
    build(code, kind, Body::from(body))
}

/// Plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = build(code, "text/plain; charset=utf-8", Body::from(text.into()));
    response.headers_mut().insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A body with a content type.
pub(crate) fn build(code: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A list made of its head, the bytes of its items and its end, without one copy of it all.
pub(crate) fn joined(head: Vec<u8>, items: impl Iterator<Item = Bytes>, tail: &[u8]) -> Response {
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut piece = BytesMut::from(head.as_slice());
    for (index, item) in items.enumerate() {
        if index > 0 {
            piece.extend_from_slice(b",");
        }
        if piece.len() + item.len() > PIECE_BYTES {
            pieces.push(piece.split().freeze());
        }
        if item.len() > PIECE_BYTES {
            pieces.push(item);
        } else {
            piece.extend_from_slice(&item);
        }
    }
    piece.extend_from_slice(tail);
    pieces.push(piece.freeze());
    let body = match pieces.as_slice() {
        [one] => Body::from(one.clone()),
        _ => Body::from_stream(futures::stream::iter(
            pieces.into_iter().map(Ok::<_, Infallible>),
        )),
    };
    build(StatusCode::OK, "application/json", body)
}

/// A refusal.
pub(crate) fn status(error: &ApiError) -> Response {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut body = serde_json::to_value(error.status()).unwrap_or_default();
    // Kubernetes' order of members, for people who read the answer of curl.
    body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": body["status"].take(),
        "message": body["message"].take(),
        "reason": body["reason"].take(),
        "details": body["details"].take(),
        "code": body["code"].take(),
    });
    if body["details"].is_null()
        && let Some(members) = body.as_object_mut()
    {
        members.shift_remove("details");
    }
    if error.reason() == Reason::InternalError {
        tracing::warn!(%error, "a request failed inside");
    }
    let mut response = tree(Format::Json, code, &body);
    if let Some(seconds) = error.retry_after_seconds() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The Status that says something was done.
pub(crate) fn success(
    format: Format,
    code: StatusCode,
    group: &str,
    resource: &str,
    name: &str,
    uid: &str,
) -> Response {
    let mut details = json!({"name": name});
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details["kind"] = resource.into();
    details["uid"] = uid.into();
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    });
    tree(format, code, &body)
}

/// Puts `Warning: 299 - "text"` headers on a response.
pub(crate) fn warn(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let mut text: String = warning
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.len() > WARNING_BYTES_MAX {
            let mut end = WARNING_BYTES_MAX;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}
