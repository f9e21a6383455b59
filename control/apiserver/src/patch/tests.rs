// SPDX-License-Identifier: Apache-2.0
//! Patches of each kind, and those that do not fit.

use serde_json::json;

use super::apply;
use crate::{Patch, Reason, registry};

#[test]
fn each_kind_of_patch_changes_what_it_says() {
    let kind = registry::builtin("", "configmaps");
    let current = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "1", "b": "2"}});
    for patch in [
        Patch::Json(json!([
            {"op": "replace", "path": "/data/a", "value": "3"},
            {"op": "remove", "path": "/data/b"},
        ])),
        Patch::Merge(json!({"data": {"a": "3", "b": null}})),
        Patch::Strategic(json!({"data": {"a": "3", "b": null}})),
    ] {
        let patched = apply(kind, &current, &patch).expect("it fits");
        assert_eq!(patched.object["data"], json!({"a": "3"}), "{patch:?}");
    }
}

#[test]
fn a_test_that_fails_refuses_the_whole_patch() {
    let kind = registry::builtin("", "configmaps");
    let current = json!({"data": {"a": "1"}});
    let patch = Patch::Json(json!([{"op": "test", "path": "/data/a", "value": "2"}]));
    let error = apply(kind, &current, &patch).expect_err("it does not hold");
    assert_eq!(error.reason(), Reason::Invalid);
    assert_eq!(error.code(), 422);
}

#[test]
fn fields_that_the_kind_does_not_have_are_told() {
    let kind = registry::builtin("", "configmaps");
    let patch = Patch::Merge(json!({"spec": {"x": 1}}));
    let patched = apply(kind, &json!({"data": {}}), &patch).expect("it fits");
    assert_eq!(patched.problems, [r#"unknown field "spec""#]);
    assert!(patched.object.get("spec").is_none());
}

#[test]
fn a_patch_of_the_wrong_shape_or_type_is_a_bad_request() {
    let kind = registry::builtin("apps", "deployments");
    for patch in [
        Patch::Merge(json!([1])),
        Patch::Strategic(json!("x")),
        Patch::Json(json!({"a": 1})),
        Patch::Merge(json!({"spec": {"replicas": "three"}})),
    ] {
        let error = apply(kind, &json!({}), &patch).expect_err("wrong");
        assert_eq!(error.reason(), Reason::BadRequest, "{patch:?}");
    }
}
