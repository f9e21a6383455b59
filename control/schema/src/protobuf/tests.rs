// SPDX-License-Identifier: Apache-2.0
//! Messages written by hand, as a Go client writes them.

use serde_json::{Value, json};

use super::open_envelope;
use crate::Schemas;

mod round_trips;

/// A field with bytes.
fn bytes(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128, "one byte of length is enough here");
    let mut field = vec![tag << 3 | 2, u8::try_from(content.len()).expect("checked")];
    field.extend_from_slice(content);
    field
}

/// A field with a small number.
fn number(tag: u8, content: u8) -> Vec<u8> {
    vec![tag << 3, content]
}

fn decode(group: &str, version: &str, kind: &str, message: &[u8]) -> Value {
    let schema = Schemas::builtin()
        .kind(group, version, kind)
        .expect("a built-in kind");
    schema.decode_protobuf(message).expect("a message").value
}

#[test]
fn an_envelope_says_what_is_inside() {
    let mut body = b"k8s\0".to_vec();
    body.extend(bytes(
        1,
        &[bytes(1, b"v1"), bytes(2, b"Namespace")].concat(),
    ));
    body.extend(bytes(2, b"inside"));
    let envelope = open_envelope(&body).expect("an envelope");
    assert_eq!(
        (&*envelope.api_version, &*envelope.kind, envelope.raw),
        ("v1", "Namespace", &b"inside"[..])
    );
    assert!(open_envelope(b"{}").is_err());
}

#[test]
fn a_namespace_has_its_name_and_nothing_that_was_not_set() {
    // As Go writes it: empty strings, a zero generation and the zero time are on the wire.
    let meta = [
        bytes(1, b"foo"),
        bytes(2, b""),
        bytes(3, b""),
        number(7, 0),
        bytes(8, b""),
        bytes(11, &[bytes(1, b"team"), bytes(2, b"red")].concat()),
    ]
    .concat();
    let message = [bytes(1, &meta), bytes(2, b""), bytes(3, b"")].concat();
    assert_eq!(
        decode("", "v1", "Namespace", &message),
        json!({"metadata": {"name": "foo", "labels": {"team": "red"}}, "spec": {}, "status": {}})
    );
}

#[test]
fn zero_replicas_are_kept_because_somebody_set_them() {
    let spec = [number(1, 0), number(5, 0)].concat();
    let message = bytes(2, &spec);
    assert_eq!(
        decode("apps", "v1", "Deployment", &message),
        json!({"spec": {"replicas": 0}})
    );
}

#[test]
fn ports_quantities_and_secrets_become_what_json_has() {
    let port = [
        bytes(1, b"http"),
        bytes(2, b"TCP"),
        number(3, 80),
        bytes(4, &[number(1, 1), number(2, 0), bytes(3, b"web")].concat()),
        number(5, 0),
    ]
    .concat();
    assert_eq!(
        decode("", "v1", "Service", &bytes(2, &bytes(1, &port))),
        json!({"spec": {"ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"},
        ]}})
    );
    let entry = [bytes(1, b"key"), bytes(2, b"\xff\x00")].concat();
    assert_eq!(
        decode("", "v1", "Secret", &bytes(2, &entry)),
        json!({"data": {"key": "/wA="}})
    );
}

#[test]
fn a_message_that_ends_early_is_refused() {
    let schema = Schemas::builtin()
        .kind("", "v1", "ConfigMap")
        .expect("a built-in kind");
    assert!(schema.decode_protobuf(&[0x0a, 0x7f, 0x01]).is_err());
}

#[test]
fn what_go_embeds_is_read_from_the_message_around_it() {
    // volumes: name, then volumeSource with an emptyDir; containers: a probe whose handler has an httpGet.
    let volume = [bytes(1, b"v"), bytes(2, &bytes(2, &bytes(1, b"Memory")))].concat();
    let port = [number(1, 0), number(2, 80), bytes(3, b"")].concat();
    let get = [bytes(1, b"/x"), bytes(2, &port)].concat();
    let probe = [bytes(1, &bytes(2, &get)), number(4, 10)].concat();
    let reference = [bytes(1, &bytes(1, b"settings")), bytes(2, b"key")].concat();
    let variable = [bytes(1, b"A"), bytes(3, &bytes(3, &reference))].concat();
    let container = [bytes(1, b"c"), bytes(7, &variable), bytes(10, &probe)].concat();
    let spec = [bytes(1, &volume), bytes(2, &container)].concat();
    assert_eq!(
        decode("", "v1", "Pod", &bytes(2, &spec)),
        json!({"spec": {
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
            "containers": [{
                "name": "c",
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "key"}}}],
                "livenessProbe": {"httpGet": {"path": "/x", "port": 80}, "periodSeconds": 10},
            }],
        }})
    );
}
