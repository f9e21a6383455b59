// SPDX-License-Identifier: Apache-2.0
//! What a patch makes of an object: JSON patch, merge patch and strategic merge patch.
//!
//! Pure; `verbs` calls it inside its compare-and-swap loop, once for each attempt.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails;
use serde_json::Value;

use crate::registry::Kind;
use crate::schema::{self, SchemaKind};
use crate::{ApiError, Reason};

mod json;

/// A change of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// RFC 6902, an array of operations.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge patch.
    Strategic(Value),
}

/// A patched object, and what the schema did not know of it.
#[derive(Debug, Clone)]
pub(crate) struct Patched {
    pub(crate) object: Value,
    /// `unknown field "spec.x"` and the like.
    pub(crate) problems: Vec<String>,
}

/// Applies a patch to an object of a registry kind.
pub(crate) fn apply(kind: &Kind, current: &Value, patch: &Patch) -> Result<Patched, ApiError> {
    apply_to(&kind.schema, current, patch)
}

/// Applies a patch to an object of any kind that has a schema.
pub(crate) fn apply_to(
    kind: &SchemaKind,
    current: &Value,
    patch: &Patch,
) -> Result<Patched, ApiError> {
    let patched = match patch {
        Patch::Json(operations) => json::apply(current, operations)?,
        Patch::Merge(change) => {
            object_only(change)?;
            let mut object = current.clone();
            json_patch::merge(&mut object, change);
            object
        }
        Patch::Strategic(change) => {
            object_only(change)?;
            schema::strategic_merge(kind, current, change)?
        }
    };
    let decoded = schema::decode_value(kind, patched)?;
    Ok(Patched {
        object: decoded.value,
        problems: decoded.problems,
    })
}

fn object_only(change: &Value) -> Result<(), ApiError> {
    if change.is_object() {
        return Ok(());
    }
    let go = match change {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        _ => "null",
    };
    Err(ApiError::bad_request(format!(
        "json: cannot unmarshal {go} into Go value of type map[string]interface {{}}"
    )))
}

/// 422 as Kubernetes answers a patch that does not fit the object, with what does not fit.
fn rejected(cause: &str) -> ApiError {
    let mut error = ApiError::new(
        Reason::Invalid,
        format!("the server rejected our request due to an error in our request: {cause}"),
    );
    // kubectl shows the message only where there are details, and no causes in them.
    error.set_details(StatusDetails::default());
    error
}

#[cfg(test)]
mod tests;
