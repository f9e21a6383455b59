// SPDX-License-Identifier: Apache-2.0
//! Small steps on JSON trees that the kinds' defaults and validation are written with.
//!
//! Trees come from the schema, so types are right; these helpers treat a wrong type as absent.

use serde_json::{Map, Value};

/// The value at a dotted path, `None` where a step is missing or null.
pub(crate) fn at<'a>(tree: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(tree, |value, step| value.get(step))
        .filter(|v| !v.is_null())
}

/// The text at a path, "" where there is none.
pub(crate) fn text<'a>(tree: &'a Value, path: &str) -> &'a str {
    at(tree, path).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a path.
pub(crate) fn int(tree: &Value, path: &str) -> Option<i64> {
    at(tree, path).and_then(Value::as_i64)
}

/// Whether the boolean at a path is true.
pub(crate) fn is_true(tree: &Value, path: &str) -> bool {
    at(tree, path).and_then(Value::as_bool).unwrap_or_default()
}

/// The array at a path, empty where there is none.
pub(crate) fn items<'a>(tree: &'a Value, path: &str) -> &'a [Value] {
    at(tree, path)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// The members of the object at a path.
pub(crate) fn members<'a>(
    tree: &'a Value,
    path: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    at(tree, path)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
}

/// The object at a path for change.
pub(crate) fn members_mut<'a>(
    tree: &'a mut Value,
    path: &str,
) -> Option<&'a mut Map<String, Value>> {
    at_mut(tree, path).and_then(Value::as_object_mut)
}

/// The array at a path for change.
pub(crate) fn items_mut<'a>(
    tree: &'a mut Value,
    path: &str,
) -> impl Iterator<Item = &'a mut Value> {
    at_mut(tree, path)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// The value at a path for change.
pub(crate) fn at_mut<'a>(tree: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.')
        .try_fold(tree, |value, step| value.get_mut(step))
        .filter(|v| !v.is_null())
}

/// Sets the value at a path, making the objects on the way.
pub(crate) fn set(tree: &mut Value, path: &str, value: impl Into<Value>) {
    let mut place = tree;
    for step in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        // The line above made it an object, so indexing by a key cannot panic.
        place = &mut place[step];
    }
    *place = value.into();
}

/// Sets the value at a path where there is none or null.
pub(crate) fn default(tree: &mut Value, path: &str, value: impl Into<Value>) {
    if at(tree, path).is_none() {
        set(tree, path, value);
    }
}

/// Sets the text at a path where there is none or an empty one.
pub(crate) fn default_text(tree: &mut Value, path: &str, value: &str) {
    if text(tree, path).is_empty() {
        set(tree, path, value);
    }
}

/// Takes the value at a path out.
pub(crate) fn remove(tree: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = match path.rsplit_once('.') {
        Some((parent, name)) => (at_mut(tree, parent)?, name),
        None => (tree, path),
    };
    parent.as_object_mut()?.shift_remove(name)
}

/// Makes the value at a path of `to` that of `from`, absent where it is absent there.
pub(crate) fn copy(to: &mut Value, from: &Value, path: &str) {
    match at(from, path) {
        Some(value) => set(to, path, value.clone()),
        None => {
            remove(to, path);
        }
    }
}

/// Whether both trees have the same at a path; null, absent and empty are the same.
pub(crate) fn same(a: &Value, b: &Value, path: &str) -> bool {
    fn given(value: Option<&Value>) -> Option<&Value> {
        value.filter(|v| match v {
            Value::Array(items) => !items.is_empty(),
            Value::Object(members) => !members.is_empty(),
            _ => true,
        })
    }
    given(at(a, path)) == given(at(b, path))
}

#[cfg(test)]
mod tests;
