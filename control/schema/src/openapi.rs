// SPDX-License-Identifier: Apache-2.0
//! The OpenAPI documents that clients download: v2 as one, v3 by group and version.
//!
//! Put together as text from the whole components that `build.rs` kept compressed, for the paths that the API server
//! names; nothing of it stays in memory afterwards. Shapes follow Kubernetes' published documents (v1.37).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::types::{REFERENCE, Schemas};

/// Where OpenAPI v2 keeps its schemas.
const DEFINITIONS: &str = "#/definitions/";
/// What is sent with a deletion, and what comes back where the object itself does not.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
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
    /// Whether it takes the parameters of a write.
    fn writes(&self) -> bool {
        matches!(self.method, "post" | "put" | "patch")
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
        if self.writes() {
            parameters.extend([("fieldManager", "string"), ("fieldValidation", "string")]);
        }
        if self.writes() || self.method == "delete" {
            parameters.push(("dryRun", "string"));
        }
        parameters
    }
}

/// Components as `build.rs` wrote them: by name, the names they refer to (with commas) and their JSON.
struct Components<'a>(BTreeMap<&'a str, (&'a str, &'a str)>);

impl<'a> Components<'a> {
    fn read(text: &'a str) -> Self {
        let lines = text.lines().filter_map(|line| {
            let (name, rest) = line.split_once('\t')?;
            Some((name, rest.split_once('\t')?))
        });
        Self(lines.collect())
    }

    /// Names of the components that these consist of, and of these.
    fn closure(&self, mut waiting: Vec<&'a str>) -> BTreeSet<&'a str> {
        let mut needed = BTreeSet::new();
        while let Some(name) = waiting.pop() {
            if let Some((name, (references, _))) = self.0.get_key_value(name)
                && needed.insert(*name)
            {
                waiting.extend(references.split(',').filter(|name| !name.is_empty()));
            }
        }
        needed
    }
}

/// What an operation sends and what it answers, by component.
struct Bodies<'a> {
    sent: Option<&'a str>,
    answered: Option<&'a str>,
}

impl Schemas {
    /// The v3 document of one group and version, as JSON: the given paths and the schemas they need.
    pub fn openapi_v3(&self, paths: &[OpenApiPath]) -> Vec<u8> {
        let text = self.components();
        let components = Components::read(&text);
        let (paths, needed) = self.paths(paths, &components, &V3);
        let mut document = format!(
            r#"{{"openapi":"3.0.0","info":{},"paths":{paths},"components":{{"schemas":{{"#,
            info()
        );
        schemas(&components, needed, &mut document, |json, out| {
            out.push_str(json);
        });
        document.push_str("}}}");
        document.into_bytes()
    }

    /// The v2 document of everything, as JSON.
    pub fn openapi_v2(&self, paths: &[OpenApiPath]) -> Vec<u8> {
        let text = self.components();
        let components = Components::read(&text);
        let (paths, needed) = self.paths(paths, &components, &V2);
        let mut document = format!(
            r#"{{"swagger":"2.0","info":{},"paths":{paths},"definitions":{{"#,
            info()
        );
        schemas(&components, needed, &mut document, to_v2);
        document.push_str("}}");
        document.into_bytes()
    }

    /// The `paths` of a document, and the components that they need.
    fn paths<'a>(
        &self,
        paths: &[OpenApiPath],
        components: &Components<'a>,
        dialect: &dyn Dialect,
    ) -> (Value, BTreeSet<&'a str>) {
        let mut all = Map::new();
        let mut roots = Vec::new();
        for path in paths {
            let mut item = Map::new();
            let placeholders: Vec<Value> = path
                .path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .map(|name| dialect.parameter(name, "path", "string"))
                .collect();
            if !placeholders.is_empty() {
                item.insert("parameters".to_owned(), Value::Array(placeholders));
            }
            for operation in &path.operations {
                let bodies = self.bodies(operation, components);
                let described = dialect.operation(operation, &bodies);
                item.insert(operation.method.to_owned(), described);
                roots.extend([bodies.sent, bodies.answered].into_iter().flatten());
            }
            all.insert(path.path.clone(), Value::Object(item));
        }
        (Value::Object(all), components.closure(roots))
    }

    fn bodies<'a>(&self, operation: &OpenApiOperation, components: &Components<'a>) -> Bodies<'a> {
        let OpenApiOperation {
            method: _,
            action,
            group,
            version,
            kind,
        } = operation;
        let component = |name: &str| components.0.get_key_value(name).map(|(name, _)| *name);
        let own = self
            .index(group, version, kind)
            .and_then(|index| component(&self.definition(index).name));
        let list = own.and_then(|own| component(&format!("{own}List")));
        match *action {
            "list" => Bodies {
                sent: None,
                answered: list.or(own),
            },
            "delete" | "deletecollection" => Bodies {
                sent: component(DELETE_OPTIONS),
                answered: component(STATUS),
            },
            "get" => Bodies {
                sent: None,
                answered: own,
            },
            _ => Bodies {
                sent: own,
                answered: own,
            },
        }
    }
}

