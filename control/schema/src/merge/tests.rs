// SPDX-License-Identifier: Apache-2.0
//! Tests of strategic merge patches.

use serde_json::json;

use super::*;

fn merge(group: &str, kind: &str, current: Value, patch: Value) -> Result<Value, PatchError> {
    Schemas::builtin()
        .kind(group, "v1", kind)
        .unwrap()
        .strategic_merge(&current, &patch)
}

fn pod(current: Value, patch: Value) -> Value {
    merge("", "Pod", json!({"spec": current}), json!({"spec": patch})).unwrap()["spec"].clone()
}

#[test]
fn containers_are_merged_by_name() {
    let current = json!({"containers": [{"name": "a", "image": "a:1", "tty": true}, {"name": "b", "image": "b:1"}]});
    let patched = pod(
        current,
        json!({"containers": [{"name": "a", "image": "a:2"}, {"name": "c", "image": "c:1"}]}),
    );
    assert_eq!(
        patched,
        json!({"containers": [
        {"name": "a", "image": "a:2", "tty": true}, {"name": "b", "image": "b:1"}, {"name": "c", "image": "c:1"}]})
    );
}

#[test]
fn an_element_is_deleted_by_directive() {
    let current = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let patched = pod(
        current,
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
    );
    assert_eq!(patched, json!({"containers": [{"name": "b"}]}));
}

#[test]
fn a_list_or_object_is_replaced_by_directive() {
    let current = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"a": "1"}});
    let patched = pod(
        current,
        json!({
            "containers": [{"$patch": "replace"}, {"name": "c"}],
            "nodeSelector": {"$patch": "replace", "b": "2"},
        }),
    );
    assert_eq!(
        patched,
        json!({"containers": [{"name": "c"}], "nodeSelector": {"b": "2"}})
    );
}

#[test]
fn lists_without_merge_rule_are_replaced() {
    let current =
        json!({"containers": [{"name": "a", "args": ["1", "2"]}], "tolerations": [{"key": "x"}]});
    let patched = pod(
        current,
        json!({"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "y"}]}),
    );
    assert_eq!(
        patched,
        json!({"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "y"}]})
    );
}

#[test]
fn null_removes_a_field() {
    let patched = merge(
        "",
        "Pod",
        json!({"metadata": {"labels": {"a": "1", "b": "2"}, "name": "p"}}),
        json!({"metadata": {"labels": {"a": null}, "annotations": {"x": null}}}),
    )
    .unwrap();
    assert_eq!(
        patched,
        json!({"metadata": {"labels": {"b": "2"}, "name": "p", "annotations": {}}})
    );
}

#[test]
fn primitive_sets_are_united_and_shortened() {
    let current = json!({"metadata": {"finalizers": ["a", "b"]}});
    let added = merge(
        "",
        "Pod",
        current.clone(),
        json!({"metadata": {"finalizers": ["b", "c"]}}),
    )
    .unwrap();
    assert_eq!(added, json!({"metadata": {"finalizers": ["a", "b", "c"]}}));
    let removed = merge(
        "",
        "Pod",
        current,
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
    )
    .unwrap();
    assert_eq!(removed, json!({"metadata": {"finalizers": ["b"]}}));
}

#[test]
fn the_order_of_the_patch_is_kept_around_elements_of_the_server() {
    let current = json!({"containers": [{"name": "a"}, {"name": "sidecar"}, {"name": "b"}]});
    let patched = pod(
        current,
        json!({
            "$setElementOrder/containers": [{"name": "new"}, {"name": "a"}, {"name": "b"}],
            "containers": [{"name": "new", "image": "n"}],
        }),
    );
    let names: Vec<&str> = patched["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["new", "a", "sidecar", "b"]);
    assert_eq!(patched.get("$setElementOrder/containers"), None);
}

#[test]
fn retain_keys_drops_the_others() {
    let current =
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patched = merge(
        "apps",
        "Deployment",
        current,
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    )
    .unwrap();
    assert_eq!(patched, json!({"spec": {"strategy": {"type": "Recreate"}}}));
}

#[test]
fn service_ports_are_merged_by_port() {
    let current = json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}});
    let patched = merge(
        "",
        "Service",
        current,
        json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}}),
    )
    .unwrap();
    assert_eq!(
        patched["spec"]["ports"][0],
        json!({"port": 80, "nodePort": 30080, "targetPort": 8080})
    );
    assert_eq!(patched["spec"]["ports"].as_array().unwrap().len(), 2);
}

#[test]
fn broken_patches_are_refused() {
    let refuse = |patch: Value| merge("", "Pod", json!({}), patch).unwrap_err().to_string();
    assert_eq!(
        refuse(json!([])),
        "a strategic merge patch must be a JSON object"
    );
    assert_eq!(
        refuse(json!({"$patch": "explode"})),
        "unrecognized patch type: explode"
    );
    assert_eq!(
        refuse(json!({"spec": {"containers": [{"image": "x"}]}})),
        "map: {\"image\":\"x\"} does not contain declared merge key: name"
    );
    let bad_order = json!({"metadata": {"$setElementOrder/finalizers": 1}});
    let current = json!({"metadata": {"finalizers": ["a"]}});
    assert!(merge("", "Pod", current, bad_order).is_err());
}
