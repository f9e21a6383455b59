// SPDX-License-Identifier: Apache-2.0
//! Encoding, splicing and taking metadata out.

use serde_json::{Value, json};

use super::{Object, encode};
use crate::registry;

fn pod() -> Value {
    json!({
        "spec": {"nodeName": "n1", "containers": []},
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": "u1",
            "resourceVersion": "77",
            "managedFields": [{"manager": "kubectl"}],
            "labels": {"app": "web", "\"metadata\":{": "x"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u0", "controller": true,
            }],
            "finalizers": ["example.com/wait"],
            "deletionTimestamp": "2026-01-02T03:04:05Z",
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready"}]},
    })
}

#[test]
fn what_is_stored_has_no_version_and_what_is_served_has_the_one_of_its_write() {
    let kind = &registry::builtin("", "pods");
    let stored = encode(kind, &pod());
    let text = String::from_utf8(stored.clone()).expect("text");
    assert!(text.starts_with(r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web""#));
    assert!(!text.contains("resourceVersion") && !text.contains("managedFields"));
    let object = Object::from_stored(kind, &stored, 12).expect("an object");
    let served: Value = serde_json::from_slice(&object.bytes).expect("JSON");
    assert_eq!(served["metadata"]["resourceVersion"], "12");
    assert_eq!(served["metadata"]["labels"]["app"], "web");
    assert_eq!(served["status"], pod()["status"]);
    let gone = object.deleted_at(15);
    let served: Value = serde_json::from_slice(&gone.bytes).expect("JSON");
    assert_eq!(served["metadata"]["resourceVersion"], "15");
    assert_eq!(encode(kind, &served), stored);
}

#[test]
fn metadata_and_selectable_fields_are_taken_out() {
    let kind = &registry::builtin("", "pods");
    let object = Object::from_stored(kind, &encode(kind, &pod()), 12).expect("an object");
    let meta = &object.meta;
    assert_eq!(meta.key(), "default/web");
    assert_eq!(meta.label("app"), Some("web"));
    assert_eq!(meta.controller().map(|o| &*o.uid), Some("u0"));
    assert_eq!(&*meta.finalizers, [Box::from("example.com/wait")]);
    assert!(meta.is_deleting());
    let field = |path| crate::page::field(kind, &object, path);
    assert_eq!(field("spec.nodeName"), Some("n1"));
    assert_eq!(field("status.phase"), Some("Running"));
    assert_eq!(field("spec.hostNetwork"), Some("false"));
    assert_eq!(field("status.podIP"), Some(""));
    assert_eq!(field("metadata.name"), Some("web"));
    assert_eq!(field("spec.other"), None);
}
