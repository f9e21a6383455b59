// SPDX-License-Identifier: Apache-2.0
//! The API server's door to knarr-schema: from bytes to trees that have the right types.

use knarr_schema::{SchemaRef, Schemas};
use serde_json::Value;

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
        Self::new(kind.group, kind.version, kind.kind)
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

fn schema(kind: &SchemaKind) -> Result<SchemaRef, ApiError> {
    Schemas::builtin()
        .kind(&kind.group, &kind.version, &kind.kind)
        .ok_or_else(|| ApiError::internal(format!("{} {} has no schema", kind.version, kind.kind)))
}

/// Decodes JSON. Fields that the kind does not have are left out and told.
pub(crate) fn decode(kind: &SchemaKind, json: &[u8]) -> Result<Decoded, ApiError> {
    let decoded = schema(kind)?.decode(json).map_err(|error| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {error}",
            kind.kind, kind.version, kind.kind
        ))
    })?;
    let mut problems = decoded.unknown;
    problems.extend(decoded.duplicate);
    Ok(Decoded {
        value: decoded.value,
        problems,
    })
}

/// Checks a tree as [`decode`] checks bytes.
pub(crate) fn decode_value(kind: &SchemaKind, value: Value) -> Result<Decoded, ApiError> {
    let bytes = serde_json::to_vec(&value).map_err(ApiError::internal)?;
    decode(kind, &bytes)
}

/// Applies a strategic merge patch.
pub(crate) fn strategic_merge(
    kind: &SchemaKind,
    current: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    schema(kind)?
        .strategic_merge(current, patch)
        .map_err(|error| ApiError::new(Reason::BadRequest, error.to_string()))
}
