// SPDX-License-Identifier: Apache-2.0
//! Writes the components of OpenAPI documents as text, so that serving them needs no tree of JSON.
//!
//! One line for each component: its name, the names that it refers to, its JSON in the form of OpenAPI v3; with tabs
//! between. Forms follow kube-apiserver's published documents (v1.37).

use serde_json::{Value, json};

use crate::KIND;
use crate::markers::OWN_EXTENSIONS;

/// Where OpenAPI v3 keeps schemas.
const COMPONENTS: &str = "#/components/schemas/";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The lines so far.
#[derive(Default)]
pub struct Documents {
    pub text: String,
}

impl Documents {
    /// Adds a component, and the list of it where it is an object that can be listed.
    pub fn add(&mut self, name: &str, mut definition: Value) {
        drop_tags(&mut definition);
        either(name, &mut definition);
        // k8s-openapi asks for metadata because its types do; Kubernetes does not.
        if definition[KIND].is_array()
            && let Some(required) = definition["required"].as_array_mut()
        {
            required.retain(|name| name != "metadata");
            if required.is_empty() {
                definition.as_object_mut().map(|d| d.remove("required"));
            }
        }
        if let Some(list) = list_of(name, &definition) {
            self.line(&format!("{name}List"), &list);
        }
        self.line(name, &definition);
    }

    fn line(&mut self, name: &str, definition: &Value) {
        let mut references = Vec::new();
        find_references(definition, &mut references);
        references.sort_unstable();
        references.dedup();
        let references = references.join(",");
        self.text
            .push_str(&format!("{name}\t{references}\t{definition}\n"));
    }
}

fn drop_tags(definition: &mut Value) {
    let properties = definition["properties"].as_object_mut();
    for property in properties.into_iter().flat_map(|all| all.values_mut()) {
        if let Some(fields) = property.as_object_mut() {
            fields.retain(|name, _| !name.starts_with(OWN_EXTENSIONS));
        }
    }
}

/// Types that are written as a string or as a number.
fn either(name: &str, definition: &mut Value) {
    let Some(fields) = definition.as_object_mut() else {
        return;
    };
    match name {
        INT_OR_STRING => {
            fields.remove("x-kubernetes-int-or-string");
            fields.insert("format".to_owned(), json!("int-or-string"));
            let either = json!([{"type": "integer"}, {"type": "string"}]);
            fields.insert("oneOf".to_owned(), either);
        }
        QUANTITY => {
            fields.remove("x-kubernetes-int-or-string");
            let either = json!([{"type": "string"}, {"type": "number"}]);
            fields.insert("oneOf".to_owned(), either);
        }
        _ => {}
    }
}

/// The list of a kind. Kinds without metadata, or that are only sent, have none.
fn list_of(name: &str, definition: &Value) -> Option<Value> {
    let kind = &definition[KIND][0];
    let short = kind["kind"].as_str()?;
    let properties = &definition["properties"];
    let sent_only = short.ends_with("Review") || ["Binding", "Eviction", "Scale"].contains(&short);
    let metadata = properties["metadata"]["allOf"][0]["$ref"].as_str()?;
    if sent_only || !metadata.ends_with(".ObjectMeta") {
        return None;
    }
    let list_meta = metadata.replace(".ObjectMeta", ".ListMeta");
    Some(json!({
        "description": format!("{short}List is a list of {short} objects."),
        "properties": {
            "apiVersion": properties["apiVersion"],
            "items": {
                "description": format!("Items is the list of {short} objects."),
                "items": {"allOf": [{"$ref": format!("{COMPONENTS}{name}")}]},
                "type": "array",
            },
            "kind": properties["kind"],
            "metadata": {
                "allOf": [{"$ref": list_meta}],
                "description": "Standard list metadata.",
            },
        },
        "required": ["items"],
        "type": "object",
        KIND: [{"group": kind["group"], "version": kind["version"], "kind": format!("{short}List")}],
    }))
}

fn find_references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str)
                && let Some(name) = name.strip_prefix(COMPONENTS)
            {
                found.push(name.to_owned());
            }
            let values = fields.values();
            values.for_each(|value| find_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| find_references(value, found)),
        _ => {}
    }
}
