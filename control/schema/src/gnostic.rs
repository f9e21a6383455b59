// SPDX-License-Identifier: Apache-2.0
//! The OpenAPI v2 document in the protobuf form that `kubectl` and `helm` download for client-side checks.
//!
//! Field numbers of gnostic's `openapiv2/OpenAPIv2.proto`. Only what those clients read is in it: the
//! definitions. Everything else is in the JSON form.

use serde_json::Value;

use crate::openapi::OpenApiPath;
use crate::types::Schemas;

/// Content type of the document.
pub const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

impl Schemas {
    /// The v2 document of everything, as protobuf.
    pub fn openapi_v2_protobuf(&self, paths: &[OpenApiPath]) -> Vec<u8> {
        let document: Value = serde_json::from_slice(&self.openapi_v2(paths)).unwrap_or_default();
        let mut info = Message::default();
        info.text(1, &document["info"]["title"]);
        info.text(2, &document["info"]["version"]);
        let mut out = Message::default();
        out.text(1, &document["swagger"]);
        out.message(2, info);
        out.message(8, Message::default());
        out.message(9, named_schemas(&document["definitions"]));
        out.0
    }
}

/// A protobuf message under construction.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            // Seven bits at a time, the lowest first.
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, tag: u64, content: &[u8]) {
        self.varint(tag << 3 | 2);
        self.varint(content.len() as u64);
        self.0.extend_from_slice(content);
    }

    fn message(&mut self, tag: u64, message: Self) {
        self.bytes(tag, &message.0);
    }

    fn text(&mut self, tag: u64, text: &Value) {
        if let Some(text) = text.as_str() {
            self.bytes(tag, text.as_bytes());
        }
    }
}

/// `Definitions` and `Properties` have the same form.
fn named_schemas(schemas: &Value) -> Message {
    let mut all = Message::default();
    for (name, schema_json) in schemas.as_object().into_iter().flatten() {
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, schema(schema_json));
        all.message(1, named);
    }
    all
}

fn schema(json: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &json["$ref"]);
    out.text(2, &json["format"]);
    out.text(4, &json["description"]);
    for required in json["required"].as_array().into_iter().flatten() {
        out.text(19, required);
    }
    if json["additionalProperties"].is_object() {
        let mut item = Message::default();
        item.message(1, schema(&json["additionalProperties"]));
        out.message(21, item);
    }
    if json["type"].is_string() {
        let mut item = Message::default();
        item.text(1, &json["type"]);
        out.message(22, item);
    }
    if json["items"].is_object() {
        let mut item = Message::default();
        item.message(1, schema(&json["items"]));
        out.message(23, item);
    }
    if json["properties"].is_object() {
        out.message(25, named_schemas(&json["properties"]));
    }
    for (name, value) in json.as_object().into_iter().flatten() {
        if !name.starts_with("x-") {
            continue;
        }
        // Extensions are YAML texts, and JSON is YAML.
        let mut any = Message::default();
        any.bytes(2, value.to_string().as_bytes());
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, any);
        out.message(31, named);
    }
    out
}

#[cfg(test)]
mod tests;
