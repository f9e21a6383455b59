// SPDX-License-Identifier: Apache-2.0
//! Reads upstream's markers (`+patchStrategy`, `+listType` and so on) from the comments of k8s-pb's sources,
//! and the fields' protobuf numbers from their attributes.
//!
//! The sources are generated, so their shape is regular: doc lines, a `#[prost]` attribute, `pub NAME:`.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Markers of one field, in the order of its comment: name and value.
type FieldMarkers = Vec<(String, String)>;

/// Markers of every field, by definition name and then by [`folded`] field name.
pub struct Markers {
    fields: HashMap<String, HashMap<String, FieldMarkers>>,
}

/// Fields whose markers the protobuf comments do not carry or carry differently from upstream's Go types:
/// definition, field, strategy, merge key.
const MISSING: [(&str, &str, &str, &str); 1] = [(
    "io.k8s.api.core.v1.PodSpec",
    "resourceClaims",
    "merge,retainKeys",
    "name",
)];

/// The extension that carries a field's protobuf number; only the types have it, not the documents.
pub const TAG: &str = "x-knarr-protobuf-tag";

/// A field's name without what protobuf and JSON spell differently.
fn folded(name: &str) -> String {
    name.trim_start_matches("r#")
        .replace('_', "")
        .to_lowercase()
}

impl Markers {
    /// Reads every `mod.rs` below `source`.
    pub fn read(source: &Path) -> Result<Self, Box<dyn Error>> {
        let mut markers = Self {
            fields: HashMap::new(),
        };
        markers.read_folder(source, "io.k8s")?;
        if markers.fields.is_empty() {
            return Err(format!("no markers in {}", source.display()).into());
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
        let mut pending = FieldMarkers::new();
        for line in text.lines() {
            let line = line.trim();
            if let Some(name) = line.strip_prefix("pub struct ") {
                let name = name.trim_end_matches(['{', '}', ' ']);
                message = Some(format!("{package}.{name}"));
                pending.clear();
            } else if let Some(comment) = line.strip_prefix("/// +") {
                let (name, value) = comment.split_once('=').unwrap_or((comment, ""));
                pending.push((name.trim().to_owned(), value.trim().to_owned()));
            } else if let Some((_, tag)) = line.split_once("tag = \"")
                && let Some((number, _)) = tag.split_once('"')
            {
                pending.push((TAG.to_owned(), number.to_owned()));
            } else if let Some(field) = line.strip_prefix("pub ")
                && let (Some((field, _)), Some(message)) = (field.split_once(':'), &message)
                && !pending.is_empty()
            {
                let fields = self.fields.entry(message.clone()).or_default();
                fields.insert(folded(field), std::mem::take(&mut pending));
            }
        }
    }

    /// Adds the markers of a definition's fields to its properties, as OpenAPI extensions.
    pub fn mark(&self, definition: &str, schema: &mut Value) {
        let Some(properties) = schema["properties"].as_object_mut() else {
            return;
        };
        let fields = self.fields.get(definition);
        for (name, property) in properties {
            let markers = fields.and_then(|fields| fields.get(&folded(name)));
            for (marker, value) in markers.into_iter().flatten() {
                apply(marker, value, property);
            }
            let missing = MISSING
                .iter()
                .find(|(d, f, ..)| *d == definition && f == name);
            if let Some((_, _, strategy, key)) = missing {
                property["x-kubernetes-patch-strategy"] = json!(strategy);
                property["x-kubernetes-patch-merge-key"] = json!(key);
            }
        }
    }
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
        TAG => property[TAG] = json!(value.parse::<u32>().unwrap_or_default()),
        _ => {}
    }
}
