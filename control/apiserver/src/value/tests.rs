// SPDX-License-Identifier: Apache-2.0
//! Paths in trees.

use serde_json::json;

use super::{at, default, remove, same, set, text};

#[test]
fn a_path_finds_what_is_there_and_nothing_else() {
    let tree = json!({"spec": {"nodeName": "n1", "x": null}});
    assert_eq!(text(&tree, "spec.nodeName"), "n1");
    assert!(at(&tree, "spec.x").is_none());
    assert!(at(&tree, "status.phase").is_none());
}

#[test]
fn setting_makes_the_way_and_a_default_leaves_what_is_there() {
    let mut tree = json!({});
    set(&mut tree, "spec.strategy.type", "RollingUpdate");
    default(&mut tree, "spec.strategy.type", "Recreate");
    default(&mut tree, "spec.replicas", 1);
    assert_eq!(
        tree,
        json!({"spec": {"strategy": {"type": "RollingUpdate"}, "replicas": 1}})
    );
    assert_eq!(remove(&mut tree, "spec.replicas"), Some(json!(1)));
    assert_eq!(remove(&mut tree, "spec.replicas"), None);
}

#[test]
fn absent_null_and_empty_are_the_same() {
    assert!(same(&json!({"a": {"b": []}}), &json!({"a": null}), "a.b"));
    assert!(!same(&json!({"a": 1}), &json!({}), "a"));
}
