// SPDX-License-Identifier: Apache-2.0
//! What is said of a workload's selector.

use serde_json::{Value, json};

use super::ReplicaSet;
use crate::field::FieldErrors;
use crate::registry::{Candidate, Rules, Strategy};

fn with_selector(selector: &Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "r"},
        "spec": {"template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "x:1"}]},
        }},
    });
    if !selector.is_null() {
        object["spec"]["selector"] = selector.clone();
    }
    ReplicaSet.default(&mut object);
    object
}

fn said(candidate: Candidate<'_>) -> String {
    let mut errors = FieldErrors::default();
    let checked = ReplicaSet.check(candidate, &mut errors);
    checked.expect("it is a ReplicaSet");
    if errors.is_empty() {
        String::new()
    } else {
        errors.aggregate()
    }
}

#[test]
fn a_missing_selector_is_not_an_empty_one() {
    for (selector, wanted) in [
        (json!({"matchLabels": {"app": "web"}}), ""),
        (Value::Null, "spec.selector: Required value"),
        (
            json!({}),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (
            json!({"matchLabels": {"app": "db"}}),
            r#"spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match template `labels`"#,
        ),
        (
            json!({"matchExpressions": [{"key": "app", "operator": "In"}]}),
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
    ] {
        let object = with_selector(&selector);
        assert_eq!(said(Candidate::New(&object)), wanted, "{selector}");
    }
}

#[test]
fn a_selector_stays_and_is_shown_in_kubernetes_order() {
    let old = with_selector(&json!({"matchLabels": {"app": "web"}}));
    let empty_list = json!({"matchLabels": {"app": "web"}, "matchExpressions": []});
    let same = with_selector(&empty_list);
    let changed = |new: &Value| said(Candidate::Changed { new, old: &old });
    assert_eq!(changed(&same), "");
    let more = json!({
        "matchExpressions": [{"operator": "Exists", "key": "app"}],
        "matchLabels": {"app": "web"},
    });
    assert_eq!(
        changed(&with_selector(&more)),
        r#"spec.selector: Invalid value: {"matchLabels":{"app":"web"},"matchExpressions":[{"key":"app","operator":"Exists"}]}: field is immutable"#
    );
    assert_eq!(
        changed(&with_selector(&Value::Null)),
        r#"[spec.selector: Required value, spec.selector: Invalid value: "null": field is immutable]"#
    );
}
