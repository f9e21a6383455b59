// SPDX-License-Identifier: Apache-2.0
//! Kinds that are not built in are decoded and documented like the others.

use serde_json::{Value, json};

use super::*;
use crate::{OpenApiOperation, OpenApiPath};

fn widget() -> CustomSchema {
    CustomSchema {
        group: "example.com".to_owned(),
        version: "v1".to_owned(),
        kind: "Widget".to_owned(),
        schema: json!({
            "properties": {
                "spec": {
                    "type": "object",
                    "properties": {
                        "size": {"type": "integer", "format": "int32"},
                        "parts": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                        },
                    },
                },
            },
        }),
    }
}

#[test]
fn an_object_inside_of_a_custom_kind_is_checked_by_its_fields() {
    let schemas = Schemas::with_custom([&widget()]);
    let schema = schemas.kind("example.com", "v1", "Widget").unwrap();
    let sent = json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "labels": {"a": "b"}, "colour": 1},
        "spec": {"size": 3, "parts": [{"name": "x", "weight": 2}], "height": 1},
    });
    let decoded = schema.decode(sent.to_string().as_bytes()).unwrap();
    assert_eq!(
        decoded.unknown,
        [
            "unknown field \"metadata.colour\"",
            "unknown field \"spec.parts[0].weight\"",
            "unknown field \"spec.height\"",
        ]
    );
    assert_eq!(
        decoded.value["spec"],
        json!({"size": 3, "parts": [{"name": "x"}]})
    );
    let wrong = json!({"spec": {"size": "three"}});
    assert!(schema.decode(wrong.to_string().as_bytes()).is_err());
}

#[test]
fn a_custom_kind_is_in_the_documents_and_only_of_its_own_schemas() {
    let path = OpenApiPath {
        path: "/apis/example.com/v1/widgets".to_owned(),
        operations: vec![OpenApiOperation {
            method: "get",
            action: "list",
            group: "example.com".to_owned(),
            version: "v1".to_owned(),
            kind: "Widget".to_owned(),
        }],
    };
    let document = |schemas: &Schemas| -> Value {
        serde_json::from_slice(&schemas.openapi_v3(std::slice::from_ref(&path))).unwrap()
    };
    let with = document(&Schemas::with_custom([&widget()]));
    let schemas = &with["components"]["schemas"];
    assert_eq!(
        schemas["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"]["format"],
        "int32"
    );
    for used in ["com.example.v1.WidgetList", OBJECT_META, LIST_META] {
        assert!(schemas[used].is_object(), "{used}");
    }
    let without = document(&Schemas::builtin());
    assert_eq!(without["components"]["schemas"], json!({}));
}

#[test]
fn two_custom_kinds_and_the_built_in_ones_stand_beside_each_other() {
    let gadget = CustomSchema {
        kind: "Gadget".to_owned(),
        ..widget()
    };
    let schemas = Schemas::with_custom([&widget(), &gadget]);
    for kind in ["Widget", "Gadget"] {
        let schema = schemas.kind("example.com", "v1", kind).unwrap();
        let decoded = schema.decode(br#"{"spec": {"size": 1}}"#).unwrap();
        assert_eq!(decoded.unknown, [""; 0], "{kind}");
    }
    assert!(schemas.kind("", "v1", "Pod").is_some());
    assert!(
        Schemas::builtin()
            .kind("example.com", "v1", "Widget")
            .is_none()
    );
}

#[test]
fn a_field_with_a_dot_is_not_a_field_of_a_field() {
    let of = |field: &str| json!({"type": "object", "properties": {field: {"type": "string"}}});
    let mut kind = widget();
    kind.schema["properties"]["spec"] = json!({
        "type": "object",
        "properties": {
            "a": {"type": "object", "properties": {"b": of("x")}},
            "a.b": of("y"),
        },
    });
    let schemas = Schemas::with_custom([&kind]);
    let schema = schemas.kind("example.com", "v1", "Widget").unwrap();
    let sent = json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w"},
        "spec": {"a": {"b": {"x": "1"}}, "a.b": {"y": "2"}},
    });
    let decoded = schema.decode_value(sent.clone()).expect("an object");
    assert_eq!(decoded.unknown, Vec::<String>::new());
    assert_eq!(decoded.value, sent);
}
