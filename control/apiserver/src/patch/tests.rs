// SPDX-License-Identifier: Apache-2.0
//! Patches of each kind, and those that do not fit.

use serde_json::json;

use super::apply;
use crate::{Patch, Reason, registry};

#[test]
fn each_kind_of_patch_changes_what_it_says() {
    let kind = &registry::builtin("", "configmaps");
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
    let kind = &registry::builtin("", "configmaps");
    let current = json!({"data": {"a": "1"}});
    let patch = Patch::Json(json!([{"op": "test", "path": "/data/a", "value": "2"}]));
    let error = apply(kind, &current, &patch).expect_err("it does not hold");
    assert_eq!(error.reason(), Reason::Invalid);
    assert_eq!(error.code(), 422);
}

#[test]
fn fields_that_the_kind_does_not_have_are_told() {
    let kind = &registry::builtin("", "configmaps");
    let patch = Patch::Merge(json!({"spec": {"x": 1}}));
    let patched = apply(kind, &json!({"data": {}}), &patch).expect("it fits");
    assert_eq!(patched.problems, [r#"unknown field "spec""#]);
    assert!(patched.object.get("spec").is_none());
}

#[test]
fn a_patch_of_the_wrong_shape_or_type_is_a_bad_request() {
    let kind = &registry::builtin("apps", "deployments");
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

/// `/data` into each of these places, one after the other.
fn copies(into: impl IntoIterator<Item = String>) -> Patch {
    let copy = |path| json!({"op": "copy", "from": "/data", "path": path});
    Patch::Json(into.into_iter().map(copy).collect())
}

#[test]
fn a_json_patch_copies_as_many_bytes_as_a_body_may_have() {
    let kind = &registry::builtin("", "configmaps");
    // `{"k":"..."}` of one MiB, copied to where it does not grow itself.
    let current = json!({"data": {"k": "v".repeat((1 << 20) - 8)}, "binaryData": {}});
    let places = |n: usize| (0..n).map(|n| format!("/binaryData/{n}"));
    let before = current["data"].to_string().len();
    assert_eq!(before, 1 << 20);
    // The schema takes no objects there, which is found only after the patch was applied.
    let fits = apply(kind, &current, &copies(places(3))).expect_err("of the wrong type");
    assert_eq!(fits.reason(), Reason::BadRequest, "{fits}");
    let error = apply(kind, &current, &copies(places(4))).expect_err("too much");
    assert_eq!(error.code(), 422);
    assert!(
        error.to_string().ends_with(
            "the accumulated size increase of copy is 4194304, exceeding the limit 3145728"
        ),
        "{error}"
    );
}

#[test]
fn a_json_patch_that_moves_much_to_deeper_places_again_and_again_is_refused() {
    let kind = &registry::builtin("", "configmaps");
    let values = vec![json!(1); 100_000];
    let current = json!({"data": {"a": values}, "binaryData": {"a": {}}});
    let there = json!({"op": "move", "from": "/data/a", "path": "/binaryData/a/b"});
    let back = json!({"op": "move", "from": "/binaryData/a/b", "path": "/data/a"});
    let moves = |times: usize| {
        let both = std::iter::repeat_n([&there, &back], times).flatten();
        Patch::Json(both.cloned().collect())
    };
    // The schema takes no arrays there, which is found only after the patch was applied.
    let fits = apply(kind, &current, &moves(15)).expect_err("of the wrong type");
    assert_eq!(fits.reason(), Reason::BadRequest, "{fits}");
    let error = apply(kind, &current, &moves(16)).expect_err("too much");
    assert_eq!(error.code(), 422);
    assert!(
        error
            .to_string()
            .contains("the moves to deeper places go over more than 1572864 values together"),
        "{error}"
    );
    // Moves that end no deeper need no such look.
    let sideways = json!({"op": "move", "from": "/data/a", "path": "/data/b"});
    let return_ = json!({"op": "move", "from": "/data/b", "path": "/data/a"});
    let many = Patch::Json(
        std::iter::repeat_n([sideways, return_], 100)
            .flatten()
            .collect(),
    );
    let fits = apply(kind, &current, &many).expect_err("of the wrong type");
    assert_eq!(fits.reason(), Reason::BadRequest, "{fits}");
}

#[test]
fn a_json_patch_has_ten_thousand_operations_at_most() {
    let kind = &registry::builtin("", "configmaps");
    let current = json!({"data": {"a": "1"}});
    let tests = |n: usize| {
        let test = json!({"op": "test", "path": "/data/a", "value": "1"});
        Patch::Json(vec![test; n].into())
    };
    apply(kind, &current, &tests(10_000)).expect("as many as are allowed");
    let error = apply(kind, &current, &tests(10_001)).expect_err("one more");
    assert_eq!(error.reason(), Reason::RequestEntityTooLarge);
    assert_eq!(error.code(), 413);
}

#[test]
fn a_json_patch_nests_no_deeper_than_what_can_be_read_again() {
    let kind = &registry::builtin("", "configmaps");
    let current = json!({"data": {}});
    let refused = |operations: serde_json::Value, what: &str| {
        let error = apply(kind, &current, &Patch::Json(operations)).expect_err(what);
        assert_eq!(error.code(), 422, "{what}: {error}");
        assert!(
            error.to_string().contains("nests deeper than 127 levels"),
            "{what}: {error}"
        );
    };
    let nested = |levels: usize| (0..levels).fold(json!({}), |inner, _| json!({"a": inner}));
    // Each of these puts one level around what was there before.
    let copies = vec![json!({"op": "copy", "from": "/data", "path": "/data/x"}); 200];
    refused(copies.into(), "copies");
    let mut moves = vec![json!({"op": "add", "path": "/data/0", "value": {}})];
    for n in 0..200 {
        let outer = format!("/data/{}", n + 1);
        moves.push(json!({"op": "add", "path": outer, "value": {}}));
        moves.push(
            json!({"op": "move", "from": format!("/data/{n}"), "path": format!("{outer}/x")}),
        );
    }
    refused(moves.into(), "moves");
    for op in ["add", "replace"] {
        let put = json!([{"op": op, "path": "/data", "value": nested(126)}]);
        refused(put, op);
    }
    let fits = json!([
        {"op": "replace", "path": "/data", "value": nested(125)},
        {"op": "replace", "path": "/data", "value": {}},
    ]);
    apply(kind, &current, &Patch::Json(fits)).expect("as deep as is allowed, for a moment");
}

#[test]
fn what_is_wrong_with_a_json_patch_names_the_operation() {
    let kind = &registry::builtin("", "configmaps");
    let current = json!({"data": {"a": "1"}});
    let patch = Patch::Json(json!([
        {"op": "add", "path": "/data/b", "value": "2"},
        {"op": "copy", "from": "/data/none", "path": "/data/c"},
    ]));
    let error = apply(kind, &current, &patch).expect_err("nothing to copy");
    assert!(
        error
            .to_string()
            .ends_with("operation '/1' failed at path '/data/c': \"from\" path is invalid"),
        "{error}"
    );
}
