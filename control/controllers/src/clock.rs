// SPDX-License-Identifier: Apache-2.0
//! The one place where this crate reads the time of day.

use knarr_api::k8s_openapi::jiff::Timestamp;

/// Now.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
