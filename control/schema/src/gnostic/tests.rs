// SPDX-License-Identifier: Apache-2.0
//! The wire form of schemas.

use serde_json::json;

use super::{Message, schema};
use crate::Schemas;

#[test]
fn numbers_of_more_than_seven_bits_take_more_bytes() {
    let mut message = Message::default();
    message.varint(300);
    assert_eq!(message.0, [0xac, 0x02]);
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
