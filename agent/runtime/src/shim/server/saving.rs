// SPDX-License-Identifier: Apache-2.0
//! Whether the state file says what the shim knows, and when it is written again where it does not.
//!
//! ```text
//! Saved ──something changed──> Due ──written──> Saved
//!                              ^ │
//!     something changed, or    │ └─not written──> Failed ──written──> Saved
//!     the time has come ───────┴────────────────────┘
//! ```

use std::io;
use std::time::{Duration, Instant};

/// How soon a write that failed is repeated: a full file system has room again when somebody has removed
/// something, which takes seconds at least.
pub(super) const SAVE_RETRY: Duration = Duration::from_secs(1);

/// See the module's comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saving {
    /// The file says what is known.
    Saved,
    /// It does not, and is to be written now.
    Due,
    /// It could not be written; the next try is then.
    Failed { again: Instant },
}

impl Saving {
    /// Whether to write now.
    pub fn is_due(self, now: Instant) -> bool {
        match self {
            Saving::Saved => false,
            Saving::Due => true,
            Saving::Failed { again } => again <= now,
        }
    }

    /// What a write leads to.
    pub fn after(written: &io::Result<()>, now: Instant) -> Saving {
        match written {
            Ok(()) => Saving::Saved,
            Err(_) => Saving::Failed {
                again: now + SAVE_RETRY,
            },
        }
    }

    /// For how long nothing is to be written; none where nothing is to be written at all.
    pub fn wait(self, now: Instant) -> Option<Duration> {
        match self {
            Saving::Saved => None,
            Saving::Due => Some(Duration::ZERO),
            Saving::Failed { again } => Some(again.saturating_duration_since(now)),
        }
    }
}

#[cfg(test)]
mod tests;
