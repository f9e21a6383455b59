// SPDX-License-Identifier: Apache-2.0
//! Gives memory back to the kernel after bursts: thousands of Services that come or go leave room that the allocator keeps
//! for ever otherwise.
//!
//! Spawned once by `start`; whoever had a burst notifies it.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One look is for everything that a burst still frees meanwhile.
const SETTLE: Duration = Duration::from_secs(5);

/// Runs until `shutdown`.
pub async fn follow(bursts: Arc<Notify>, shutdown: CancellationToken) {
    let work = async {
        loop {
            // The start is a burst too: reading the stored state, loading the kernel programs.
            tokio::time::sleep(SETTLE).await;
            crate::blocking::run(knarr_datapath::trim_memory).await;
            bursts.notified().await;
        }
    };
    // Both arms only wait; a trim that runs ends on its own thread.
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
}
