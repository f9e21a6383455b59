// SPDX-License-Identifier: Apache-2.0
//! Strategic merge patches: JSON merge patches that know which lists are sets or maps.
//!
//! Semantics of Kubernetes' `apimachinery/pkg/util/strategicpatch` (v1.37): directives `$patch`,
//! `$retainKeys`, `$setElementOrder/FIELD`, `$deleteFromPrimitiveList/FIELD`, merge keys from the schema.

use serde_json::{Map, Value};

use crate::types::{PatchRule, SchemaRef, Schemas, Shape, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// A patch that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is no object.
    #[error("a strategic merge patch must be a JSON object")]
    NotAnObject,
    /// `$patch` has a value that is none of `merge`, `replace`, `delete`.
    #[error("unrecognized patch type: {0}")]
    Directive(String),
    /// A directive's value has the wrong form.
    #[error("{field}: the value of this directive must be a list")]
    DirectiveForm {
        /// The directive's field.
        field: String,
    },
    /// An element of a list that is merged by key has no key.
    #[error("map: {element} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The element as JSON.
        element: String,
        /// The key it lacks.
        key: String,
    },
}

impl SchemaRef {
    /// `current` with `patch` applied; neither is changed.
    pub fn strategic_merge(&self, current: &Value, patch: &Value) -> Result<Value, PatchError> {
        let patch = patch.as_object().ok_or(PatchError::NotAnObject)?;
        let empty = Map::new();
        let current = current.as_object().unwrap_or(&empty).clone();
        let merged = merge_object(self.schemas, &Type::Definition(self.index), current, patch)?;
        Ok(Value::Object(merged))
    }
}

fn rule_of<'a>(
    schemas: &'a Schemas,
    type_: &'a Type,
    field: &str,
) -> (&'a Type, Option<&'a PatchRule>) {
    match type_ {
        Type::Definition(index) => match &schemas.definition(*index).shape {
            Shape::Object(_) => match schemas.definition(*index).property(field) {
                Some(property) => (&property.type_, Some(&property.patch)),
                None => (&Type::Any, None),
            },
            Shape::Other(type_) => (type_, None),
        },
        Type::Map(item) => (item, None),
        _ => (&Type::Any, None),
    }
}

fn list_of<'a>(
    object: &'a Map<String, Value>,
    field: &str,
) -> Result<Option<&'a Vec<Value>>, PatchError> {
    match object.get(field) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(PatchError::DirectiveForm {
            field: field.to_owned(),
        }),
    }
}

fn merge_object(
    schemas: &Schemas,
    type_: &Type,
    mut current: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, PatchError> {
    match patch
        .get(DIRECTIVE)
        .map(|value| value.as_str().unwrap_or_default())
    {
        None | Some("merge") => {}
        Some("replace") => {
            let mut whole = patch.clone();
            whole.shift_remove(DIRECTIVE);
            return merge_object(schemas, type_, Map::new(), &whole);
        }
        Some("delete") => return Ok(Map::new()),
        Some(other) => return Err(PatchError::Directive(other.to_owned())),
    }
    if let Some(retained) = list_of(patch, RETAIN_KEYS)? {
        current.retain(|key, _| retained.iter().any(|kept| kept == key));
    }
    // Lists that the patch only shortens or reorders do not stand in it themselves.
    for key in patch.keys() {
        let field = key
            .strip_prefix(DELETE_FROM)
            .or_else(|| key.strip_prefix(ORDER));
        if let Some(field) = field.filter(|field| !patch.contains_key(*field)) {
            let (field_type, rule) = rule_of(schemas, type_, field);
            if let Some(Value::Array(list)) = current.get(field) {
                let list = merge_list(schemas, field_type, rule, list.clone(), &[], patch, field)?;
                current.insert(field.to_owned(), Value::Array(list));
            }
        }
    }
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        let (field_type, rule) = rule_of(schemas, type_, key);
        match value {
            Value::Null => {
                current.shift_remove(key);
            }
            Value::Object(changes) => {
                let replace = rule.is_some_and(|rule| rule.replace);
                let old = match current.get(key) {
                    Some(Value::Object(old)) if !replace => old.clone(),
                    _ => Map::new(),
                };
                let merged = merge_object(schemas, field_type, old, changes)?;
                current.insert(key.clone(), Value::Object(merged));
            }
            Value::Array(changes) => {
                let old = match current.get(key) {
                    Some(Value::Array(old)) => old.clone(),
                    _ => Vec::new(),
                };
                let merged = merge_list(schemas, field_type, rule, old, changes, patch, key)?;
                current.insert(key.clone(), Value::Array(merged));
            }
            scalar => {
                current.insert(key.clone(), scalar.clone());
            }
        }
    }
    Ok(current)
}

