// SPDX-License-Identifier: Apache-2.0
//! Responses: bodies that the codec has encoded, Status errors, warnings.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{HeaderName, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};
use serde_json::{Map, Value, json};

use crate::codec::{Format, Pieces};
use crate::schema::SchemaKind;
use crate::{ApiError, Reason};

/// Bytes of one warning, and of all; longer ones are cut, as in kube-apiserver.
const WARNING_BYTES_MAX: usize = 2048;

/// A tree.
pub(crate) fn tree(format: Format, code: StatusCode, body: &Value) -> Response {
    tree_as(format, code, format.media_type(), body)
}

/// A tree with a content type of its own.
pub(crate) fn tree_as(
    format: Format,
    code: StatusCode,
    kind: &'static str,
    body: &Value,
) -> Response {
    match format.tree(body) {
        Ok(encoded) => build(code, kind, Body::from(encoded)),
        // Of the formats, JSON has everything.
        Err(error) => status(Format::Json, &error),
    }
}

/// An object of a kind, whose JSON is encoded already.
pub(crate) fn object(
    format: Format,
    code: StatusCode,
    kind: &SchemaKind,
    json: &Bytes,
) -> Result<Response, ApiError> {
    let body = format.object(kind, json)?;
    Ok(build(code, format.media_type(), Body::from(body)))
}

/// JSON that is indented for everybody, as Kubernetes' `WriteRawJSON`.
pub(crate) fn indented(body: &Value) -> Response {
    tree(Format::PrettyJson, StatusCode::OK, body)
}

/// The answer about a path that nothing serves: Go's `http.NotFound`.
pub(crate) fn no_such_path() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
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

/// A body of many pieces.
pub(crate) fn pieces(format: Format, pieces: Pieces) -> Response {
    let pieces = pieces.finish();
    let body = match pieces.as_slice() {
        [one] => Body::from(one.clone()),
        _ => Body::from_stream(futures::stream::iter(
            pieces.into_iter().map(Ok::<_, Infallible>),
        )),
    };
    build(StatusCode::OK, format.media_type(), body)
}

/// A refusal.
pub(crate) fn status(format: Format, error: &ApiError) -> Response {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if error.reason() == Reason::InternalError {
        tracing::warn!(%error, "a request failed inside");
    }
    let mut response = tree(format, code, &status_tree(error));
    if let Some(seconds) = error.retry_after_seconds() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A refusal as an object. Its members stand in Kubernetes' order: people read it, and clients compare it as text.
pub(crate) fn status_tree(error: &ApiError) -> Value {
    let Status {
        code,
        details,
        message,
        metadata,
        reason,
        status,
    } = error.status();
    let mut body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": metadata,
        "status": status,
        "message": message,
        "reason": reason,
    });
    if let Some(details) = details {
        body["details"] = details_tree(details);
    }
    body["code"] = code.into();
    body
}

fn details_tree(details: StatusDetails) -> Value {
    let StatusDetails {
        causes,
        group,
        kind,
        name,
        retry_after_seconds,
        uid,
    } = details;
    let mut tree = Map::new();
    let texts = [
        ("name", name),
        ("group", group),
        ("kind", kind),
        ("uid", uid),
    ];
    for (member, text) in texts {
        if let Some(text) = text {
            tree.insert(member.to_owned(), text.into());
        }
    }
    if let Some(causes) = causes.filter(|causes| !causes.is_empty()) {
        let causes = causes.into_iter().map(|cause| {
            let mut tree = Map::new();
            let texts = [
                ("reason", cause.reason),
                ("message", cause.message),
                ("field", cause.field),
            ];
            for (member, text) in texts {
                if let Some(text) = text {
                    tree.insert(member.to_owned(), text.into());
                }
            }
            Value::Object(tree)
        });
        tree.insert("causes".to_owned(), causes.collect());
    }
    if let Some(seconds) = retry_after_seconds {
        tree.insert("retryAfterSeconds".to_owned(), seconds.into());
    }
    Value::Object(tree)
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
