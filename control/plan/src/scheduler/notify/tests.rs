// SPDX-License-Identifier: Apache-2.0
//! When unschedulable pods get reasons, and which.

use serde_json::{Value, json};

use super::*;

fn uid(name: &str) -> Arc<str> {
    name.into()
}

fn sent(uid: &str, message: &str) -> Option<Notification> {
    Some(Notification {
        uid: uid.into(),
        message: message.to_owned(),
    })
}

#[test]
fn a_reason_is_written_once_and_a_new_one_not_too_soon() {
    let start = Instant::now();
    let mut notifications = Notifications::default();
    notifications.unschedulable(&uid("a"), "full".to_owned(), None, start);
    assert_eq!(notifications.take_next(), sent("a", "full"));
    assert_eq!(notifications.take_next(), None);
    notifications.written("a");
    notifications.unschedulable(&uid("a"), "full".to_owned(), Some("full"), start);
    assert_eq!(
        (notifications.take_next(), notifications.retry_at()),
        (None, None)
    );
    let soon = start + Duration::from_secs(1);
    notifications.unschedulable(&uid("a"), "tainted".to_owned(), Some("full"), soon);
    assert_eq!(notifications.take_next(), None);
    assert_eq!(notifications.retry_at(), Some(start + NOTIFY_EVERY));
    assert_eq!(notifications.take_postponed(), HashSet::from([uid("a")]));
    assert_eq!(notifications.retry_at(), None);
    notifications.unschedulable(
        &uid("a"),
        "tainted".to_owned(),
        Some("full"),
        start + NOTIFY_EVERY,
    );
    assert_eq!(notifications.take_next(), sent("a", "tainted"));
}

#[test]
fn a_reason_that_could_not_be_written_is_looked_up_again() {
    let start = Instant::now();
    let mut notifications = Notifications::default();
    notifications.unschedulable(&uid("a"), "full".to_owned(), None, start);
    assert_eq!(notifications.take_next(), sent("a", "full"));
    notifications.failed(&uid("a"), start);
    assert_eq!(notifications.retry_at(), Some(start + NOTIFY_EVERY));
    assert_eq!(notifications.take_postponed(), HashSet::from([uid("a")]));
    notifications.unschedulable(&uid("a"), "full".to_owned(), None, start + NOTIFY_EVERY);
    assert_eq!(notifications.take_next(), sent("a", "full"));
}

#[test]
fn a_pod_is_written_by_one_at_a_time_and_with_its_newest_reason() {
    let start = Instant::now();
    let mut notifications = Notifications::default();
    notifications.unschedulable(&uid("a"), "1".to_owned(), None, start);
    assert_eq!(notifications.take_next(), sent("a", "1"));
    notifications.unschedulable(&uid("a"), "2".to_owned(), None, start + NOTIFY_EVERY);
    notifications.unschedulable(&uid("b"), "1".to_owned(), None, start);
    assert_eq!(notifications.take_next(), sent("b", "1"));
    assert_eq!(notifications.take_next(), None);
    notifications.unschedulable(
        &uid("a"),
        "3".to_owned(),
        Some("1"),
        start + NOTIFY_EVERY * 2,
    );
    notifications.written("a");
    assert_eq!(notifications.take_next(), sent("a", "3"));
    assert_eq!(notifications.take_next(), None);
}

#[test]
fn a_pod_that_was_scheduled_gets_no_reason() {
    let mut notifications = Notifications::default();
    notifications.unschedulable(&uid("a"), "1".to_owned(), None, Instant::now());
    notifications.forget("a");
    assert_eq!(notifications.take_next(), None);
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
