// SPDX-License-Identifier: Apache-2.0
//! What upstream's markers say of single fields: defaults (`+default`) and minimums (`+k8s:minimum`).
//!
//! Few fields have any, so the rules stand beside the definitions and not in them. Defaults that depend on other fields
//! are no markers; the API server's kinds have those. Called by the API server for everything that is written.

use std::collections::HashMap;

use serde_json::Value;

use super::{Definition, Index, SchemaRef, Schemas, Shape, Type};

/// The rules of one definition's fields.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) defaults: Vec<(Box<str>, Value)>,
    pub(crate) minimums: Vec<(Box<str>, i64)>,
}

impl Rules {
    /// Those of a definition's JSON, where it has some. A default that is Go's zero anyhow is none.
    pub(crate) fn read(definition: &Definition, schema: &Value) -> Option<Self> {
        let mut rules = Self::default();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let property = definition.property(name);
            let default = field.get("x-knarr-default");
            let default = default.filter(|value| property.is_some_and(|p| !p.says_nothing(value)));
            if let Some(default) = default {
                rules.defaults.push((name.as_str().into(), default.clone()));
            }
            if let Some(minimum) = field["x-knarr-minimum"].as_i64() {
                rules.minimums.push((name.as_str().into(), minimum));
            }
        }
        let some = !(rules.defaults.is_empty() && rules.minimums.is_empty());
        some.then_some(rules)
    }
}

/// The rules of all definitions.
#[derive(Debug, Default)]
pub(crate) struct AllRules {
    by_definition: HashMap<Index, Rules>,
    /// For each definition, whether it has rules or is made of parts that do.
    leads: Box<[bool]>,
}

/// A number that is smaller than its field's minimum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooSmall {
    /// `spec.replicas`
    pub path: String,
    /// What stands there.
    pub value: i64,
    /// What has to stand there at least.
    pub minimum: i64,
}

impl AllRules {
    /// From the rules of each definition that has some.
    pub(crate) fn new(definitions: &[Definition], by_definition: HashMap<Index, Rules>) -> Self {
        let mut leads = vec![false; definitions.len()];
        for index in by_definition.keys() {
            leads[*index as usize] = true;
        }
        // Each round goes one level further up, until nothing is new.
        loop {
            let mut more = false;
            for (at, definition) in definitions.iter().enumerate() {
                let Shape::Object(properties) = &definition.shape else {
                    continue;
                };
                let part = |type_: &Type| target(type_).is_some_and(|part| leads[part as usize]);
                if !leads[at] && properties.iter().any(|p| part(&p.type_)) {
                    leads[at] = true;
                    more = true;
                }
            }
            if !more {
                break;
            }
        }
        Self {
            by_definition,
            leads: leads.into(),
        }
    }

    fn leads(&self, type_: &Type) -> bool {
        let leads = target(type_).and_then(|index| self.leads.get(index as usize));
        leads.copied().unwrap_or(false)
    }
}

/// The definition that a field, its items or its entries have.
fn target(type_: &Type) -> Option<Index> {
    match type_ {
        Type::Definition(index) => Some(*index),
        Type::List(item) | Type::Map(item) => target(item),
        _ => None,
    }
}

impl SchemaRef {
    /// Fills in the defaults of fields that were left out. Nothing is made only to hold a default.
    pub fn fill_defaults(&self, object: &mut Value) {
        fill(&self.schemas, &Type::Definition(self.index), object);
    }

    /// Numbers that are too small, in the order of the fields' names.
    pub fn too_small(&self, object: &Value) -> Vec<TooSmall> {
        let mut found = Vec::new();
        let type_ = Type::Definition(self.index);
        // Nearly always there is none, and then no path needs to be written.
        if !any_too_small(&self.schemas, &type_, object) {
            return found;
        }
        check(&self.schemas, &type_, object, String::new(), &mut found);
        found
    }
}

fn fill(schemas: &Schemas, type_: &Type, value: &mut Value) {
    if !schemas.rules.leads(type_) {
        return;
    }
    match (type_, value) {
        (Type::List(item), Value::Array(list)) => {
            list.iter_mut().for_each(|value| fill(schemas, item, value));
        }
        (Type::Map(item), Value::Object(map)) => {
            map.values_mut()
                .for_each(|value| fill(schemas, item, value));
        }
        (Type::Definition(index), Value::Object(object)) => {
            let definition = schemas.definition(*index);
            let rules = schemas.rules.by_definition.get(index);
            for (name, default) in rules.iter().flat_map(|rules| &rules.defaults) {
                // Go's zero is as good as nothing, except in a pointer.
                let says = |value: &Value| {
                    let property = definition.property(name);
                    !value.is_null() && property.is_some_and(|p| !p.says_nothing(value))
                };
                if !object.get(&**name).is_some_and(says) {
                    object.insert(name.to_string(), default.clone());
                }
            }
            // An object has few of its definition's fields.
            for (name, value) in object {
                if let Some(property) = definition.property(name) {
                    fill(schemas, &property.type_, value);
                }
            }
        }
        _ => {}
    }
}

fn any_too_small(schemas: &Schemas, type_: &Type, value: &Value) -> bool {
    if !schemas.rules.leads(type_) {
        return false;
    }
    match (type_, value) {
        (Type::List(item), Value::Array(list)) => {
            list.iter().any(|value| any_too_small(schemas, item, value))
        }
        (Type::Map(item), Value::Object(map)) => map
            .values()
            .any(|value| any_too_small(schemas, item, value)),
        (Type::Definition(index), Value::Object(object)) => {
            let definition = schemas.definition(*index);
            let rules = schemas.rules.by_definition.get(index);
            let minimums = rules.map(|rules| rules.minimums.as_slice());
            object.iter().any(|(name, value)| {
                let is_below = |(of, minimum): &(Box<str>, i64)| {
                    **of == **name && value.as_i64().is_some_and(|number| number < *minimum)
                };
                minimums.is_some_and(|minimums| minimums.iter().any(is_below))
                    || definition
                        .property(name)
                        .is_some_and(|p| any_too_small(schemas, &p.type_, value))
            })
        }
        _ => false,
    }
}

fn check(schemas: &Schemas, type_: &Type, value: &Value, path: String, found: &mut Vec<TooSmall>) {
    if !schemas.rules.leads(type_) {
        return;
    }
    match (type_, value) {
        (Type::List(item), Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                check(schemas, item, value, format!("{path}[{index}]"), found);
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for (key, value) in map {
                check(schemas, item, value, format!("{path}[{key}]"), found);
            }
        }
        (Type::Definition(index), Value::Object(object)) => {
            let inside = |name: &str| match path.as_str() {
                "" => name.to_owned(),
                path => format!("{path}.{name}"),
            };
            let rules = schemas.rules.by_definition.get(index);
            for (name, minimum) in rules.iter().flat_map(|rules| &rules.minimums) {
                let number = object.get(&**name).and_then(Value::as_i64);
                if let Some(value) = number.filter(|number| number < minimum) {
                    found.push(TooSmall {
                        path: inside(name),
                        value,
                        minimum: *minimum,
                    });
                }
            }
            let Shape::Object(properties) = &schemas.definition(*index).shape else {
                return;
            };
            for property in properties.iter().filter(|p| schemas.rules.leads(&p.type_)) {
                if let Some(value) = object.get(&*property.name) {
                    check(
                        schemas,
                        &property.type_,
                        value,
                        inside(&property.name),
                        found,
                    );
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
