// SPDX-License-Identifier: Apache-2.0
//! When something has been kept long enough. An Event is kept for an hour after it last happened, as kube-apiserver's
//! `--event-ttl` has it.

use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::Event;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};

/// How long an Event is kept after it last happened.
const TTL: SignedDuration = SignedDuration::from_hours(1);

/// When the Event's hour ends; one without any time is counted from `now`.
pub fn event_ends(event: &Event, now: Timestamp) -> Timestamp {
    let series = event.series.as_ref();
    let times = [
        event.last_timestamp.as_ref().map(|time| time.0),
        event.first_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        series
            .and_then(|series| series.last_observed_time.as_ref())
            .map(|time| time.0),
        event
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0),
    ];
    let last = times.into_iter().flatten().max().unwrap_or(now);
    last.saturating_add(TTL).unwrap_or(Timestamp::MAX)
}

/// What is left until `ends`; `None` when it is over.
pub fn left(ends: Timestamp, now: Timestamp) -> Option<Duration> {
    let left = Duration::try_from(ends.duration_since(now)).ok()?;
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests;
