// SPDX-License-Identifier: Apache-2.0
//! Lists in strategic merge patches: replaced, united, or merged by key, and put in order.

use serde_json::{Map, Value};

use super::{
    DELETE_FROM, DIRECTIVE, Field, ORDER, PatchError, directive_list, go_text, merge_object,
    unknown_directive,
};
use crate::types::{PatchRule, Type};

/// The list `name` with the changes that `patch` has for it: `changes`, and the directives beside them.
pub(super) fn merge(
    field: Field<'_>,
    current: Vec<Value>,
    changes: &[Value],
    patch: &Map<String, Value>,
    name: &str,
) -> Result<Vec<Value>, PatchError> {
    let item = Field {
        type_: match field.type_ {
            Type::List(item) => item,
            _ => &Type::Any,
        },
        ..field
    };
    let Some(rule) = field.rule.filter(|rule| rule.merge) else {
        return changes.iter().map(|value| clean(item, value)).collect();
    };
    let server = current.clone();
    let order = directive_list(patch, &format!("{ORDER}{name}"), "setElementOrder list")?;
    let same: &dyn Fn(&Value, &Value) -> bool;
    let same_key;
    let merged = match &rule.merge_key {
        None => {
            same = &|a, b| a == b;
            let gone = directive_list(patch, &format!("{DELETE_FROM}{name}"), "primitive list")?;
            unite(current, changes, gone)
        }
        Some(key) => {
            same_key = move |a: &Value, b: &Value| {
                a.get(&**key).is_some() && a.get(&**key) == b.get(&**key)
            };
            same = &same_key;
            merge_by_key(item, rule, key, current, changes)?
        }
    };
    // What the patch names comes in the patch's order, then in that of its directive.
    let merged = in_order(merged, &server, changes, same);
    Ok(match order {
        Some(order) => {
            check_order(changes, order, same)?;
            in_order(merged, &server, order, same)
        }
        None => merged,
    })
}

/// A set of strings or numbers: without those that are gone, with those that are new.
fn unite(mut current: Vec<Value>, changes: &[Value], gone: Option<&[Value]>) -> Vec<Value> {
    if let Some(gone) = gone {
        current.retain(|value| !gone.contains(value));
    }
    for value in changes {
        if !current.contains(value) {
            current.push(value.clone());
        }
    }
    current
}

fn merge_by_key(
    item: Field<'_>,
    rule: &PatchRule,
    key: &str,
    mut current: Vec<Value>,
    changes: &[Value],
) -> Result<Vec<Value>, PatchError> {
    let maps: Vec<(&Value, &Map<String, Value>)> = changes
        .iter()
        .map(|change| match change.as_object() {
            Some(fields) => Ok((change, fields)),
            None => Err(PatchError::NotAMap {
                element: go_text(change),
                key: key.to_owned(),
            }),
        })
        .collect::<Result<_, _>>()?;
    let mut replace = false;
    // Deletions come first, wherever they stand.
    for (change, fields) in &maps {
        match fields.get(DIRECTIVE).map(Value::as_str) {
            None | Some(Some("merge")) => {}
            Some(Some("replace")) => replace = true,
            Some(Some("delete")) => {
                let value = key_of(change, key)?;
                current.retain(|old| old.get(key) != Some(value));
            }
            Some(_) => return Err(unknown_directive(fields)),
        }
    }
    let rest = maps
        .iter()
        .filter(|(_, fields)| match fields.get(DIRECTIVE) {
            None => true,
            Some(directive) => directive == "merge",
        });
    if replace {
        return rest.map(|(change, _)| clean(item, change)).collect();
    }
    for (change, fields) in rest {
        key_of(change, key)?;
        let at = matching(&current, change, rule, key);
        let old = at.and_then(|at| current[at].as_object().cloned());
        let merged = merge_object(item.schemas, item.type_, old.unwrap_or_default(), fields)?;
        match at {
            Some(at) => current[at] = Value::Object(merged),
            None => current.push(Value::Object(merged)),
        }
    }
    Ok(current)
}

fn key_of<'a>(change: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    change.get(key).ok_or_else(|| PatchError::NoMergeKey {
        element: go_text(change),
        key: key.to_owned(),
    })
}

/// The element that a change is meant for: the first with the same merge key. Where several have it, as port 53 for
/// TCP and for UDP, the one that agrees in the list's other keys is preferred; Kubernetes would take the first and so
/// make two UDP ports of them.
fn matching(list: &[Value], change: &Value, rule: &PatchRule, key: &str) -> Option<usize> {
    let same = |old: &Value, key: &str| old.get(key) == change.get(key);
    let agrees = |old: &Value| {
        rule.more_keys
            .iter()
            .all(|key| change.get(&**key).is_none() || same(old, key))
    };
    let mut candidates = (0..list.len()).filter(|at| same(&list[*at], key));
    let first = candidates.next()?;
    if agrees(&list[first]) {
        return Some(first);
    }
    Some(candidates.find(|at| agrees(&list[*at])).unwrap_or(first))
}

/// A value of a patch without directives and nulls.
fn clean(item: Field<'_>, value: &Value) -> Result<Value, PatchError> {
    match value {
        Value::Object(fields) => {
            let merged = merge_object(item.schemas, item.type_, Map::new(), fields)?;
            Ok(Value::Object(merged))
        }
        value => Ok(value.clone()),
    }
}

/// The directive has to name what the list of the patch has, in the same order. Elements with directives of their own
/// need not be named.
fn check_order(
    changes: &[Value],
    order: &[Value],
    same: &dyn Fn(&Value, &Value) -> bool,
) -> Result<(), PatchError> {
    let mut rest = order.iter();
    let in_step = changes
        .iter()
        .filter(|change| change.get(DIRECTIVE).is_none())
        .all(|change| rest.any(|named| same(named, change)));
    if in_step || order.is_empty() {
        return Ok(());
    }
    Err(PatchError::Order {
        patch: go_text(&Value::Array(changes.to_vec())),
        order: go_text(&Value::Array(order.to_vec())),
    })
}

/// Elements that `order` names come in that order; the others keep their place among the server's elements.
fn in_order(
    merged: Vec<Value>,
    server: &[Value],
    order: &[Value],
    same: &dyn Fn(&Value, &Value) -> bool,
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
