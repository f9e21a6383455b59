// SPDX-License-Identifier: Apache-2.0
//! Joins k8s-openapi's definitions with k8s-pb's messages: each property gets its protobuf number and upstream's
//! markers.
//!
//! The types of the two are compared. A field that JSON and protobuf spell in ways that the codec does not know is an
//! error of the build, so that no object is ever written in a form that clients read wrongly.

use std::collections::BTreeMap;
use std::error::Error;
use std::rc::Rc;

use serde_json::{Map, Value, json};

use crate::REFERENCE;
use crate::later::UNNUMBERED;
use crate::messages::{Count, Field, Message, Messages, Wire, folded};

/// How all extensions begin that only the types have, not the documents.
pub const OWN_EXTENSIONS: &str = "x-knarr-";
/// The extension that carries a field's protobuf number.
const TAG: &str = "x-knarr-protobuf-tag";
/// Beside [`TAG`]: the number of the message around the field, where JSON has the field one level further up.
const INLINE_TAG: &str = "x-knarr-protobuf-inline-tag";
/// Beside [`TAG`]: the list is in a message of its own, as its field 1.
const WRAPPED: &str = "x-knarr-protobuf-wrapped";

/// The value of a field that was left out.
const DEFAULT: &str = "x-knarr-default";
/// The least that a number may be.
const MINIMUM: &str = "x-knarr-minimum";

/// What JSON has in a place, as far as protobuf cares.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// An object with named fields, or a type with a message of its own: by the definition's name.
    Message(String),
    /// Free-form JSON.
    Any,
    List(Box<Shape>),
    Map(Box<Shape>),
    Scalar(Wire),
}

/// Types of JSON's scalars that are messages in protobuf, by the ends of their names.
const MESSAGES: [&str; 4] = [".Quantity", ".Time", ".MicroTime", ".IntOrString"];
/// Messages that hold JSON as bytes in their field 1.
const RAW: [&str; 3] = ["RawExtension", "FieldsV1", "Json"];

/// By the folded name of a field, the message that has it and that message's number.
type Embedded = BTreeMap<String, (Rc<Message>, u32)>;

/// Finds numbers and markers for definitions.
pub struct Markers<'a> {
    pub messages: &'a Messages,
    pub definitions: &'a Map<String, Value>,
}

impl Markers<'_> {
    /// A definition with the markers and numbers of its fields as extensions of its properties.
    pub fn marked(&self, definition: &str) -> Result<Value, Box<dyn Error>> {
        let mut schema = self.definitions[definition].clone();
        let Some(properties) = schema["properties"].as_object_mut() else {
            return Ok(schema);
        };
        let message = self.messages.get(definition)?.unwrap_or_default();
        let embedded = self.embedded(&message, properties)?;
        for (name, property) in properties.iter_mut() {
            let key = folded(name);
            let (field, outer) = match (message.get(&key), embedded.get(&key)) {
                (Some(field), _) => (field, None),
                (None, Some((inner, outer))) => (&inner[&key], Some(*outer)),
                (None, None) => {
                    // The kind is said around the message.
                    let known = ["apiVersion", "kind"].contains(&name.as_str())
                        || UNNUMBERED.contains(&(definition, name));
                    if !known {
                        return Err(format!("{definition}.{name} is not in k8s-pb").into());
                    }
                    continue;
                }
            };
            let shape = self.shape(property);
            let Some(form) = self.form(&shape, field)? else {
                return Err(format!(
                    "{definition}.{name} is {shape:?} in JSON and {:?} {:?} in protobuf",
                    field.count, field.wire
                )
                .into());
            };
            for (marker, value) in &field.markers {
                apply(marker, value, property)
                    .map_err(|error| format!("{definition}.{name}: +{marker}={value}: {error}"))?;
            }
            property[TAG] = json!(field.tag);
            if let Some(outer) = outer {
                property[INLINE_TAG] = json!(outer);
            }
            if form == Form::Wrapped {
                property[WRAPPED] = json!(true);
            }
        }
        Ok(schema)
    }

    /// Fields of the messages that Go embeds: they are messages of their own on the wire, such as a volume's
    /// `volumeSource`, and JSON has their fields one level further up. With each, the message and its number.
    fn embedded(
        &self,
        message: &Message,
        properties: &Map<String, Value>,
    ) -> Result<Embedded, Box<dyn Error>> {
        let in_json = |field: &str| properties.keys().any(|name| folded(name) == field);
        let mut found = BTreeMap::new();
        for (_, outer) in message.iter().filter(|(field, _)| !in_json(field)) {
            let (Wire::Message(name), Count::One) = (&outer.wire, outer.count) else {
                continue;
            };
            let Some(inner) = self.messages.get(name)? else {
                continue;
            };
            for field in inner.keys() {
                found.insert(field.clone(), (Rc::clone(&inner), outer.tag));
            }
        }
        Ok(found)
    }

    fn shape(&self, schema: &Value) -> Shape {
        let reference = schema["$ref"]
            .as_str()
            .or_else(|| schema["allOf"][0]["$ref"].as_str());
        if let Some(name) = reference.and_then(|text| text.strip_prefix(REFERENCE)) {
            let definition = &self.definitions[name];
            let is_message = definition["properties"].is_object()
                || MESSAGES.iter().any(|end| name.ends_with(end));
            return if is_message {
                Shape::Message(name.to_owned())
            } else {
                self.shape(definition)
            };
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("string"), Some("byte")) => Shape::Scalar(Wire::Bytes),
            (Some("string"), _) => Shape::Scalar(Wire::Text),
            (Some("integer"), Some("int32")) => Shape::Scalar(Wire::Int32),
            (Some("integer"), _) => Shape::Scalar(Wire::Int64),
            (Some("number"), _) => Shape::Scalar(Wire::Double),
            (Some("boolean"), _) => Shape::Scalar(Wire::Bool),
            (Some("array"), _) => Shape::List(Box::new(self.shape(&schema["items"]))),
            (Some("object"), _) if schema["additionalProperties"].is_object() => {
                Shape::Map(Box::new(self.shape(&schema["additionalProperties"])))
            }
            _ => Shape::Any,
        }
    }

    /// How the codec has to write a field; `None` where it cannot.
    fn form(&self, shape: &Shape, field: &Field) -> Result<Option<Form>, Box<dyn Error>> {
        if field.wire == Wire::Unknown {
            return Ok(Some(Form::Plain));
        }
        let plain = |fits: bool| Ok(fits.then_some(Form::Plain));
        match (field.count, shape) {
            (Count::Many, Shape::List(item)) => plain(fits(item, &field.wire)),
            (Count::Map, Shape::Map(item)) => match &**item {
                // Lists in maps are always wrapped.
                Shape::List(item) => plain(self.wraps(item, &field.wire)?),
                item => plain(fits(item, &field.wire)),
            },
            (Count::One, Shape::List(item)) => {
                Ok(self.wraps(item, &field.wire)?.then_some(Form::Wrapped))
            }
            (Count::One, shape) => plain(fits(shape, &field.wire)),
            _ => Ok(None),
        }
    }

    /// Whether a message is nothing but a list of such items.
    fn wraps(&self, item: &Shape, wire: &Wire) -> Result<bool, Box<dyn Error>> {
        let Wire::Message(name) = wire else {
            return Ok(false);
        };
        let message = self.messages.get(name)?.unwrap_or_default();
        let list = message.get("items");
        Ok(message.len() == 1
            && list.is_some_and(|f| f.tag == 1 && f.count == Count::Many && fits(item, &f.wire)))
    }

    /// Refuses a kind whose list has other numbers than those that the codec writes.
    pub fn check_list(&self, name: &str) -> Result<(), Box<dyn Error>> {
        let list = self.messages.get(&format!("{name}List"))?;
        // The list of APIGroups is another kind of list.
        let Some(list) = list.filter(|list| list.contains_key("items")) else {
            return Ok(());
        };
        let number = |field: &str| list.get(field).map(|field| field.tag);
        match (number("metadata"), number("items")) {
            (Some(1), Some(2)) => Ok(()),
            numbers => Err(format!("the fields of {name}List have the numbers {numbers:?}").into()),
        }
    }
}

