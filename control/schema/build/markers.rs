// SPDX-License-Identifier: Apache-2.0
//! Reads upstream's markers (`+patchStrategy`, `+listType` and so on) from the comments of k8s-pb's sources,
//! and the fields' protobuf numbers from their attributes.
//!
//! The sources are generated, so their shape is regular: doc lines, a `#[prost]` attribute, `pub NAME: TYPE,`.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::later::{LATER, UNNUMBERED};

/// The extension that carries a field's protobuf number; only the types have it, not the documents.
pub const TAG: &str = "x-knarr-protobuf-tag";
/// Beside [`TAG`]: the number of the message around the field, where JSON has the field one level further up.
pub const INLINE_TAG: &str = "x-knarr-protobuf-inline-tag";
/// Where the fields in [`LATER`] are.
const CORE: &str = "io.k8s.api.core.v1";

/// Name and value of each marker, in the order of the comment.
type FieldMarkers = Vec<(String, String)>;

/// One field of a message.
#[derive(Default)]
struct Field {
    markers: FieldMarkers,
    tag: u32,
    /// Its type, where that is a message of the same package.
    message: Option<String>,
}

/// The fields of every message. Both names are [`folded`].
pub struct Markers {
    messages: HashMap<String, HashMap<String, Field>>,
}

/// A name without what Rust, protobuf and JSON spell differently: `HTTPGetAction` and `HttpGetAction`, `host_ip` and
/// `hostIP`.
fn folded(name: &str) -> String {
    name.trim_start_matches("r#")
        .replace('_', "")
        .to_lowercase()
}

/// The key of a message: its package as it is, its name folded.
fn message_key(package: &str, name: &str) -> String {
    format!("{package}.{}", folded(name))
}

impl Markers {
    /// Reads every `mod.rs` below `source`.
    pub fn read(source: &Path) -> Result<Self, Box<dyn Error>> {
        let mut markers = Self {
            messages: HashMap::new(),
        };
        markers.read_folder(source, "io.k8s")?;
        if markers.messages.is_empty() {
            return Err(format!("no messages in {}", source.display()).into());
        }
        for (message, name, tag, text) in LATER {
            let known = text.split_whitespace().filter_map(|m| m.split_once('='));
            let field = Field {
                markers: known
                    .map(|(marker, value)| (marker.to_owned(), value.to_owned()))
                    .collect(),
                tag,
                message: None,
            };
            let fields = markers
                .messages
                .entry(message_key(CORE, message))
                .or_default();
            if fields.insert(folded(name), field).is_some() {
                return Err(format!("{message}.{name} is in k8s-pb now").into());
            }
        }
        Ok(markers)
    }

    fn read_folder(&mut self, folder: &Path, package: &str) -> Result<(), Box<dyn Error>> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() {
                self.read_folder(&entry.path(), &format!("{package}.{name}"))?;
            } else if name == "mod.rs" {
                self.read_file(&fs::read_to_string(entry.path())?, package);
            }
        }
        Ok(())
    }

    fn read_file(&mut self, text: &str, package: &str) {
        let mut message: Option<String> = None;
        let mut field = Field::default();
        for line in text.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix("pub struct ") {
                let name = name.trim_end_matches(['{', '}', ' ']);
                message = Some(message_key(package, name));
                field = Field::default();
            } else if let Some(comment) = line.strip_prefix("/// +") {
                let (name, value) = comment.split_once('=').unwrap_or((comment, ""));
                let marker = (name.trim().to_owned(), value.trim().to_owned());
                field.markers.push(marker);
            } else if let Some((_, tag)) = line.split_once("tag = \"")
                && let Some((number, _)) = tag.split_once('"')
            {
                field.tag = number.parse().unwrap_or_default();
            } else if let Some(declared) = line.strip_prefix("pub ")
                && let (Some((name, type_)), Some(message)) = (declared.split_once(':'), &message)
                && field.tag != 0
            {
                field.message = plain_option(type_).map(|type_| message_key(package, type_));
                let fields = self.messages.entry(message.clone()).or_default();
                fields.insert(folded(name), std::mem::take(&mut field));
            }
        }
    }

    /// Adds the markers and numbers of a definition's fields to its properties, as OpenAPI extensions.
    pub fn mark(&self, definition: &str, schema: &mut Value) -> Result<(), String> {
        let Some(properties) = schema["properties"].as_object_mut() else {
            return Ok(());
        };
        let (package, name) = definition.rsplit_once('.').unwrap_or_default();
        let fields = self.messages.get(&message_key(package, name));
        let own = |name: &str| Some((fields?.get(&folded(name))?, None));
        // What Go embeds is a message of its own on the wire, such as a volume's `volumeSource`.
        let embedded = |name: &str| {
            let messages = fields?
                .iter()
                .filter(|(field, _)| !properties.keys().any(|name| folded(name) == **field));
            messages
                .filter_map(|(_, outer)| {
                    let inner = self.messages.get(outer.message.as_ref()?)?;
                    Some((inner.get(&folded(name))?, Some(outer.tag)))
                })
                .next()
        };
        let found: Vec<_> = properties
            .keys()
            .map(|name| own(name).or_else(|| embedded(name)))
            .collect();
        for ((name, property), found) in properties.iter_mut().zip(found) {
            let Some((field, outer)) = found else {
                // Who sends protobuf says the kind around the message.
                let known = ["apiVersion", "kind"].contains(&name.as_str())
                    || UNNUMBERED.contains(&(definition, name));
                if !known {
                    return Err(format!("{definition}.{name} is not in k8s-pb"));
                }
                continue;
            };
            for (marker, value) in &field.markers {
                apply(marker, value, property);
            }
            property[TAG] = json!(field.tag);
            if let Some(outer) = outer {
                property[INLINE_TAG] = json!(outer);
            }
        }
        Ok(())
    }
}

/// `Type` of `::core::option::Option<Type>,`.
fn plain_option(type_: &str) -> Option<&str> {
    let inner = type_
        .trim()
        .strip_prefix("::core::option::Option<")?
        .strip_suffix(">,")?;
    inner.chars().all(char::is_alphanumeric).then_some(inner)
}

fn apply(marker: &str, value: &str, property: &mut Value) {
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
        // Some defaults refer to a constant of the Go sources; a document cannot.
        "default" => {
            if let Ok(value) = serde_json::from_str::<Value>(value) {
                property["default"] = value;
            }
        }
        _ => {}
    }
}
