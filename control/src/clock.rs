// SPDX-License-Identifier: Apache-2.0
//! The time: as Kubernetes objects carry it, as certificates do, and as one measures with it.
//!
//! `k8s-openapi` brings its time type without the clock; this is the one place that puts them together, and the
//! only one in the crate that asks a clock what time of day it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

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

/// One moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For measuring: it only ever goes forward.
    pub monotonic: Instant,
    /// For people: it may be set.
    pub wall: SystemTime,
}

/// This moment.
#[must_use]
pub fn moment() -> Moment {
    Moment {
        monotonic: Instant::now(),
        wall: SystemTime::now(),
    }
}

/// Now, as certificates carry it.
#[must_use]
pub fn utc() -> time::OffsetDateTime {
    SystemTime::now().into()
}
