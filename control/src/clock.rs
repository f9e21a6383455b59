// SPDX-License-Identifier: Apache-2.0
//! The time, in the form that Kubernetes objects carry it.
//!
//! `k8s-openapi` brings its time type without the clock; this is the one place that puts them together.

use std::time::{SystemTime, UNIX_EPOCH};

use knarr_api::k8s_openapi::jiff::Timestamp;

/// Now.
#[must_use]
pub fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

/// A moment of the system's clock. Moments before 1970, which only a broken clock has, are 1970.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since.as_nanos())
        .ok()
        .and_then(|nanoseconds| Timestamp::from_nanosecond(nanoseconds).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}
