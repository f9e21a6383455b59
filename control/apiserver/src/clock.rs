// SPDX-License-Identifier: Apache-2.0
//! The one place where this crate reads the time.

use k8s_openapi::jiff::Timestamp;

/// Now.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// `2026-01-02T03:04:05Z`, the form of `metav1.Time`.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
