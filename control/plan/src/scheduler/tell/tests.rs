// SPDX-License-Identifier: Apache-2.0
//! Tests of what waiting pods are told, and when.

use serde_json::{Value, json};

use super::*;

fn uid(name: &str) -> Arc<str> {
    name.into()
}

fn told(uid: &str, message: &str) -> Option<Telling> {
    Some(Telling {
        uid: uid.into(),
        message: message.to_owned(),
    })
}

#[test]
fn a_reason_is_told_once_and_a_new_one_not_too_soon() {
    let start = Instant::now();
    let mut tellings = Tellings::default();
    tellings.refused(&uid("a"), "full".to_owned(), None, start);
    assert_eq!(tellings.take_next(), told("a", "full"));
    assert_eq!(tellings.take_next(), None);
    tellings.ended("a");
    tellings.refused(&uid("a"), "full".to_owned(), Some("full"), start);
    assert_eq!((tellings.take_next(), tellings.again_at()), (None, None));
    let soon = start + Duration::from_secs(1);
    tellings.refused(&uid("a"), "tainted".to_owned(), Some("full"), soon);
    assert_eq!(tellings.take_next(), None);
    assert_eq!(tellings.again_at(), Some(start + TELL_EVERY));
    assert_eq!(tellings.take_untold(), HashSet::from([uid("a")]));
    assert_eq!(tellings.again_at(), None);
    tellings.refused(
        &uid("a"),
        "tainted".to_owned(),
        Some("full"),
        start + TELL_EVERY,
    );
    assert_eq!(tellings.take_next(), told("a", "tainted"));
}

#[test]
fn a_reason_that_could_not_be_written_is_looked_up_again() {
    let start = Instant::now();
    let mut tellings = Tellings::default();
    tellings.refused(&uid("a"), "full".to_owned(), None, start);
    assert_eq!(tellings.take_next(), told("a", "full"));
    tellings.failed(&uid("a"), start);
    assert_eq!(tellings.again_at(), Some(start + TELL_EVERY));
    assert_eq!(tellings.take_untold(), HashSet::from([uid("a")]));
    tellings.refused(&uid("a"), "full".to_owned(), None, start + TELL_EVERY);
    assert_eq!(tellings.take_next(), told("a", "full"));
}

#[test]
fn a_pod_is_written_by_one_at_a_time_and_with_its_newest_reason() {
    let start = Instant::now();
    let mut tellings = Tellings::default();
    tellings.refused(&uid("a"), "1".to_owned(), None, start);
    assert_eq!(tellings.take_next(), told("a", "1"));
    tellings.refused(&uid("a"), "2".to_owned(), None, start + TELL_EVERY);
    tellings.refused(&uid("b"), "1".to_owned(), None, start);
    assert_eq!(tellings.take_next(), told("b", "1"));
    assert_eq!(tellings.take_next(), None);
    tellings.refused(&uid("a"), "3".to_owned(), Some("1"), start + TELL_EVERY * 2);
    tellings.ended("a");
    assert_eq!(tellings.take_next(), told("a", "3"));
    assert_eq!(tellings.take_next(), None);
}

#[test]
fn a_pod_that_waits_no_more_is_told_nothing() {
    let mut tellings = Tellings::default();
    tellings.refused(&uid("a"), "1".to_owned(), None, Instant::now());
    tellings.forget("a");
    assert_eq!(tellings.take_next(), None);
}

fn pod(spec: Value, scheduled: Value) -> Pod {
    serde_json::from_value(json!({"spec": spec, "status": {"conditions": [scheduled]}})).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

#[test]
fn a_pod_with_a_node_is_never_called_unschedulable() {
    let bound = json!({"nodeName": "n", "containers": []});
    let pod = pod(bound, json!({"type": "PodScheduled", "status": "True"}));
    assert_eq!(unschedulable_status(&pod, "full", at(9)), None);
}

#[test]
fn a_new_reason_keeps_the_time_since_which_the_pod_waits() {
    let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "full", "lastTransitionTime": "1970-01-01T00:00:05Z"});
    let waiting = pod(json!({"containers": []}), condition);
    assert_eq!(unschedulable_status(&waiting, "full", at(9)), None);
    let status = unschedulable_status(&waiting, "tainted", at(9)).unwrap();
    let [condition] = &status.conditions.unwrap()[..] else {
        panic!("one condition")
    };
    assert_eq!(condition.message.as_deref(), Some("tainted"));
    assert_eq!(condition.last_transition_time, Some(Time(at(5))));
    let mut fresh = waiting;
    fresh.status = None;
    let status = unschedulable_status(&fresh, "full", at(9)).unwrap();
    let since = status.conditions.unwrap()[0].last_transition_time.clone();
    assert_eq!(since, Some(Time(at(9))));
}
