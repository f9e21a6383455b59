// SPDX-License-Identifier: Apache-2.0
//! The system's clock, read by the agent's side and by the shims.

use std::time::SystemTime;

use knarr_pod::Timestamp;

/// The time now.
pub(crate) fn now() -> Timestamp {
    Timestamp::of(SystemTime::now())
}
