// SPDX-License-Identifier: Apache-2.0
//! What a ReplicaSet does with the pods it finds.

use knarr_api::k8s_openapi::jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::owners::Controller;
use crate::pods::{Phase, Ready};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn set(replicas: i32) -> ReplicaSet {
    set_with(json!({"replicas": replicas}), json!({}))
}

fn set_with(more_spec: Value, status: Value) -> ReplicaSet {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}, "annotations": {"note": "x"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}},
    });
    for (key, value) in more_spec.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let mut status = status;
    if status.get("replicas").is_none() {
        status["replicas"] = json!(0);
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 4},
        "spec": spec, "status": status,
    }))
    .unwrap()
}

fn owner(uid: &str) -> Option<Controller> {
    Some(Controller {
        kind: "ReplicaSet".into(),
        name: "web".into(),
        uid: uid.into(),
    })
}

fn pod(name: &str) -> PodView {
    PodView {
        name: NamespacedName::new("default", name),
        uid: name.into(),
        labels: Box::new([("app".to_owned(), "web".to_owned())]),
        controller: owner("rs"),
        node: Some("node-1".into()),
        phase: Phase::Running,
        ready: Some(Ready {
            is_true: true,
            since: Some(at(0)),
            is_lost: false,
        }),
        created_at: Some(at(0)),
        ..PodView::default()
    }
}

fn planned(set: &ReplicaSet, pods: &[PodView]) -> Plan {
    planned_with(set, pods, &HashMap::new())
}

fn planned_with(set: &ReplicaSet, pods: &[PodView], related_on: &HashMap<Box<str>, usize>) -> Plan {
    let pods: Vec<_> = pods.iter().collect();
    plan(
        View {
            set,
            pods: &pods,
            related_on,
        },
        at(1000),
    )
    .unwrap()
}

fn names(refs: &[PodRef]) -> Vec<&str> {
    refs.iter().map(|pod| pod.name.name.as_str()).collect()
}

#[test]
fn missing_pods_are_created_and_surplus_ones_deleted() {
    for (wanted, have, create, delete) in [
        (3, 0, 3, 0),
        (3, 1, 2, 0),
        (3, 3, 0, 0),
        (1, 3, 0, 2),
        (0, 2, 0, 2),
        (1200, 0, 500, 0),
    ] {
        let pods: Vec<_> = (0..have).map(|i| pod(&format!("p{i}"))).collect();
        let plan = planned(&set(wanted), &pods);
        assert_eq!(
            (plan.create, plan.delete.len()),
            (create, delete),
            "{wanted} wanted, {have} there"
        );
    }
}

#[test]
fn ended_and_terminating_pods_do_not_count() {
    let mut failed = pod("failed");
    failed.phase = Phase::Failed;
    let mut leaving = pod("leaving");
    leaving.deleted_at = Some(at(5));
    let plan = planned(&set(2), &[failed, leaving, pod("good")]);
    assert_eq!((plan.create, plan.delete.len()), (1, 0));
    assert_eq!(plan.members.len(), 3);
    assert!(plan.release.is_empty());
}

#[test]
fn orphans_are_adopted_strangers_released_and_others_pods_left_alone() {
    let mut orphan = pod("orphan");
    orphan.controller = None;
    let mut stranger = pod("stranger");
    stranger.labels = Box::new([("app".to_owned(), "other".to_owned())]);
    let mut foreign = pod("foreign");
    foreign.controller = owner("another");
    let mut ended = pod("ended");
    ended.controller = None;
    ended.phase = Phase::Succeeded;
    let plan = planned(&set(2), &[orphan, stranger, foreign, ended]);
    assert_eq!(names(&plan.adopt), ["orphan"]);
    assert_eq!(names(&plan.release), ["stranger"]);
    assert_eq!(plan.create, 1, "the orphan counts, the stranger does not");
}

#[test]
fn a_set_that_is_being_deleted_does_nothing() {
    let mut set = set(3);
    set.metadata.deletion_timestamp = Some(Time(at(0)));
    let mut orphan = pod("orphan");
    orphan.controller = None;
    let plan = planned(&set, &[orphan, pod("own")]);
    assert_eq!(
        Plan {
            members: vec!["own".into()],
            ..Plan::default()
        },
        plan
    );
}

