// SPDX-License-Identifier: Apache-2.0
//! The conditions of a terminating namespace, and when it is removed.

use knarr_api::k8s_openapi::api::core::v1::NamespaceStatus;
use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn terminating() -> Namespace {
    serde_json::from_value(json!({
        "metadata": {"name": "n", "deletionTimestamp": at(0).to_string()},
        "spec": {"finalizers": ["kubernetes"]},
    }))
    .unwrap()
}

fn content(resource: &str, group: &str, count: usize, finalizers: &[(&str, usize)]) -> Content {
    let finalizers = finalizers
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect();
    Content {
        resource: resource.to_owned(),
        group: group.to_owned(),
        count,
        finalizers,
    }
}

fn message(plan: &Plan, type_: &str) -> (String, String) {
    let conditions = plan.conditions.as_ref().unwrap();
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap();
    (condition.status.clone(), condition.message.clone().unwrap())
}

#[test]
fn what_remains_is_told_in_kubernetes_words_and_once() {
    let mut namespace = terminating();
    let left = [
        content("pods", "", 2, &[("x.io/f", 1)]),
        content("deployments", "apps", 1, &[]),
    ];
    let plan1 = plan(&namespace, &left, &[], at(1));
    assert!(!plan1.finalize);
    assert_eq!(
        message(&plan1, "NamespaceContentRemaining"),
        (
            "True".to_owned(),
            "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances"
                .to_owned()
        )
    );
    assert_eq!(
        message(&plan1, "NamespaceFinalizersRemaining").1,
        "Some content in the namespace has finalizers remaining: x.io/f in 1 resource instances"
    );
    namespace.status = Some(NamespaceStatus {
        conditions: plan1.conditions,
        phase: None,
    });
    assert_eq!(plan(&namespace, &left, &[], at(2)), Plan::default());
    let refused = plan(&namespace, &left, &["no".to_owned()], at(3));
    assert_eq!(
        message(&refused, "NamespaceDeletionContentFailure"),
        (
            "True".to_owned(),
            "Failed to delete all resource types, 1 remaining: no".to_owned()
        )
    );
}

#[test]
fn an_empty_namespace_goes_and_a_living_one_is_left_alone() {
    let gone = Plan {
        conditions: None,
        finalize: true,
    };
    assert_eq!(
        plan(&terminating(), &[content("pods", "", 0, &[])], &[], at(1)),
        gone
    );
    assert!(!plan(&terminating(), &[], &["refused".to_owned()], at(1)).finalize);
    let mut alive = terminating();
    alive.metadata.deletion_timestamp = None;
    assert_eq!(plan(&alive, &[], &[], at(1)), Plan::default());
}
