// SPDX-License-Identifier: Apache-2.0
//! JSON patch (RFC 6902) within bounds: a body of a few hundred bytes must not be able to fill the memory.
//!
//! Called by `patch`. What the bounds are for: `copy` doubles an object with every operation, and `move` and `copy`
//! nest it deeper with every operation.

use std::io;

use json_patch::{MoveOperation, PatchOperation};
use serde::Deserialize as _;
use serde_json::Value;

use super::rejected;
use crate::{ApiError, Reason};

/// Operations of one patch, as kube-apiserver's `maxJSONPatchOperations`.
const OPERATIONS_MAX: usize = 10_000;
/// Bytes of JSON that the copies of one patch come to together: what could have been sent in a body instead, as
/// kube-apiserver's `JSONPatchMaxCopyBytes`.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Arrays and objects inside each other: the deepest JSON that `serde_json` reads. Nothing deeper could be read again
/// once it is stored, and trees are walked by recursion, which on a tree of any depth ends the whole program.
const LEVELS_MAX: usize = 127;

/// Values that the moves of one patch to deeper places may go over together, because how deep they end is looked up
/// anew for each: as many as a body can bring, where a value takes two bytes or more.
const MOVED_VALUES_MAX: usize = 3 * 1024 * 1024 / 2;

/// What a patch makes of `current`.
pub(super) fn apply(current: &Value, operations: &Value) -> Result<Value, ApiError> {
    let patch = json_patch::Patch::deserialize(operations)
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    if patch.len() > OPERATIONS_MAX {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
                patch.len()
            ),
        ));
    }
    let mut object = current.clone();
    let mut copied_bytes = 0;
    let mut moved_values = 0;
    for (index, operation) in patch.iter().enumerate() {
        if let PatchOperation::Move(moved) = operation
            && let Some(source) = deepened(&object, moved)
        {
            moved_values += values(source, MOVED_VALUES_MAX - moved_values);
            if moved_values > MOVED_VALUES_MAX {
                return Err(rejected(&format!(
                    "Unable to complete the move, the moves to deeper places go over more than {MOVED_VALUES_MAX} values together: send the changed object instead"
                )));
            }
        }
        check_levels(&object, operation)?;
        if let PatchOperation::Copy(copy) = operation
            && let Some(source) = object.pointer(copy.from.as_str())
        {
            copied_bytes += json_bytes(source);
            if copied_bytes > COPIED_BYTES_MAX {
                return Err(rejected(&format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {COPIED_BYTES_MAX}"
                )));
            }
        }
        // Nothing has to be undone after an error: the object is a copy, and nobody gets it.
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(operation)).map_err(
            |mut error| {
                error.operation = index;
                rejected(&error.to_string())
            },
        )?;
    }
    Ok(object)
}

/// Refuses an operation that puts something where it ends deeper than allowed. A source that is not there is left to
/// the operation itself.
fn check_levels(object: &Value, operation: &PatchOperation) -> Result<(), ApiError> {
    let put = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
        PatchOperation::Move(moved) => deepened(object, moved),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    match put {
        Some(value) if operation.path().count() + levels(value) > LEVELS_MAX => {
            Err(rejected(&format!(
                "the object at path '{}' nests deeper than {LEVELS_MAX} levels",
                operation.path()
            )))
        }
        _ => Ok(()),
    }
}

/// What ends deeper than it was; of anything else that moves, no look at all of it is needed.
fn deepened<'a>(object: &'a Value, moved: &MoveOperation) -> Option<&'a Value> {
    (moved.path.count() > moved.from.count())
        .then(|| object.pointer(moved.from.as_str()))
        .flatten()
}

/// How many values there are in one, itself included; counted up to one more than `max`.
fn values(value: &Value, max: usize) -> usize {
    fn add<'a>(inner: impl Iterator<Item = &'a Value>, max: usize) -> usize {
        let mut count = 1;
        for value in inner {
            if count > max {
                break;
            }
            count += values(value, max - count);
        }
        count
    }
    match value {
        Value::Array(items) => add(items.iter(), max),
        Value::Object(members) => add(members.values(), max),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// How many arrays and objects are inside each other. No tree that gets here has more than [`LEVELS_MAX`].
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The length of a value as JSON, which is counted and not kept.
fn json_bytes(value: &Value) -> usize {
    let mut count = Count(0);
    // Counting cannot fail, and the keys of a tree are strings.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
