// SPDX-License-Identifier: Apache-2.0
//! The wire form of schemas.

use serde_json::json;

use super::{operation, parameter, schema};
use crate::Schemas;
use crate::protobuf::wire::put_varint;

#[test]
fn numbers_of_more_than_seven_bits_take_more_bytes() {
    let mut number = Vec::new();
    put_varint(&mut number, 300);
    assert_eq!(number, [0xac, 0x02]);
}

#[test]
fn a_schema_has_its_type_and_its_extensions() {
    let message = schema(&json!({"type": "string", "x-a": [1]}));
    let expected = [
        // type = 22: a TypeItem with one value.
        &[0xb2, 0x01, 0x08, 0x0a, 0x06][..],
        b"string",
        // vendor_extension = 31: name and YAML.
        &[0xfa, 0x01, 0x0c, 0x0a, 0x03],
        b"x-a",
        &[0x12, 0x05, 0x12, 0x03],
        b"[1]",
    ]
    .concat();
    assert_eq!(message.0, expected);
}

#[test]
fn the_document_begins_with_its_version() {
    let document = Schemas::builtin().openapi_v2_protobuf(&[]);
    assert!(document.starts_with(b"\x0a\x032.0\x12"));
}

#[test]
fn parameters_are_of_three_kinds() {
    let query = parameter(&json!({"name": "n", "in": "query", "type": "t", "uniqueItems": true}));
    let expected = [
        // parameter, non_body_parameter, query_parameter_sub_schema.
        &[0x0a, 0x14, 0x12, 0x12, 0x1a, 0x10, 0x12, 0x05][..],
        b"query",
        &[0x22, 0x01],
        b"n",
        &[0x32, 0x01],
        b"t",
        &[0xa0, 0x01, 0x01],
    ]
    .concat();
    assert_eq!(query.0, expected);
    let path = parameter(&json!({"name": "n", "in": "path", "type": "t", "required": true}));
    let expected = [
        &[0x0a, 0x12, 0x12, 0x10, 0x22, 0x0e, 0x08, 0x01, 0x12, 0x04][..],
        b"path",
        &[0x22, 0x01],
        b"n",
        &[0x2a, 0x01],
        b"t",
    ]
    .concat();
    assert_eq!(path.0, expected);
    let body = parameter(&json!({"name": "body", "in": "body", "schema": {}}));
    let expected = [
        &[0x0a, 0x10, 0x0a, 0x0e, 0x12, 0x04][..],
        b"body",
        &[0x1a, 0x04],
        b"body",
        &[0x2a, 0x00],
    ]
    .concat();
    assert_eq!(body.0, expected);
}

#[test]
fn an_operation_has_its_extensions() {
    let message = operation(&json!({"x-a": {"kind": "Pod"}, "responses": {}}));
    let expected = [
        &[0x4a, 0x00, 0x6a, 0x17, 0x0a, 0x03][..],
        b"x-a",
        &[0x12, 0x10, 0x12, 0x0e],
        br#"{"kind":"Pod"}"#,
    ]
    .concat();
    assert_eq!(message.0, expected);
}
