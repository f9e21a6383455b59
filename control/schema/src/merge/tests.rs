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
        {"name": "a", "image": "a:2", "tty": true}, {"name": "c", "image": "c:1"}, {"name": "b", "image": "b:1"}]})
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
        "unknown patch type: explode in map: map[$patch:explode]"
    );
    assert_eq!(
        refuse(json!({"spec": {"containers": [{"image": "x"}]}})),
        "map: map[image:x] does not contain declared merge key: name"
    );
    let bad_order = json!({"metadata": {"$setElementOrder/finalizers": 1}});
    let current = json!({"metadata": {"finalizers": ["a"]}});
    assert!(merge("", "Pod", current, bad_order).is_err());
    assert_eq!(
        refuse(json!({"spec": {"containers": ["x"]}})),
        "expected a map in a list that is merged by name, but received: x"
    );
    assert_eq!(
        refuse(json!({"spec": {"containers": [{"name": "x", "$patch": 1}]}})),
        "unknown patch type: 1 in map: map[$patch:1 name:x]"
    );
    assert_eq!(
        refuse(
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}})
        ),
        "invalid patch format of retainKeys"
    );
    assert_eq!(
        refuse(
            json!({"metadata": {"$setElementOrder/finalizers": ["b", "a"], "finalizers": ["a", "b"]}})
        ),
        "The order in patch list:\n[a b]\n doesn't match $setElementOrder/ list:\n[b a]\n"
    );
}

#[test]
fn what_the_patch_adds_comes_first_as_in_kubernetes() {
    // The example of kubernetes.io, "Update API Objects in Place Using kubectl patch".
    let current = json!({"template": {"spec": {"containers": [{"name": "patch-demo-ctr", "image": "nginx"}]}}});
    let patch = json!({"template": {"spec": {"containers": [{"name": "patch-demo-ctr-2", "image": "redis"}]}}});
    let patched = merge(
        "apps",
        "Deployment",
        json!({"spec": current}),
        json!({"spec": patch}),
    )
    .unwrap();
    assert_eq!(
        patched["spec"]["template"]["spec"]["containers"],
        json!([{"name": "patch-demo-ctr-2", "image": "redis"}, {"name": "patch-demo-ctr", "image": "nginx"}])
    );
}

#[test]
fn set_image_changes_one_field_of_one_container() {
    // What `kubectl set image deployment/web web=web:2` sends.
    let current = json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [
        {"name": "log", "image": "log:1"},
        {"name": "web", "image": "web:1", "ports": [{"containerPort": 8080, "protocol": "TCP"}]},
    ]}}}});
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "log"}, {"name": "web"}],
        "containers": [{"image": "web:2", "name": "web"}],
    }}}});
    let mut wanted = current.clone();
    wanted["spec"]["template"]["spec"]["containers"][1]["image"] = "web:2".into();
    assert_eq!(merge("apps", "Deployment", current, patch).unwrap(), wanted);
}

#[test]
fn environment_variables_are_merged_by_name() {
    let current = json!({"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]});
    let patched = pod(
        current,
        json!({"containers": [{"name": "c", "env": [
            {"name": "B", "$patch": "delete"}, {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}, "value": null}]}]}),
    );
    assert_eq!(
        patched["containers"][0]["env"],
        json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}])
    );
}

#[test]
fn a_volume_changes_its_source_by_retain_keys() {
    // What `kubectl apply` sends when an emptyDir becomes a hostPath.
    let current =
        json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]});
    let patched = pod(
        current,
        json!({
            "$setElementOrder/volumes": [{"name": "v"}, {"name": "w"}],
            "volumes": [{"$retainKeys": ["hostPath", "name"], "name": "v", "hostPath": {"path": "/x"}, "emptyDir": null}],
        }),
    );
    assert_eq!(
        patched["volumes"],
        json!([{"name": "v", "hostPath": {"path": "/x"}}, {"name": "w", "emptyDir": {}}])
    );
}

#[test]
fn ports_with_one_number_and_two_protocols_are_told_apart() {
    let current = json!({"containers": [{"name": "dns", "ports": [
        {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]}]});
    let patched = pod(
        current.clone(),
        json!({"containers": [{"name": "dns", "ports": [{"containerPort": 53, "protocol": "UDP", "name": "u"}]}]}),
    );
    assert_eq!(
        patched["containers"][0]["ports"],
        json!([{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP", "name": "u"}])
    );
    // Without a protocol in the patch the first is meant.
    let patched = pod(
        current,
        json!({"containers": [{"name": "dns", "ports": [{"containerPort": 53, "name": "t"}]}]}),
    );
    assert_eq!(patched["containers"][0]["ports"][0]["name"], "t");
}

#[test]
fn one_port_may_change_its_protocol() {
    let current = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}]}});
    let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 53}], "ports": [{"port": 53, "protocol": "UDP"}]}});
    assert_eq!(
        merge("", "Service", current, patch).unwrap(),
        json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}]}})
    );
}

#[test]
fn a_status_condition_is_merged_by_type() {
    // What `kubectl` and the node agent of Kubernetes send to a Node's status.
    let current = json!({"status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]}});
    let patch = json!({"status": {
        "$setElementOrder/conditions": [{"type": "MemoryPressure"}, {"type": "Ready"}],
        "conditions": [{"type": "Ready", "status": "False", "reason": "X"}],
    }});
    assert_eq!(
        merge("", "Node", current, patch).unwrap(),
        json!({"status": {"conditions": [
            {"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "False", "reason": "X"}]}})
    );
}

#[test]
fn owner_references_are_merged_by_uid_and_deleted_by_directive() {
    let current = json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}, {"uid": "2", "name": "b"}]}});
    let patch = json!({"metadata": {"uid": "x", "ownerReferences": [{"$patch": "delete", "uid": "1"}, {"uid": "2", "controller": true}]}});
    assert_eq!(
        merge("", "Pod", current, patch).unwrap(),
        json!({"metadata": {"ownerReferences": [{"uid": "2", "name": "b", "controller": true}], "uid": "x"}})
    );
}
