// SPDX-License-Identifier: Apache-2.0
//! The newest time of an Event counts. It may be in any of three fields.

use serde_json::{Value, json};

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn ends_of(event: Value) -> Timestamp {
    let event: Event = serde_json::from_value(event).unwrap();
    event_ends(&event, at("2026-01-01T00:00:00Z"))
}

#[test]
fn an_event_ends_an_hour_after_its_newest_time() {
    let old = "2026-01-01T08:00:00Z";
    let new = "2026-01-01T09:30:00Z";
    let micro = "2026-01-01T09:30:00.000000Z";
    let base = json!({"metadata": {"creationTimestamp": old}, "involvedObject": {}});
    assert_eq!(ends_of(base.clone()), at("2026-01-01T09:00:00Z"));
    for (field, time) in [
        ("lastTimestamp", json!(new)),
        ("firstTimestamp", json!(new)),
        ("eventTime", json!(micro)),
        ("series", json!({"count": 2, "lastObservedTime": micro})),
        ("metadata", json!({"creationTimestamp": new})),
    ] {
        let mut event = base.clone();
        event[field] = time;
        assert_eq!(ends_of(event), at("2026-01-01T10:30:00Z"), "{field}");
    }
}

#[test]
fn an_event_without_a_time_is_counted_from_now() {
    let event = json!({"metadata": {}, "involvedObject": {}});
    assert_eq!(ends_of(event), at("2026-01-01T01:00:00Z"));
}

#[test]
fn an_event_of_the_end_of_time_stays() {
    let event = Event {
        last_timestamp: Some(
            knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::MAX),
        ),
        ..Event::default()
    };
    assert_eq!(event_ends(&event, Timestamp::UNIX_EPOCH), Timestamp::MAX);
}

#[test]
fn nothing_is_left_once_the_hour_has_ended() {
    let end = at("2026-01-01T10:00:00Z");
    assert_eq!(
        left(end, at("2026-01-01T09:59:59.5Z")),
        Some(Duration::from_millis(500))
    );
    assert_eq!(left(end, end), None);
    assert_eq!(left(end, at("2026-01-01T11:00:00Z")), None);
}
