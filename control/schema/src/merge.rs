// SPDX-License-Identifier: Apache-2.0
//! Strategic merge patches: JSON merge patches that know which lists are sets or maps.
//!
//! Semantics of Kubernetes' `apimachinery/pkg/util/strategicpatch` (v1.37): directives `$patch`,
//! `$retainKeys`, `$setElementOrder/FIELD`, `$deleteFromPrimitiveList/FIELD`, merge keys from the schema. Lists are
//! in `merge/list.rs`. The result is to be decoded again: a patch may hold anything.

use serde_json::{Map, Value};

use crate::types::{PatchRule, SchemaRef, Schemas, Shape, Type};

mod list;

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
    #[error("unknown patch type: {directive} in map: {map}")]
    Directive {
        /// The value.
        directive: String,
        /// The object that holds it.
        map: String,
    },
    /// A directive is no list, or leaves out what the patch beside it sets: `retainKeys`, `setElementOrder list`,
    /// `primitive list`.
    #[error("invalid patch format of {0}")]
    Format(&'static str),
    /// `$setElementOrder/FIELD` and the list of the field contradict each other.
    #[error("The order in patch list:\n{patch}\n doesn't match {ORDER} list:\n{order}\n")]
    Order {
        /// The list.
        patch: String,
        /// The directive.
        order: String,
    },
    /// A list that is merged by key has an element that is no object.
    #[error("expected a map in a list that is merged by {key}, but received: {element}")]
    NotAMap {
        /// The element.
        element: String,
        /// The key.
        key: String,
    },
    /// An element of a list that is merged by key has no key.
    #[error("map: {element} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The element.
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
        let merged = merge_object(&self.schemas, &Type::Definition(self.index), current, patch)?;
        Ok(Value::Object(merged))
    }
}

/// What a field holds, and how it is merged.
#[derive(Clone, Copy)]
struct Field<'a> {
    schemas: &'a Schemas,
    type_: &'a Type,
    rule: Option<&'a PatchRule>,
}

impl<'a> Field<'a> {
    fn of(schemas: &'a Schemas, type_: &'a Type, name: &str) -> Self {
        let (type_, rule) = match type_ {
            Type::Definition(index) => match &schemas.definition(*index).shape {
                Shape::Object(_) => match schemas.definition(*index).property(name) {
                    Some(property) => (&property.type_, Some(&property.patch)),
                    None => (&Type::Any, None),
                },
                Shape::Other(type_) => (type_, None),
            },
            Type::Map(item) => (&**item, None),
            _ => (&Type::Any, None),
        };
        Self {
            schemas,
            type_,
            rule,
        }
    }
}

/// The list in a directive, as far as there is one. `what` names it in messages.
fn directive_list<'a>(
    patch: &'a Map<String, Value>,
    directive: &str,
    what: &'static str,
) -> Result<Option<&'a [Value]>, PatchError> {
    match patch.get(directive) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(PatchError::Format(what)),
    }
}

fn merge_object(
    schemas: &Schemas,
    type_: &Type,
    mut current: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            let mut whole = patch.clone();
            whole.shift_remove(DIRECTIVE);
            return merge_object(schemas, type_, Map::new(), &whole);
        }
        Some(Some("delete")) => return Ok(Map::new()),
        Some(_) => return Err(unknown_directive(patch)),
    }
    retain_keys(&mut current, patch)?;
    // Lists that the patch only shortens or reorders do not stand in it themselves.
    for key in patch.keys() {
        let name = key
            .strip_prefix(DELETE_FROM)
            .or_else(|| key.strip_prefix(ORDER));
        if let Some(name) = name.filter(|name| !patch.contains_key(*name))
            && let Some(Value::Array(old)) = current.get(name)
        {
            let field = Field::of(schemas, type_, name);
            let merged = list::merge(field, old.clone(), &[], patch, name)?;
            current.insert(name.to_owned(), Value::Array(merged));
        }
    }
    for (name, value) in patch {
        if name.starts_with('$') {
            continue;
        }
        let field = Field::of(schemas, type_, name);
        match value {
            Value::Null => {
                current.shift_remove(name);
            }
            Value::Object(changes) => {
                let replace = field.rule.is_some_and(|rule| rule.replace);
                let old = match current.get(name) {
                    Some(Value::Object(old)) if !replace => old.clone(),
                    _ => Map::new(),
                };
                let merged = merge_object(schemas, field.type_, old, changes)?;
                current.insert(name.clone(), Value::Object(merged));
            }
            Value::Array(changes) => {
                let old = match current.get(name) {
                    Some(Value::Array(old)) => old.clone(),
                    _ => Vec::new(),
                };
                let merged = list::merge(field, old, changes, patch, name)?;
                current.insert(name.clone(), Value::Array(merged));
            }
            scalar => {
                current.insert(name.clone(), scalar.clone());
            }
        }
    }
    Ok(current)
}

fn unknown_directive(patch: &Map<String, Value>) -> PatchError {
    PatchError::Directive {
        directive: patch.get(DIRECTIVE).map(go_text).unwrap_or_default(),
        map: go_text(&Value::Object(patch.clone())),
    }
}

/// Drops what `$retainKeys` does not name. Whatever the patch sets has to be named.
fn retain_keys(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    let Some(retained) = directive_list(patch, RETAIN_KEYS, "retainKeys")? else {
        return Ok(());
    };
    let named = |key: &str| retained.iter().any(|kept| kept == key);
    let all_named = patch
        .iter()
        .filter(|(key, value)| !value.is_null() && !key.starts_with('$'))
        .all(|(key, _)| named(key));
    if !all_named {
        return Err(PatchError::Format("retainKeys"));
    }
    current.retain(|key, _| named(key));
    Ok(())
}

/// A value as Go prints it, for messages.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(go_text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            let fields: Vec<String> = fields
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