/// How a field is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// The list is in a message of its own.
    Wrapped,
}

fn fits(shape: &Shape, wire: &Wire) -> bool {
    let last = |name: &str| folded(name.rsplit('.').next().unwrap_or_default());
    match (shape, wire) {
        (Shape::Scalar(scalar), wire) => scalar == wire,
        (Shape::Message(name), Wire::Message(message)) => last(name) == last(message),
        (Shape::Any, Wire::Message(message)) => {
            RAW.iter().any(|name| last(message) == folded(name))
        }
        _ => false,
    }
}

/// Constants of Go's sources that markers refer to.
const CONSTANTS: [(&str, &str); 2] = [
    ("AzureDataDiskCachingReadWrite", "ReadWrite"),
    ("AzureSharedBlobDisk", "Shared"),
];

/// The value of a `+default` marker: JSON, or a constant.
fn default(value: &str) -> Result<Value, String> {
    let name = value.strip_prefix("ref(").and_then(|v| v.strip_suffix(')'));
    let Some(name) = name else {
        return serde_json::from_str(value).map_err(|e| e.to_string());
    };
    let known = CONSTANTS.iter().find(|(constant, _)| *constant == name);
    let (_, text) = known.ok_or("the constant's value is not known")?;
    Ok(json!(text))
}

fn apply(marker: &str, value: &str, property: &mut Value) -> Result<(), String> {
    match marker {
        "listType" => property["x-kubernetes-list-type"] = json!(value),
        "mapType" | "structType" => property["x-kubernetes-map-type"] = json!(value),
        "patchStrategy" => property["x-kubernetes-patch-strategy"] = json!(value),
        "patchMergeKey" => property["x-kubernetes-patch-merge-key"] = json!(value),
        "listMapKey" => {
            let keys = &mut property["x-kubernetes-list-map-keys"];
            match keys.as_array_mut() {
                Some(keys) => keys.push(json!(value)),
                None => *keys = json!([value]),
            }
        }
        "default" => {
            let default = default(value)?;
            // A document has no constants.
            if !value.starts_with("ref(") {
                property["default"] = default.clone();
            }
            property[DEFAULT] = default;
        }
        "k8s:minimum" => {
            property[MINIMUM] = serde_json::from_str(value).map_err(|e| e.to_string())?;
        }
        // Markers for other generators (`kubebuilder:`) are not enforced by kube-apiserver either.
        _ => {}
    }
    Ok(())
}