fn merge_list(
    schemas: &Schemas,
    type_: &Type,
    rule: Option<&PatchRule>,
    mut current: Vec<Value>,
    changes: &[Value],
    patch: &Map<String, Value>,
    field: &str,
) -> Result<Vec<Value>, PatchError> {
    let any = Type::Any;
    let item = match type_ {
        Type::List(item) => &**item,
        _ => &any,
    };
    let Some(rule) = rule.filter(|rule| rule.merge) else {
        return changes
            .iter()
            .map(|value| clean(schemas, item, value))
            .collect();
    };
    let server_order = current.clone();
    let order = list_of(patch, &format!("{ORDER}{field}"))?;
    match &rule.merge_key {
        None => {
            if let Some(gone) = list_of(patch, &format!("{DELETE_FROM}{field}"))? {
                current.retain(|value| !gone.contains(value));
            }
            for value in changes {
                if !current.contains(value) {
                    current.push(value.clone());
                }
            }
            if let Some(order) = order {
                current = ordered(current, &server_order, order, |a, b| a == b);
            }
        }
        Some(key) => {
            current = merge_by_key(schemas, item, key, current, changes)?;
            if let Some(order) = order {
                current = ordered(current, &server_order, order, |a, b| {
                    a.get(&**key).is_some() && a.get(&**key) == b.get(&**key)
                });
            }
        }
    }
    Ok(current)
}

fn merge_by_key(
    schemas: &Schemas,
    item: &Type,
    key: &str,
    mut current: Vec<Value>,
    changes: &[Value],
) -> Result<Vec<Value>, PatchError> {
    let directive = |change: &Value| {
        change
            .get(DIRECTIVE)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    if changes
        .iter()
        .any(|change| directive(change).as_deref() == Some("replace"))
    {
        let kept = changes.iter().filter(|change| directive(change).is_none());
        return kept.map(|value| clean(schemas, item, value)).collect();
    }
    for change in changes {
        let fields = change.as_object();
        let (Some(fields), Some(value)) = (fields, change.get(key)) else {
            return Err(PatchError::NoMergeKey {
                element: change.to_string(),
                key: key.to_owned(),
            });
        };
        let same = |old: &Value| old.get(key) == Some(value);
        match directive(change).as_deref() {
            Some("delete") => current.retain(|old| !same(old)),
            None | Some("merge") => {
                let at = current.iter().position(same);
                let old = at.and_then(|at| current[at].as_object().cloned());
                let merged = merge_object(schemas, item, old.unwrap_or_default(), fields)?;
                match at {
                    Some(at) => current[at] = Value::Object(merged),
                    None => current.push(Value::Object(merged)),
                }
            }
            Some(other) => return Err(PatchError::Directive(other.to_owned())),
        }
    }
    Ok(current)
}

/// A value of a patch without directives and nulls.
fn clean(schemas: &Schemas, type_: &Type, value: &Value) -> Result<Value, PatchError> {
    match value {
        Value::Object(fields) => {
            let merged = merge_object(schemas, type_, Map::new(), fields)?;
            Ok(Value::Object(merged))
        }
        value => Ok(value.clone()),
    }
}

/// Elements that `order` names come in that order; the others keep their place among the server's elements.
fn ordered(
    merged: Vec<Value>,
    server: &[Value],
    order: &[Value],
    same: impl Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let position = |list: &[Value], value: &Value| list.iter().position(|other| same(other, value));
    let (mut named, others): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|value| position(order, value).is_some());
    named.sort_by_key(|value| position(order, value));
    let mut result: Vec<Value> = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        let at = position(server, &other);
        while let Some(next) = named.peek() {
            match (position(server, next), at) {
                (Some(next_at), Some(at)) if next_at > at => break,
                _ => result.extend(named.next()),
            }
        }
        result.push(other);
    }
    result.extend(named);
    result
}

#[cfg(test)]
mod tests;