#[test]
fn pods_are_deleted_in_kubernetes_order() {
    let change = |name: &str, change: &dyn Fn(&mut PodView)| {
        let mut pod = pod(name);
        change(&mut pod);
        pod
    };
    // Each pod is to go before all that follow it.
    let pods = [
        change("unassigned", &|p| {
            p.node = None;
            p.phase = Phase::Pending;
            p.ready = None;
        }),
        change("pending", &|p| {
            p.phase = Phase::Pending;
            p.ready = None;
        }),
        change("unknown", &|p| {
            p.phase = Phase::Unknown;
            p.ready = None;
        }),
        change("unready", &|p| {
            p.ready = Some(Ready {
                is_true: false,
                since: None,
                is_lost: false,
            })
        }),
        change("cheap", &|p| p.deletion_cost = -1),
        change("doubled", &|p| p.node = Some("crowded".into())),
        change("ready-since-now", &|p| {
            p.ready = Some(Ready {
                is_true: true,
                since: Some(at(999)),
                is_lost: false,
            })
        }),
        change("restarted", &|p| p.restarts = 3),
        change("young", &|p| p.created_at = Some(at(990))),
        change("old-a", &|_| {}),
        change("old-b", &|p| p.created_at = Some(at(1))),
        change("dear", &|p| p.deletion_cost = 10),
    ];
    let related = HashMap::from([("crowded".into(), 5), ("node-1".into(), 1)]);
    let mut shuffled: Vec<PodView> = pods.to_vec();
    shuffled.reverse();
    let plan = planned_with(&set(0), &shuffled, &related);
    let wanted: Vec<_> = pods.iter().map(|pod| pod.name.name.as_str()).collect();
    assert_eq!(names(&plan.delete), wanted);
}

#[test]
fn batches_double_until_all_are_asked_for() {
    assert_eq!(slow_start_batches(0).count(), 0);
    assert_eq!(slow_start_batches(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
    assert_eq!(slow_start_batches(500).sum::<usize>(), 500);
}

#[test]
fn a_new_pod_carries_template_and_owner() {
    let pod = new_pod(&set(1));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-"));
    assert_eq!(pod.metadata.labels.unwrap()["app"], "web");
    assert_eq!(pod.metadata.annotations.unwrap()["note"], "x");
    let owner = &pod.metadata.owner_references.unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str()),
        ("ReplicaSet", "rs")
    );
    assert_eq!(
        (owner.controller, owner.block_owner_deletion),
        (Some(true), Some(true))
    );
    assert_eq!(pod.spec.unwrap().containers[0].name, "c");
}

#[test]
fn the_status_counts_ready_and_available_pods_and_is_written_once() {
    let mut set = set_with(json!({"replicas": 3, "minReadySeconds": 10}), json!({}));
    let mut fresh = pod("fresh");
    fresh.ready = Some(Ready {
        is_true: true,
        since: Some(at(95)),
        is_lost: false,
    });
    let mut unready = pod("unready");
    unready.ready = None;
    unready.labels = Box::new([]);
    let mut leaving = pod("leaving");
    leaving.deleted_at = Some(at(1));
    let old = pod("old");
    let pods = [&old, &fresh, &unready, &leaving];
    let StatusPlan {
        status,
        again_after,
    } = plan_status(&set, &pods, None, at(100));
    let status = status.unwrap();
    assert_eq!(
        (
            status.replicas,
            status.fully_labeled_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.terminating_replicas,
            status.observed_generation
        ),
        (3, Some(2), Some(2), Some(1), Some(1), Some(4))
    );
    assert_eq!(again_after, Some(Duration::from_secs(5)));
    set.status = Some(status);
    assert_eq!(plan_status(&set, &pods, None, at(101)).status, None);
    let later = at(100).checked_add(SignedDuration::from_secs(5)).unwrap();
    assert_eq!(
        plan_status(&set, &pods, None, later)
            .status
            .unwrap()
            .available_replicas,
        Some(2)
    );
}

#[test]
fn absent_and_zero_counters_are_the_same_status() {
    let mut set = set(0);
    set.status = Some(ReplicaSetStatus {
        observed_generation: Some(4),
        ..ReplicaSetStatus::default()
    });
    assert_eq!(plan_status(&set, &[], None, at(0)), StatusPlan::default());
}

#[test]
fn a_failure_becomes_a_condition_once_and_goes_when_all_is_well() {
    let mut set = set(1);
    let failure = |message: &str| Failure {
        reason: ConditionReason::FailedCreate,
        message: message.to_owned(),
    };
    let status = plan_status(&set, &[], Some(&failure("quota")), at(0))
        .status
        .unwrap();
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!(
        (
            condition.type_.as_deref(),
            condition.status.as_deref(),
            condition.message.as_deref()
        ),
        (Some("ReplicaFailure"), Some("True"), Some("quota"))
    );
    set.status = Some(status);
    assert_eq!(
        plan_status(&set, &[], Some(&failure("quota again")), at(9)).status,
        None
    );
    assert_eq!(
        plan_status(&set, &[], None, at(10))
            .status
            .unwrap()
            .conditions,
        None
    );
}
