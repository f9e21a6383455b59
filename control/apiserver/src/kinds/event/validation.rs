// SPDX-License-Identifier: Apache-2.0
//! What is wrong with an Event, by the API that it comes in by: core/v1 is as lenient as it always was,
//! events.k8s.io/v1 demands whole events and lets only their series change. Both look at the stored form, so the paths
//! are core/v1's. Called by the two strategies in `event.rs`.
//!
//! Rules, order and wording of `pkg/apis/core/validation/events.go` (v1.37).

use knarr_api::names::validate_qualified_name;
use serde_json::Value;

use super::Face;
use crate::field::FieldErrors;
use crate::value;

/// Longest reporting instance, action and reason, in bytes.
const WORD_BYTES_MAX: usize = 128;
/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What events.k8s.io/v1 does not let a change touch.
const IMMUTABLE: [&str; 13] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

/// Checks a new event.
pub(super) fn validate_create(face: Face, event: &Value, errors: &mut FieldErrors) {
    validate_either(face, event, errors);
    if face == Face::Core {
        return;
    }
    validate_series(event, errors);
    if value::text(event, "eventTime").is_empty() {
        errors.required("eventTime", "");
    }
    let kind = value::text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid("type", "", &format!("has invalid value: {kind}"));
    }
    // These are there for events that came in by core/v1.
    let unset = |field: &str| value::text(event, field).is_empty();
    for (field, fits) in [
        ("firstTimestamp", unset("firstTimestamp")),
        ("lastTimestamp", unset("lastTimestamp")),
        ("count", value::int(event, "count").unwrap_or(0) == 0),
        ("source", unset("source.component") && unset("source.host")),
    ] {
        if !fits {
            errors.invalid(field, "", "needs to be unset");
        }
    }
}

/// Checks a changed event.
pub(super) fn validate_update(face: Face, new: &Value, old: &Value, errors: &mut FieldErrors) {
    validate_either(face, new, errors);
    if face == Face::Core {
        return;
    }
    if !value::same(new, old, "series") {
        validate_series(new, errors);
    }
    for path in IMMUTABLE {
        if !value::same(new, old, path) {
            let now = value::at(new, path).cloned().unwrap_or_else(|| "".into());
            errors.invalid(field_of(face, path), now, "field is immutable");
        }
    }
}

/// What both APIs demand. An event that says by `eventTime` when it happened is of the newer sort, whichever it comes
/// by.
fn validate_either(face: Face, event: &Value, errors: &mut FieldErrors) {
    let about = value::text(event, "involvedObject.namespace");
    let namespace = value::text(event, "metadata.namespace");
    let newer = !value::text(event, "eventTime").is_empty();
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
    let reporter = value::text(event, "reportingComponent");
    let field = field_of(face, "reportingComponent");
    if reporter.is_empty() {
        errors.required(field, "");
    }
    for message in validate_qualified_name(reporter) {
        errors.invalid(field, reporter, &message);
    }
    for field in ["reportingInstance", "action", "reason"] {
        let word = value::text(event, field);
        if word.is_empty() {
            errors.required(field, "");
        }
        check_length(field, word, WORD_BYTES_MAX, errors);
    }
    let message = value::text(event, "message");
    check_length("message", message, MESSAGE_BYTES_MAX, errors);
}

fn check_length(field: &str, text: &str, bytes_max: usize, errors: &mut FieldErrors) {
    if text.len() > bytes_max {
        let detail = format!("can have at most {bytes_max} characters");
        errors.invalid(field, "", &detail);
    }
}

fn validate_series(event: &Value, errors: &mut FieldErrors) {
    if value::at(event, "series").is_none() {
        return;
    }
    if value::int(event, "series.count").unwrap_or(0) < 2 {
        errors.invalid("series.count", "", "should be at least 2");
    }
    if value::text(event, "series.lastObservedTime").is_empty() {
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
