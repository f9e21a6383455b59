// SPDX-License-Identifier: Apache-2.0
//! The OpenAPI v2 document in the protobuf form that `kubectl` and `helm` download for client-side checks.
//!
//! Field numbers of gnostic's `openapiv2/OpenAPIv2.proto`. It is made from the JSON form, with everything in it that
//! those clients read: definitions, and of paths the operations with their parameters and extensions.

use serde_json::Value;

use crate::openapi::OpenApiPath;
use crate::protobuf::wire::{put_bytes, put_number};
use crate::types::Schemas;

/// Content type of the document. Clients ask for it with an `@` before the version, which is no content type at all;
/// the answer has a dot there, as kube-apiserver's has, because Go refuses to parse the other.
pub const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

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
        out.message(8, paths_of(&document["paths"]));
        out.message(9, named_schemas(&document["definitions"]));
        out.0
    }
}

/// A protobuf message under construction.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, tag: u32, content: &[u8]) {
        put_bytes(&mut self.0, tag, content);
    }

    fn message(&mut self, tag: u32, message: Self) {
        self.bytes(tag, &message.0);
    }

    fn text(&mut self, tag: u32, text: &Value) {
        if let Some(text) = text.as_str() {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn flag(&mut self, tag: u32, flag: &Value) {
        if *flag == true {
            put_number(&mut self.0, tag, 1);
        }
    }

    fn parameters(&mut self, tag: u32, list: &Value) {
        for json in list.as_array().into_iter().flatten() {
            self.message(tag, parameter(json));
        }
    }

    /// Extensions are YAML texts, and JSON is YAML.
    fn extensions(&mut self, tag: u32, json: &Value) {
        for (name, value) in json.as_object().into_iter().flatten() {
            if name.starts_with("x-") {
                let mut any = Message::default();
                any.bytes(2, value.to_string().as_bytes());
                let mut named = Message::default();
                named.bytes(1, name.as_bytes());
                named.message(2, any);
                self.message(tag, named);
            }
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
    out.extensions(31, json);
    out
}

fn paths_of(paths: &Value) -> Message {
    let mut all = Message::default();
    for (path, item) in paths.as_object().into_iter().flatten() {
        let mut out = Message::default();
        for (tag, method) in [
            (2, "get"),
            (3, "put"),
            (4, "post"),
            (5, "delete"),
            (8, "patch"),
        ] {
            if item[method].is_object() {
                out.message(tag, operation(&item[method]));
            }
        }
        out.parameters(9, &item["parameters"]);
        let mut named = Message::default();
        named.bytes(1, path.as_bytes());
        named.message(2, out);
        all.message(2, named);
    }
    all
}

fn operation(json: &Value) -> Message {
    let mut out = Message::default();
    for consumed in json["consumes"].as_array().into_iter().flatten() {
        out.text(7, consumed);
    }
    out.parameters(8, &json["parameters"]);
    let mut responses = Message::default();
    for (code, response) in json["responses"].as_object().into_iter().flatten() {
        let mut described = Message::default();
        described.text(1, &response["description"]);
        if response["schema"].is_object() {
            let mut item = Message::default();
            item.message(1, schema(&response["schema"]));
            described.message(2, item);
        }
        let mut value = Message::default();
        value.message(1, described);
        let mut named = Message::default();
        named.bytes(1, code.as_bytes());
        named.message(2, value);
        responses.message(1, named);
    }
    out.message(9, responses);
    out.extensions(13, json);
    out
}

/// A parameter, as the element of a list that may also hold references.
fn parameter(json: &Value) -> Message {
    let mut out = Message::default();
    if json["in"] == "body" {
        let mut body = Message::default();
        body.text(2, &json["name"]);
        body.text(3, &json["in"]);
        body.flag(4, &json["required"]);
        body.message(5, schema(&json["schema"]));
        out.message(1, body);
    } else {
        // Parameters of queries may be empty, which shifts what follows the name.
        let (kind, type_tag, unique_tag) = if json["in"] == "path" {
            (4, 5, 19)
        } else {
            (3, 6, 20)
        };
        let mut simple = Message::default();
        simple.flag(1, &json["required"]);
        simple.text(2, &json["in"]);
        simple.text(4, &json["name"]);
        simple.text(type_tag, &json["type"]);
        simple.flag(unique_tag, &json["uniqueItems"]);
        let mut not_body = Message::default();
        not_body.message(kind, simple);
        out.message(2, not_body);
    }
    let mut item = Message::default();
    item.message(1, out);
    item
}

#[cfg(test)]
mod tests;
