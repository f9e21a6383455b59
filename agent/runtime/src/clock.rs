// SPDX-License-Identifier: Apache-2.0
//! The system's clock, read by the agent's side and by the shims.

use knarr_pod::Timestamp;
use std::time::SystemTime;

/// The time now.
pub(crate) fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}
