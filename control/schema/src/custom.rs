// SPDX-License-Identifier: Apache-2.0
//! Schemas of kinds that are not built in: made while the program runs, from the OpenAPI v3 schema of a kind.
//!
//! The built-in schemas are shared, not copied; own definitions follow behind them. Called by the API server for
//! each such kind, and for the registry that has all of them.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::types::{Definition, Index, REFERENCE, Schemas, definition};

/// The kind of a definition, as OpenAPI writes it.
const KIND: &str = "x-kubernetes-group-version-kind";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// A kind that is not built in.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomSchema {
    /// API group.
    pub group: String,
    /// Version in the group.
    pub version: String,
    /// The kind's name.
    pub kind: String,
    /// Its OpenAPI v3 schema. `apiVersion`, `kind` and `metadata` are added to its properties.
    pub schema: Value,
}

impl CustomSchema {
    /// `com.example.v1.Widget`
    fn name(&self) -> String {
        let mut parts: Vec<&str> = self.group.split('.').rev().collect();
        parts.extend([&*self.version, &*self.kind]);
        parts.join(".")
    }

    /// The schema of the whole object.
    fn whole(&self) -> Value {
        let mut whole = self.schema.clone();
        if !whole.is_object() {
            whole = json!({});
        }
        whole["type"] = "object".into();
        if !whole["properties"].is_object() {
            whole["properties"] = json!({});
        }
        for name in ["apiVersion", "kind"] {
            whole["properties"][name] = json!({"type": "string"});
        }
        whole["properties"]["metadata"] =
            json!({"allOf": [{"$ref": format!("{REFERENCE}{OBJECT_META}")}]});
        whole[KIND] = json!([{"group": self.group, "version": self.version, "kind": self.kind}]);
        whole
    }

    /// The OpenAPI component of the kind and of its list, in the form of `build.rs`: name, references, JSON.
    fn documents(&self) -> String {
        let (name, whole) = (self.name(), self.whole());
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "items": {"type": "array", "items": {"$ref": format!("{REFERENCE}{name}")}},
                "kind": {"type": "string"},
                "metadata": {"allOf": [{"$ref": format!("{REFERENCE}{LIST_META}")}]},
            },
            KIND: [{
                "group": self.group,
                "version": self.version,
                "kind": format!("{}List", self.kind),
            }],
        });
        let line = |name: &str, schema: &Value| {
            let mut references = BTreeSet::new();
            collect_references(schema, &mut references);
            let references: Vec<&str> = references.into_iter().collect();
            format!("{name}\t{}\t{schema}\n", references.join(","))
        };
        line(&name, &whole) + &line(&format!("{name}List"), &list)
    }
}

fn collect_references<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
    match schema {
        Value::Object(members) => {
            let reference = members.get("$ref").and_then(Value::as_str);
            found.extend(reference.and_then(|text| text.strip_prefix(REFERENCE)));
            for member in members.values() {
                collect_references(member, found);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

/// Gives every object inside of `schema` a name of its own, because a type refers to objects by name. Returns what stands
/// in its place.
fn named(name: &str, schema: &Value, found: &mut Found) -> Value {
    let mut schema = schema.clone();
    for inside in ["items", "additionalProperties"] {
        if schema[inside].is_object() {
            schema[inside] = named(name, &schema[inside], found);
        }
    }
    let Some(properties) = schema["properties"].as_object_mut() else {
        return schema;
    };
    for (property, type_) in properties.iter_mut() {
        *type_ = named(&format!("{name}.{property}"), type_, found);
    }
    // The field `b` of `a` has the name of the field `a.b`.
    let mut name = name.to_owned();
    while !found.names.insert(name.clone()) {
        name.push('\'');
    }
    let reference = json!({"$ref": format!("{REFERENCE}{name}")});
    found.definitions.push((name, schema));
    reference
}

/// The objects inside of a schema, inner ones first.
#[derive(Default)]
struct Found {
    definitions: Vec<(String, Value)>,
    names: HashSet<String>,
}

impl Schemas {
    /// The built-in schemas and these.
    pub fn with_custom<'a>(custom: impl IntoIterator<Item = &'a CustomSchema>) -> Arc<Self> {
        let base = Self::builtin();
        let mut schemas = Self::over(Arc::clone(&base));
        for kind in custom {
            let mut found = Found::default();
            named(&kind.name(), &kind.whole(), &mut found);
            let found = found.definitions;
            let first = schemas.len();
            let own = found.iter().map(|(name, _)| &**name).zip(first..);
            let names = base.names().chain(own).collect();
            let root = first + Index::try_from(found.len()).unwrap_or(Index::MAX) - 1;
            let definitions: Vec<Definition> = found
                .iter()
                .map(|(name, schema)| definition(name, schema, &names))
                .collect();
            schemas.add(
                (&*kind.group, &*kind.version, &*kind.kind),
                root,
                definitions,
                &kind.documents(),
            );
        }
        Arc::new(schemas)
    }
}

#[cfg(test)]
mod tests;
