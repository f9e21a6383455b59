// SPDX-License-Identifier: Apache-2.0
//! Which control process leads: who may take the Lease, and how long its holder may rely on it.
//!
//! Follows `tools/leaderelection` of client-go v1.37: a candidate takes a Lease that has not changed for the Lease's
//! duration by the candidate's own clock, so the clocks of two machines need not agree. Called by `knarr-control`'s
//! `election`, which reads and writes the Lease.

use std::time::Duration;

/// A Lease that has not changed for so long is free.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops what it does. What is left of the Lease's duration is the time that
/// its workers have to end.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to take or to renew the Lease.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What a candidate reads of the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// The process that holds it; empty when it was given up.
    pub holder: String,
    /// Its resourceVersion.
    pub version: String,
}

/// What a candidate knows of the Lease from its earlier looks. Time is counted from any fixed moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    version: String,
    since: Duration,
}

/// What a candidate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: make it.
    Create,
    /// The Lease is free: put the own name in.
    Take,
    /// Another process holds it: look again after [`RETRY_PERIOD`].
    Wait,
}

/// What a candidate that sees `lease` at `now` does.
pub fn plan(lease: Option<&LeaseView>, observed: &mut Observed, now: Duration) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    if lease.version != observed.version {
        observed.version.clone_from(&lease.version);
        observed.since = now;
    }
    let unchanged = now.saturating_sub(observed.since);
    if lease.holder.is_empty() || unchanged >= LEASE_DURATION {
        Step::Take
    } else {
        Step::Wait
    }
}

#[cfg(test)]
mod tests;
