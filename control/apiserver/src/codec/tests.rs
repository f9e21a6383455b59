// SPDX-License-Identifier: Apache-2.0
//! The same objects, lists and events in every format.

use super::*;

const FORMATS: [Format; 4] = [
    Format::Json,
    Format::PrettyJson,
    Format::Yaml,
    Format::Protobuf,
];

fn maps() -> SchemaKind {
    SchemaKind::builtin("", "v1", "ConfigMap")
}

fn map() -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "v"}})
}

fn json_of(tree: &Value) -> Bytes {
    tree.to_string().into()
}

#[test]
fn an_object_that_is_sent_can_be_sent_back_in_every_format() {
    for format in FORMATS {
        let sent = format.object(&maps(), &json_of(&map())).expect("an answer");
        let read = format.decode(&maps(), sent).expect("a body");
        let read: Value = serde_json::from_slice(&read).expect("JSON");
        assert_eq!(read, map(), "{format:?}");
        let sent = format.tree(&map()).expect("an answer");
        let read = format.decode(&maps(), sent.into()).expect("a body");
        let read: Value = serde_json::from_slice(&read).expect("JSON");
        assert_eq!(read, map(), "{format:?}");
    }
}

#[test]
fn json_is_the_object_itself_and_a_line_end() {
    let json = json_of(&map());
    let sent = Format::Json.object(&maps(), &json).expect("an answer");
    assert_eq!(sent, [&*json, b"\n"].concat());
    assert_eq!(
        Format::Json
            .in_frame(&maps(), &json)
            .expect("bytes")
            .as_ptr(),
        json.as_ptr()
    );
}

fn list(format: Format, items: &[Bytes]) -> Vec<u8> {
    let head = json!({"resourceVersion": "7"});
    let pieces = format.list(&maps(), &head, items.iter().cloned());
    pieces.expect("a list").finish().concat()
}

#[test]
fn a_list_has_its_metadata_and_its_items_in_every_format() {
    let items = [json_of(&map()), json_of(&map())];
    let expected = json!({
        "kind": "ConfigMapList",
        "apiVersion": "v1",
        "metadata": {"resourceVersion": "7"},
        "items": [map(), map()],
    });
    assert_eq!(
        list(Format::Json, &items),
        format!("{expected}\n").into_bytes()
    );
    let pretty: Value = serde_json::from_slice(&list(Format::PrettyJson, &items)).expect("JSON");
    assert_eq!(pretty, expected);
    let yaml: Value = serde_yaml_ng::from_slice(&list(Format::Yaml, &items)).expect("YAML");
    assert_eq!(yaml, expected);
    let sealed = list(Format::Protobuf, &items);
    let envelope = knarr_schema::open_envelope(&sealed).expect("an envelope");
    assert_eq!(
        (&*envelope.api_version, &*envelope.kind),
        ("v1", "ConfigMapList")
    );
    assert!(sealed.ends_with(ENVELOPE_END));
    // No item at all is a list too.
    assert!(list(Format::Json, &[]).ends_with(b"\"items\":[]}\n"));
    assert!(knarr_schema::open_envelope(&list(Format::Protobuf, &[])).is_ok());
}

#[test]
fn large_items_are_pieces_of_their_own() {
    let large = Bytes::from(format!(
        "{{\"data\":{{\"k\":\"{}\"}}}}",
        "x".repeat(100_000)
    ));
    let pieces = Format::Json.list(
        &maps(),
        &json!({}),
        [large.clone(), large.clone()].into_iter(),
    );
    let pieces = pieces.expect("a list").finish();
    let whole = pieces
        .iter()
        .filter(|piece| piece.as_ptr() == large.as_ptr());
    assert_eq!(whole.count(), 2, "the items' own bytes are sent");
    assert!(serde_json::from_slice::<Value>(&pieces.concat()).is_ok());
}

#[test]
fn a_kind_without_message_is_not_acceptable_as_protobuf() {
    let table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "rows": []});
    let refused = Format::Protobuf
        .tree(&table)
        .expect_err("a table has no message");
    assert_eq!(refused.code(), 406);
    assert_eq!(
        refused.to_string(),
        "object Table does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    );
    assert!(Format::Json.tree(&table).is_ok());
}

#[test]
fn bodies_are_known_by_their_media_types() {
    for (media_type, format) in [
        ("", Some(Format::Json)),
        ("application/json", Some(Format::Json)),
        ("application/yaml", Some(Format::Yaml)),
        (
            "application/vnd.kubernetes.protobuf",
            Some(Format::Protobuf),
        ),
        ("application/cbor", None),
    ] {
        assert_eq!(Format::of_body(media_type), format, "{media_type}");
    }
}
