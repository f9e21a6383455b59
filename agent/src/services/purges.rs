// SPDX-License-Identifier: Apache-2.0
//! Removes what leads to backends that are gone (affinity, flows) beside the Service loop: each purge walks
//! whole maps, so one walk is for all that came meanwhile.
//!
//! Not here: which backends are gone (the plan). Owned and polled by the Service loop.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use knarr_datapath::DatapathError;

use super::RESYNC_AFTER;
use crate::edges::ServiceMaps;

/// Backend ids. A removed backend's id is not used again, so a late purge hits nothing else.
type Ids = Arc<HashSet<u32>>;

/// What is to be purged.
pub(super) struct Purges {
    maps: Arc<dyn ServiceMaps>,
    due: HashSet<u32>,
    running: Option<BoxFuture<'static, (Ids, Result<(), DatapathError>)>>,
}

impl Purges {
    /// Purges from these maps.
    pub(super) fn new(maps: Arc<dyn ServiceMaps>) -> Purges {
        Purges {
            maps,
            due: HashSet::new(),
            running: None,
        }
    }

    /// Adds backends that no slot names any more.
    pub(super) fn add(&mut self, ids: Vec<u32>) {
        self.due.extend(ids);
    }

    /// Works while it is polled. Dropping it loses nothing: what runs is kept and gone on with.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut pause = Duration::ZERO;
        loop {
            if self.running.is_none() && self.due.is_empty() {
                return std::future::pending().await;
            }
            let (maps, due) = (&self.maps, &mut self.due);
            let running = self.running.get_or_insert_with(|| {
                let (maps, ids) = (maps.clone(), Arc::new(std::mem::take(due)));
                Box::pin(async move {
                    tokio::time::sleep(pause).await;
                    let done = maps.purge_backends(ids.clone()).await;
                    (ids, done)
                })
            });
            let (ids, done) = running.await;
            self.running = None;
            pause = Duration::ZERO;
            if let Err(error) = done {
                tracing::warn!(
                    "flows to backends that are gone: {}",
                    knarr_base::chain(&error)
                );
                self.due.extend(ids.iter());
                pause = RESYNC_AFTER;
            }
        }
    }
}

#[cfg(test)]
mod tests;
