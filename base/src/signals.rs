// SPDX-License-Identifier: Apache-2.0
//! The signals that ask a program to end: SIGTERM (service managers) and SIGINT (Ctrl-C).
//!
//! Not here: what a program does then, and the signals that end containers. Called by the programs'
//! mains.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT of this process, one after the other. Neither ends the process any more.
#[derive(Debug)]
pub struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    /// Catches them from now on.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; its name. Dropping the wait loses no signal.
    pub async fn next(&mut self) -> &'static str {
        // Signals are counted by the streams, so dropping the other wait loses none.
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
