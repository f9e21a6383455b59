// SPDX-License-Identifier: Apache-2.0
//! A repeated event is counted, not written as a new object.

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn note(pod: &str, message: &str) -> Note {
    Note {
        about: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("default".to_owned()),
            name: Some(pod.to_owned()),
            uid: Some(pod.to_owned()),
            ..ObjectReference::default()
        },
        severity: Severity::Warning,
        reason: EventReason::FailedScheduling,
        message: message.to_owned(),
        source: "default-scheduler",
    }
}

#[test]
fn the_same_event_again_counts_up() {
    let mut correlator = Correlator::default();
    let Write::Create(event) = correlator.correlate(&note("p", "no room"), at(0)) else {
        panic!("the first is created")
    };
    let name = event.metadata.name.clone().unwrap();
    assert!(name.starts_with("p."));
    assert_eq!(
        (event.count, event.type_.as_deref()),
        (Some(1), Some("Warning"))
    );
    let counted = Write::Count {
        namespace: "default".to_owned(),
        name: name.clone(),
        count: 2,
        last: at(5),
        message: "no room".to_owned(),
    };
    assert_eq!(correlator.correlate(&note("p", "no room"), at(5)), counted);
    assert!(matches!(
        correlator.correlate(&note("q", "no room"), at(6)),
        Write::Create(_)
    ));
    correlator.forget("default", &name);
    assert!(matches!(
        correlator.correlate(&note("p", "no room"), at(7)),
        Write::Create(_)
    ));
}

#[test]
fn many_similar_events_become_one() {
    let mut correlator = Correlator::default();
    let mut created = 0;
    let mut last = Write::Nothing;
    for index in 0..15 {
        last = correlator.correlate(&note("p", &format!("reason {index}")), at(index));
        created += usize::from(matches!(last, Write::Create(_)));
    }
    assert_eq!(created, 10);
    let Write::Count { count, message, .. } = last else {
        panic!("{last:?}")
    };
    assert_eq!(
        (count, message.as_str()),
        (6, "(combined from similar events): reason 14")
    );
}

#[test]
fn a_talkative_source_is_not_heard_until_time_has_passed() {
    let mut correlator = Correlator::default();
    let heard = (0..100)
        .filter(|_| correlator.correlate(&note("p", "again"), at(0)) != Write::Nothing)
        .count();
    assert_eq!(heard, 25);
    assert_eq!(
        correlator.correlate(&note("p", "again"), at(299)),
        Write::Nothing
    );
    assert_ne!(
        correlator.correlate(&note("p", "again"), at(301)),
        Write::Nothing
    );
}

#[test]
fn memory_is_bounded() {
    let mut correlator = Correlator::default();
    for index in 0..10_000 {
        correlator.correlate(&note(&format!("p{index}"), "x"), at(index));
    }
    assert_eq!(correlator.told.map.len(), REMEMBERED_MAX);
    assert_eq!(correlator.told.order.len(), REMEMBERED_MAX);
    assert_eq!(correlator.budget.map.len(), REMEMBERED_MAX);
}
