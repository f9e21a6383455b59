// SPDX-License-Identifier: Apache-2.0
//! The datapath as all loops of the agent share it: its calls block, and writers take turns.
//!
//! Not here: decisions, and the traits that tests replace (`edges`). Opened by `start`.

use std::sync::Arc;

use knarr_datapath::inspect::Inspector;
use knarr_datapath::{Datapath, DatapathError};
use parking_lot::Mutex;

/// The maps of the kernel programs. Calls block briefly and run off the async threads; what walks whole maps goes through
/// [`SharedDatapath::inspector`], which takes no turn.
#[derive(Clone)]
pub struct SharedDatapath {
    datapath: Arc<Mutex<Datapath>>,
    inspector: Inspector,
}

impl SharedDatapath {
    /// Shares it.
    pub fn new(datapath: Datapath) -> SharedDatapath {
        SharedDatapath {
            inspector: datapath.inspector(),
            datapath: Arc::new(Mutex::new(datapath)),
        }
    }

    /// Reads the same maps without taking turns with their writers. Its calls block.
    pub fn inspector(&self) -> &Inspector {
        &self.inspector
    }

    /// Runs a call on a thread for blocking work.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Datapath) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, DatapathError> {
        let shared = self.datapath.clone();
        knarr_base::blocking::run(move || {
            let mut datapath = shared.lock();
            call(&mut datapath)
        })
        .await
    }
}