/// Writes the needed components as the fields of an object.
fn schemas(
    components: &Components<'_>,
    needed: BTreeSet<&str>,
    document: &mut String,
    write: impl Fn(&str, &mut String),
) {
    for (at, name) in needed.into_iter().enumerate() {
        let Some((_, json)) = components.0.get(name) else {
            continue;
        };
        if at > 0 {
            document.push(',');
        }
        document.push('"');
        document.push_str(name);
        document.push_str("\":");
        write(json, document);
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.37.0"})
}

/// Forms that differ in v2, as they are written in v3 and in v2. Quotes inside of strings are escaped, so none of
/// these can be part of a description.
const V2_FORMS: [(&str, &str); 2] = [
    (
        r#""format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]"#,
        r#""type":"string","format":"int-or-string""#,
    ),
    (
        r#""oneOf":[{"type":"string"},{"type":"number"}]"#,
        r#""type":"string""#,
    ),
];

/// v2 has references with siblings where v3 has `allOf`.
fn to_v2(json: &str, out: &mut String) {
    const ALL_OF: &str = r#""allOf":[{"$ref":""#;
    let mut json = json.to_owned();
    for (v3, v2) in V2_FORMS {
        json = json.replace(v3, v2);
    }
    let mut parts = json.split(ALL_OF);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // The reference's own quote, then the ends of its object and of the list.
        let (reference, rest) = part.split_once(r#""}]"#).unwrap_or((part, ""));
        text.push_str(r#""$ref":""#);
        text.push_str(reference);
        text.push('"');
        text.push_str(rest);
    }
    out.push_str(&text.replace(REFERENCE, DEFINITIONS));
}

/// Where the two versions of OpenAPI differ.
trait Dialect {
    fn parameter(&self, name: &str, place: &str, type_: &str) -> Value;
    fn operation(&self, operation: &OpenApiOperation, bodies: &Bodies<'_>) -> Value;
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

    fn operation(&self, operation: &OpenApiOperation, bodies: &Bodies<'_>) -> Value {
        let mut item = common(operation, self);
        let schema = |name: &str| json!({"$ref": format!("{DEFINITIONS}{name}")});
        if let (Some(sent), Some(Value::Array(parameters))) =
            (bodies.sent, item.get_mut("parameters"))
        {
            let sent = if operation.method == "patch" {
                json!({"type": "object"})
            } else {
                schema(sent)
            };
            let required = operation.method != "delete";
            parameters
                .push(json!({"name": "body", "in": "body", "required": required, "schema": sent}));
        }
        if operation.method == "patch" {
            item.insert("consumes".to_owned(), json!(PATCH_TYPES));
        }
        let answer = match bodies.answered {
            Some(name) => json!({"description": "OK", "schema": schema(name)}),
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

    fn operation(&self, operation: &OpenApiOperation, bodies: &Bodies<'_>) -> Value {
        let mut item = common(operation, self);
        let schema = |name: &str| json!({"$ref": format!("{REFERENCE}{name}")});
        if let Some(sent) = bodies.sent {
            let mut content = Map::new();
            if operation.method == "patch" {
                for type_ in PATCH_TYPES {
                    content.insert(type_.to_owned(), json!({"schema": {"type": "object"}}));
                }
            } else {
                content.insert("*/*".to_owned(), json!({"schema": schema(sent)}));
            }
            let mut body = json!({"content": content});
            if operation.method != "delete" {
                body["required"] = true.into();
            }
            item.insert("requestBody".to_owned(), body);
        }
        let answer = match bodies.answered {
            Some(name) => {
                json!({"description": "OK", "content": {"application/json": {"schema": schema(name)}}})
            }
            None => json!({"description": "OK"}),
        };
        item.insert("responses".to_owned(), json!({"200": answer}));
        Value::Object(item)
    }
}

#[cfg(test)]
mod tests;
