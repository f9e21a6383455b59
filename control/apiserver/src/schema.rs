// SPDX-License-Identifier: Apache-2.0
//! The API server's door to knarr-schema: from bytes to trees that have the right types.

use bytes::Bytes;
use knarr_schema::{DecodeError, SchemaRef, Schemas, TooSmall};
use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::Kind;
use crate::{ApiError, Reason};

/// Names of a kind that has a schema.
#[derive(Debug, Clone)]
pub(crate) struct SchemaKind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
}

impl From<&Kind> for SchemaKind {
    fn from(kind: &Kind) -> Self {
        Self::new(&kind.group, &kind.version, &kind.kind)
    }
}

impl SchemaKind {
    pub(crate) fn new(group: &str, version: &str, kind: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
        }
    }
}

/// A checked tree, and what was not right but can be overlooked.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// `unknown field "spec.x"`, `duplicate field "spec.y"`.
    pub(crate) problems: Vec<String>,
}

/// The schema of a kind.
pub(crate) fn of(kind: &SchemaKind) -> Result<SchemaRef, ApiError> {
    Schemas::builtin()
        .kind(&kind.group, &kind.version, &kind.kind)
        .ok_or_else(|| ApiError::internal(format!("{} {} has no schema", kind.version, kind.kind)))
}

/// Decodes JSON. Fields that the kind does not have are left out and told.
pub(crate) fn decode(kind: &SchemaKind, json: &[u8]) -> Result<Decoded, ApiError> {
    checked(kind, of(kind)?.decode(json))
}

fn checked(
    kind: &SchemaKind,
    decoded: Result<knarr_schema::Decoded, DecodeError>,
) -> Result<Decoded, ApiError> {
    let decoded = decoded.map_err(|error| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            &kind.kind, &kind.version, &kind.kind
        ))
    })?;
    let mut problems = decoded.unknown;
    problems.extend(decoded.duplicate);
    Ok(Decoded {
        value: decoded.value,
        problems,
    })
}

/// The JSON that a protobuf body would have been.
pub(crate) fn protobuf_as_json(kind: &SchemaKind, body: &[u8]) -> Result<Bytes, ApiError> {
    let refuse = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error}",
            &kind.kind
        ))
    };
    let envelope = knarr_schema::open_envelope(body).map_err(|e| refuse(&e))?;
    if envelope.kind != kind.kind && !envelope.kind.is_empty() {
        // The message has another shape; what the sender says it is will be refused with its own words.
        let named = serde_json::json!({"kind": envelope.kind, "apiVersion": envelope.api_version});
        return Ok(named.to_string().into());
    }
    let decoded = of(kind)?.decode_protobuf(envelope.raw);
    let mut value = decoded.map_err(|e| refuse(&e))?.value;
    value["kind"] = envelope.kind.into();
    value["apiVersion"] = envelope.api_version.into();
    serde_json::to_vec(&value)
        .map(Bytes::from)
        .map_err(ApiError::internal)
}

/// Checks a tree as [`decode`] checks bytes.
pub(crate) fn decode_value(kind: &SchemaKind, value: Value) -> Result<Decoded, ApiError> {
    checked(kind, of(kind)?.decode_value(value))
}

/// Fills in the defaults that upstream's markers give to single fields. What depends on more is the kind's to fill.
pub(crate) fn fill_defaults(kind: &SchemaKind, object: &mut Value) {
    if let Ok(schema) = of(kind) {
        schema.fill_defaults(object);
    }
}

/// Finds numbers that are smaller than upstream's markers allow.
pub(crate) fn check_minimums(kind: &SchemaKind, object: &Value, errors: &mut FieldErrors) {
    for TooSmall {
        path,
        value,
        minimum,
    } in of(kind)
        .map(|schema| schema.too_small(object))
        .unwrap_or_default()
    {
        let detail = format!("must be greater than or equal to {minimum}");
        errors.invalid(&path, value, &detail);
    }
}

/// Applies a strategic merge patch.
pub(crate) fn strategic_merge(
    kind: &SchemaKind,
    current: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    of(kind)?
        .strategic_merge(current, patch)
        .map_err(|error| ApiError::new(Reason::BadRequest, error.to_string()))
}
