// SPDX-License-Identifier: Apache-2.0
//! The OpenAPI documents that clients download: v2 as one, v3 by group and version.
//!
//! Made from the whole components that `build.rs` kept compressed, for the paths that the API server names;
//! nothing of it stays in memory afterwards. Shapes follow Kubernetes' published documents (v1.37).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::types::{COMPONENTS, REFERENCE, Schemas, inflate};

/// Where OpenAPI v2 keeps its schemas.
const DEFINITIONS: &str = "#/definitions/";
/// Content types that a patch may have.
const PATCH_TYPES: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A path that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenApiPath {
    /// With placeholders, e.g. `/api/v1/namespaces/{namespace}/pods/{name}`.
    pub path: String,
    /// What can be done there.
    pub operations: Vec<OpenApiOperation>,
}

/// One method of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenApiOperation {
    /// In lower case: `get`, `post`, `put`, `patch`, `delete`.
    pub method: &'static str,
    /// Value of `x-kubernetes-action`: `get`, `list`, `post`, `put`, `patch`, `delete`, `deletecollection`.
    pub action: &'static str,
    /// Group of the kind; empty for core.
    pub group: String,
    /// Version of the kind.
    pub version: String,
    /// The kind that is sent and answered.
    pub kind: String,
}

impl OpenApiOperation {
    fn writes(&self) -> Option<&'static str> {
        matches!(self.method, "post" | "put" | "patch").then_some(self.method)
    }

    fn parameters(&self) -> Vec<(&'static str, &'static str)> {
        let mut parameters = vec![("pretty", "string")];
        match self.action {
            "list" | "deletecollection" => parameters.extend([
                ("allowWatchBookmarks", "boolean"),
                ("continue", "string"),
                ("fieldSelector", "string"),
                ("labelSelector", "string"),
                ("limit", "integer"),
                ("resourceVersion", "string"),
                ("resourceVersionMatch", "string"),
                ("sendInitialEvents", "boolean"),
                ("timeoutSeconds", "integer"),
                ("watch", "boolean"),
            ]),
            "delete" => parameters.extend([
                ("gracePeriodSeconds", "integer"),
                ("propagationPolicy", "string"),
            ]),
            _ => {}
        }
        if self.writes().is_some() {
            parameters.extend([("fieldManager", "string"), ("fieldValidation", "string")]);
        }
        if self.writes().is_some() || self.method == "delete" {
            parameters.push(("dryRun", "string"));
        }
        parameters
    }
}

impl Schemas {
    /// The v3 document of one group and version, as JSON: the given paths and the schemas they need.
    pub fn openapi_v3(&self, paths: &[OpenApiPath]) -> Vec<u8> {
        let components = inflate(COMPONENTS);
        let needed = self.needed(paths, &components);
        let schemas: Map<String, Value> = components
            .into_iter()
            .filter(|(name, _)| needed.contains(name))
            .collect();
        let document = json!({
            "openapi": "3.0.0",
            "info": info(),
            "paths": self.paths(paths, &V3),
            "components": {"schemas": schemas},
        });
        document.to_string().into_bytes()
    }

    /// The v2 document of everything, as JSON.
    pub fn openapi_v2(&self, paths: &[OpenApiPath]) -> Vec<u8> {
        let components = inflate(COMPONENTS);
        let needed = self.needed(paths, &components);
        let mut definitions = Map::new();
        for (name, mut schema) in components {
            if needed.contains(&name) {
                to_v2(&mut schema);
                definitions.insert(name, schema);
            }
        }
        let document = json!({
            "swagger": "2.0",
            "info": info(),
            "paths": self.paths(paths, &V2),
            "definitions": definitions,
        });
        document.to_string().into_bytes()
    }

    fn definition_name(&self, operation: &OpenApiOperation) -> Option<&str> {
        let schema =
            Schemas::builtin().kind(&operation.group, &operation.version, &operation.kind)?;
        Some(&self.definition(schema.index).name)
    }

    /// Names of the definitions that the paths' kinds consist of.
    fn needed(&self, paths: &[OpenApiPath], components: &Map<String, Value>) -> BTreeSet<String> {
        let operations = paths.iter().flat_map(|path| &path.operations);
        let mut waiting: Vec<String> = operations
            .filter_map(|operation| self.definition_name(operation))
            .map(str::to_owned)
            .collect();
        let mut needed = BTreeSet::new();
        while let Some(name) = waiting.pop() {
            if needed.insert(name.clone())
                && let Some(schema) = components.get(&name)
            {
                references(schema, &mut waiting);
            }
        }
        needed
    }

