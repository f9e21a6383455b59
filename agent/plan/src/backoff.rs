// SPDX-License-Identifier: Apache-2.0
//! The delay between a container's end and its next start, as kubelet's crash-loop back-off does it
//! (kubelet v1.37 `doBackOff`: 10 s, doubled to 300 s, forgotten after 600 s without a restart).
//!
//! Not here: whether a container is restarted at all (`pod`). Called by `record` and `pod`.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// The first delay, in milliseconds.
pub const BACK_OFF_FIRST_MS: Millis = 10_000;
/// The longest delay, in milliseconds.
pub const BACK_OFF_MAX_MS: Millis = 300_000;
/// A container that stayed up this long after its last restart starts again with no delay.
pub const BACK_OFF_RESET_MS: Millis = 2 * BACK_OFF_MAX_MS;

/// Where a container stands in its back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    /// The delay that the next end has to wait, in milliseconds.
    pub delay_ms: Millis,
    /// When the delay was last raised: the moment of the last restart.
    pub updated_ms: Millis,
}

impl BackOff {
    /// The moment at which a container that ended at `finished_ms` may start again.
    pub fn due(current: Option<BackOff>, finished_ms: Millis) -> Millis {
        match current {
            Some(b) if finished_ms - b.updated_ms <= BACK_OFF_RESET_MS => finished_ms + b.delay_ms,
            _ => finished_ms,
        }
    }

    /// The back-off after a restart at `now_ms` that followed an end at `finished_ms`.
    pub fn next(current: Option<BackOff>, finished_ms: Millis, now_ms: Millis) -> BackOff {
        let delay_ms = match current {
            Some(b) if finished_ms - b.updated_ms <= BACK_OFF_RESET_MS => {
                (b.delay_ms * 2).min(BACK_OFF_MAX_MS)
            }
            _ => BACK_OFF_FIRST_MS,
        };
        BackOff {
            delay_ms,
            updated_ms: now_ms,
        }
    }
}

/// A delay in Go's notation for whole seconds, as Kubernetes' messages print it: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(ms: Millis) -> String {
    let s = ms / 1000;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests;
