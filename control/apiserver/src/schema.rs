// SPDX-License-Identifier: Apache-2.0
//! The API server's door to knarr-schema: from bytes to trees that have the right types.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use knarr_schema::{DecodeError, SchemaRef, Schemas, TooSmall};
use serde_json::Value;

use crate::field::FieldErrors;
use crate::{ApiError, Reason};

/// Names of a kind, and its schema. Found once, when the kind is made, so that a request neither searches nor allocates.
#[derive(Debug, Clone)]
pub(crate) struct SchemaKind {
    pub(crate) group: Cow<'static, str>,
    pub(crate) version: Cow<'static, str>,
    pub(crate) kind: Cow<'static, str>,
    /// `None` where the schemas do not have the kind.
    schema: Option<SchemaRef>,
}

impl SchemaKind {
    /// A kind that `schemas` have.
    pub(crate) fn of(
        schemas: &Arc<Schemas>,
        group: impl Into<Cow<'static, str>>,
        version: impl Into<Cow<'static, str>>,
        kind: impl Into<Cow<'static, str>>,
    ) -> Self {
        let (group, version, kind) = (group.into(), version.into(), kind.into());
        Self {
            schema: schemas.kind(&group, &version, &kind),
            group,
            version,
            kind,
        }
    }

    /// A kind that is built in.
    pub(crate) fn builtin(
        group: impl Into<Cow<'static, str>>,
        version: impl Into<Cow<'static, str>>,
        kind: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::of(&Schemas::builtin(), group, version, kind)
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
pub(crate) fn of(kind: &SchemaKind) -> Result<&SchemaRef, ApiError> {
    let schema = kind.schema.as_ref();
    schema
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
    if !of(kind)?.has_message() {
        return Err(ApiError::new(
            Reason::UnsupportedMediaType,
            format!("{} has no protobuf message, send JSON or YAML", &kind.kind),
        ));
    }
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
