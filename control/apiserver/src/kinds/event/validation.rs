// SPDX-License-Identifier: Apache-2.0
//! What is wrong with an Event, by the API that it comes in by: core/v1 is as lenient as it always was,
//! events.k8s.io/v1 demands whole events and lets only their series change. Both look at the stored form, so the paths
//! are core/v1's. Called by the two strategies in `event.rs`.
//!
//! Rules, order and wording of `pkg/apis/core/validation/events.go` (v1.37).

use k8s_openapi::api::core::v1::Event;
use knarr_api::names::validate_qualified_name;
use serde_json::{Value, json};

use super::Face;
use crate::field::FieldErrors;
use crate::registry::rules::text;

/// Longest reporting instance, action and reason, in bytes.
const WORD_BYTES_MAX: usize = 128;
/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Checks a new event.
pub(super) fn validate_create(face: Face, event: &Event, errors: &mut FieldErrors) {
    validate_either(face, event, errors);
    if face == Face::Core {
        return;
    }
    validate_series(event, errors);
    if event.event_time.is_none() {
        errors.required("eventTime", "");
    }
    let kind = text(&event.type_);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", "", &format!("has invalid value: {kind}"));
    }
    // These are there for events that came in by core/v1.
    let source = event.source.clone().unwrap_or_default();
    let has_source = !text(&source.component).is_empty() || !text(&source.host).is_empty();
    for (field, is_set) in [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or(0) != 0),
        ("source", has_source),
    ] {
        if is_set {
            errors.invalid(field, "", "needs to be unset");
        }
    }
}

/// Checks a changed event.
pub(super) fn validate_update(face: Face, new: &Event, old: &Event, errors: &mut FieldErrors) {
    validate_either(face, new, errors);
    if face == Face::Core {
        return;
    }
    if new.series != old.series {
        validate_series(new, errors);
    }
    for ((path, now), (_, before)) in immutable(new).into_iter().zip(immutable(old)) {
        if now != before {
            let now = if now.is_null() { "".into() } else { now };
            errors.invalid(field_of(face, path), now, "field is immutable");
        }
    }
}

/// What events.k8s.io/v1 does not let a change touch, by its name in core/v1.
fn immutable(event: &Event) -> [(&'static str, Value); 13] {
    [
        ("involvedObject", json!(event.involved_object)),
        ("reason", json!(event.reason)),
        ("message", json!(event.message)),
        ("source", json!(event.source)),
        ("firstTimestamp", json!(event.first_timestamp)),
        ("lastTimestamp", json!(event.last_timestamp)),
        ("count", json!(event.count)),
        ("type", json!(event.type_)),
        ("eventTime", json!(event.event_time)),
        ("action", json!(event.action)),
        ("related", json!(event.related)),
        ("reportingComponent", json!(event.reporting_component)),
        ("reportingInstance", json!(event.reporting_instance)),
    ]
}

/// What both APIs demand. An event that says by `eventTime` when it happened is of the newer sort, whichever it comes
/// by.
fn validate_either(face: Face, event: &Event, errors: &mut FieldErrors) {
    let about = text(&event.involved_object.namespace);
    let namespace = text(&event.metadata.namespace);
    let newer = event.event_time.is_some();
    let matches = match (newer, about) {
        (false, "") => matches!(namespace, "" | "default"),
        (false, about) => about == namespace,
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
    };
    if !matches {
        errors.invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        );
    }
    if !newer {
        return;
    }
    let reporter = text(&event.reporting_component);
    let field = field_of(face, "reportingComponent");
    if reporter.is_empty() {
        errors.required(field, "");
    }
    for message in validate_qualified_name(reporter) {
        errors.invalid(field, reporter, &message);
    }
    for (field, word) in [
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ] {
        let word = text(word);
        if word.is_empty() {
            errors.required(field, "");
        }
        check_length(field, word, WORD_BYTES_MAX, errors);
    }
    check_length("message", text(&event.message), MESSAGE_BYTES_MAX, errors);
}

fn check_length(field: &str, text: &str, bytes_max: usize, errors: &mut FieldErrors) {
    if text.len() > bytes_max {
        let detail = format!("can have at most {bytes_max} characters");
        errors.invalid(field, "", &detail);
    }
}

fn validate_series(event: &Event, errors: &mut FieldErrors) {
    let Some(series) = &event.series else {
        return;
    };
    if series.count.unwrap_or(0) < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if series.last_observed_time.is_none() {
        errors.required("series.lastObservedTime", "");
    }
}

/// The only field that is told by the name that the client's own API has for it.
fn field_of(face: Face, path: &'static str) -> &'static str {
    match (face, path) {
        (Face::Events, "reportingComponent") => "reportingController",
        _ => path,
    }
}
