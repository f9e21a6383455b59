// SPDX-License-Identifier: Apache-2.0
//! Gives memory back to the kernel after bursts: thousands of Services that come or go leave room that the allocator keeps
//! for ever otherwise.
//!
//! Spawned once by `start`; whoever had a burst notifies it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One look is for everything that a burst still frees meanwhile.
const SETTLE: Duration = Duration::from_secs(5);

/// So many changes leave memory that is worth giving back: some hundred kilobytes.
const BURST: usize = 1_000;

/// Changes since memory was given back, whether they came at once or one after the other.
#[derive(Debug, Default)]
pub struct Bursts {
    changes: AtomicUsize,
    notify: Notify,
}

impl Bursts {
    /// Counts changes.
    pub fn add(&self, count: usize) {
        let before = self.changes.fetch_add(count, Ordering::Relaxed);
        if before.saturating_add(count) >= BURST {
            self.changes.store(0, Ordering::Relaxed);
            self.notify.notify_one();
        }
    }
}

/// Runs until `shutdown`.
pub async fn follow(bursts: Arc<Bursts>, shutdown: CancellationToken) {
    let work = async {
        loop {
            // The start is a burst too: reading the stored state, loading the kernel programs.
            tokio::time::sleep(SETTLE).await;
            knarr_base::blocking::run(knarr_base::memory::trim).await;
            bursts.notify.notified().await;
        }
    };
    // Both arms only wait; a trim that runs ends on its own thread.
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn many_small_changes_are_a_burst_too() {
        let bursts = Bursts::default();
        for _ in 1..BURST {
            bursts.add(1);
        }
        assert!(bursts.notify.notified().now_or_never().is_none());
        bursts.add(1);
        assert!(bursts.notify.notified().now_or_never().is_some());
        bursts.add(1);
        assert!(bursts.notify.notified().now_or_never().is_none());
    }
}