    fn paths(&self, paths: &[OpenApiPath], dialect: &dyn Dialect) -> Value {
        let mut all = Map::new();
        for path in paths {
            let mut item = Map::new();
            let placeholders: Vec<Value> = path
                .path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .map(|name| dialect.parameter(name, "path", "string"))
                .collect();
            item.insert("parameters".to_owned(), Value::Array(placeholders));
            for operation in &path.operations {
                let body = self.definition_name(operation);
                item.insert(
                    operation.method.to_owned(),
                    dialect.operation(operation, body),
                );
            }
            all.insert(path.path.clone(), Value::Object(item));
        }
        Value::Object(all)
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.37.0"})
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str)
                && let Some(name) = name.strip_prefix(REFERENCE)
            {
                found.push(name.to_owned());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// v2 has references with siblings where v3 has `allOf`, and names int-or-string by a format.
fn to_v2(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(parts)) = fields.get_mut("allOf")
                && let Some(Value::Object(part)) = parts.first_mut()
                && let Some(reference) = part.remove("$ref")
            {
                fields.remove("allOf");
                fields.insert("$ref".to_owned(), reference);
            }
            if let Some(Value::String(target)) = fields.get_mut("$ref")
                && let Some(name) = target.strip_prefix(REFERENCE)
            {
                *target = format!("{DEFINITIONS}{name}");
            }
            if fields.remove("x-kubernetes-int-or-string").is_some() {
                fields.insert("type".to_owned(), "string".into());
                fields.insert("format".to_owned(), "int-or-string".into());
            }
            fields.values_mut().for_each(to_v2);
        }
        Value::Array(items) => items.iter_mut().for_each(to_v2),
        _ => {}
    }
}

/// Where the two versions of OpenAPI differ.
trait Dialect {
    fn parameter(&self, name: &str, place: &str, type_: &str) -> Value;
    fn operation(&self, operation: &OpenApiOperation, body: Option<&str>) -> Value;
}

fn common(operation: &OpenApiOperation, dialect: &dyn Dialect) -> Map<String, Value> {
    let parameters: Vec<Value> = operation
        .parameters()
        .into_iter()
        .map(|(name, type_)| dialect.parameter(name, "query", type_))
        .collect();
    let mut item = Map::new();
    item.insert("parameters".to_owned(), Value::Array(parameters));
    item.insert("x-kubernetes-action".to_owned(), operation.action.into());
    item.insert(
        "x-kubernetes-group-version-kind".to_owned(),
        json!({"group": operation.group, "version": operation.version, "kind": operation.kind}),
    );
    item
}

struct V2;
struct V3;

impl Dialect for V2 {
    fn parameter(&self, name: &str, place: &str, type_: &str) -> Value {
        json!({"name": name, "in": place, "type": type_, "required": place == "path", "uniqueItems": true})
    }

    fn operation(&self, operation: &OpenApiOperation, body: Option<&str>) -> Value {
        let mut item = common(operation, self);
        let schema = body.map(|name| json!({"$ref": format!("{DEFINITIONS}{name}")}));
        if let (Some(method), Some(schema), Some(Value::Array(parameters))) =
            (operation.writes(), &schema, item.get_mut("parameters"))
        {
            let schema = if method == "patch" {
                json!({"type": "object"})
            } else {
                schema.clone()
            };
            parameters
                .push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
            if method == "patch" {
                item.insert("consumes".to_owned(), json!(PATCH_TYPES));
            }
        }
        let answer = match schema {
            Some(schema) => json!({"description": "OK", "schema": schema}),
            None => json!({"description": "OK"}),
        };
        item.insert("responses".to_owned(), json!({"200": answer}));
        Value::Object(item)
    }
}

impl Dialect for V3 {
    fn parameter(&self, name: &str, place: &str, type_: &str) -> Value {
        let mut parameter =
            json!({"name": name, "in": place, "schema": {"type": type_, "uniqueItems": true}});
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    }

    fn operation(&self, operation: &OpenApiOperation, body: Option<&str>) -> Value {
        let mut item = common(operation, self);
        let schema = body.map(|name| json!({"$ref": format!("{REFERENCE}{name}")}));
        if let (Some(method), Some(schema)) = (operation.writes(), &schema) {
            let mut content = Map::new();
            if method == "patch" {
                for type_ in PATCH_TYPES {
                    content.insert(type_.to_owned(), json!({"schema": {"type": "object"}}));
                }
            } else {
                content.insert("*/*".to_owned(), json!({"schema": schema}));
            }
            item.insert(
                "requestBody".to_owned(),
                json!({"content": content, "required": true}),
            );
        }
        let answer = match schema {
            Some(schema) => {
                json!({"description": "OK", "content": {"application/json": {"schema": schema}}})
            }
            None => json!({"description": "OK"}),
        };
        item.insert("responses".to_owned(), json!({"200": answer}));
        Value::Object(item)
    }
}

#[cfg(test)]
mod tests;
