// SPDX-License-Identifier: Apache-2.0
//! Request bodies: bounded, JSON or YAML, of the right kind.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::Value;
use sync_wrapper::SyncWrapper;

use super::options::{FieldValidation, Problems};
use crate::codec::{BODY_BYTES_MAX, Format, JSON, PROTOBUF, YAML};
use crate::schema::{self, SchemaKind};
use crate::{ApiError, Reason};

/// What is read of a larger body, and thrown away. A client that has not sent all of it when the connection is closed may
/// never see the answer that says why.
const DISCARDED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a body that an error shows.
const SUMMARY_BYTES_MAX: usize = 30;

/// A body that is not read yet. The wrapper makes the request shareable between threads, which a body by itself is not.
#[derive(Debug)]
pub(crate) struct Unread(SyncWrapper<Body>);

impl From<Body> for Unread {
    fn from(body: Body) -> Self {
        Self(SyncWrapper::new(body))
    }
}

/// Reads a body up to the limit.
pub(crate) async fn read(body: Unread) -> Result<Bytes, ApiError> {
    let mut read = BytesMut::new();
    let mut body = body.0.into_inner();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| ApiError::bad_request(format!("cannot read the body: {e}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if read.len() + data.len() > BODY_BYTES_MAX {
            drop(read);
            discard(body).await;
            return Err(ApiError::new(
                Reason::RequestEntityTooLarge,
                format!("Request entity too large: limit is {BODY_BYTES_MAX}"),
            ));
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARDED_BYTES_MAX {
            return;
        }
    }
}

/// The media type without parameters.
pub(crate) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The body as JSON bytes. A protobuf body is read as `kind`.
pub(crate) fn as_json(
    kind: &SchemaKind,
    content_type: &str,
    body: Bytes,
) -> Result<Bytes, ApiError> {
    match Format::of_body(media_type(content_type)) {
        Some(format) => format.decode(kind, body),
        None => Err(unsupported(&format!("{JSON}, {YAML}, {PROTOBUF}"))),
    }
}

/// 415 naming what is understood.
pub(crate) fn unsupported(accepted: &str) -> ApiError {
    ApiError::new(
        Reason::UnsupportedMediaType,
        format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        ),
    )
}

/// Decodes an object of `kind`. What the kind does not know is refused or told, as the request wishes.
pub(crate) fn decode(
    kind: &SchemaKind,
    json: &Bytes,
    validation: FieldValidation,
    problems: &mut Problems,
) -> Result<Value, ApiError> {
    let decoded = schema::decode(kind, json);
    match &decoded {
        // Most bodies are right, and then the tree says what they are. Of `null` the schema makes an empty object.
        Ok(right)
            if right.problems.is_empty()
                && right.value.is_object()
                && json.trim_ascii_start().starts_with(b"{") =>
        {
            let text = |name| right.value[name].as_str().unwrap_or_default();
            check_names(kind, text("kind"), text("apiVersion"))?;
        }
        _ => check_type(kind, json)?,
    }
    let decoded = decoded?;
    if !decoded.problems.is_empty() {
        let prefix = format!(
            "{} in version {:?} cannot be handled as a {}: ",
            &kind.kind, &kind.version, &kind.kind
        );
        problems.add(decoded.problems, validation, &prefix)?;
    }
    let mut value = decoded.value;
    value["kind"] = (&*kind.kind).into();
    value["apiVersion"] = api_version(kind).into();
    Ok(value)
}

fn api_version(kind: &SchemaKind) -> String {
    crate::registry::group_version(&kind.group, &kind.version)
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
struct TypeMeta {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    api_version: Option<String>,
}

/// The body says it is what the path takes; saying nothing is fine.
fn check_type(kind: &SchemaKind, json: &[u8]) -> Result<(), ApiError> {
    let named: TypeMeta = serde_json::from_slice(json).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {error} ({})",
            &kind.kind,
            summary(json)
        ))
    })?;
    let sent_kind = named.kind.unwrap_or_default();
    let sent_version = named.api_version.unwrap_or_default();
    check_names(kind, &sent_kind, &sent_version)
}

fn check_names(kind: &SchemaKind, sent_kind: &str, sent_version: &str) -> Result<(), ApiError> {
    let expected = api_version(kind);
    if !sent_version.is_empty() && sent_version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({sent_version}) does not match the expected API version ({expected})"
        )));
    }
    if !sent_kind.is_empty() && sent_kind != kind.kind {
        return Err(ApiError::bad_request(format!(
            "{sent_kind} in version {:?} cannot be handled as a {}: no kind {sent_kind:?} is served at this path",
            &kind.version, &kind.kind
        )));
    }
    Ok(())
}

/// The start of a body, as kube-apiserver shows it.
fn summary(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SUMMARY_BYTES_MAX)];
    let dots = if body.len() > SUMMARY_BYTES_MAX {
        " ..."
    } else {
        ""
    };
    match std::str::from_utf8(shown) {
        Ok(text) if text.starts_with('{') => format!("{text}{dots}"),
        _ => {
            let hex: String = shown.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{dots}")
        }
    }
}
