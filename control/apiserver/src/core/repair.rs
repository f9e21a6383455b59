// SPDX-License-Identifier: Apache-2.0
//! Makes the keys of addresses and ports those of the stored Services, before anything is given out: carries out what
//! `allocations` plans. Called when the API server opens.

use knarr_store::StoreError;

use super::Core;
use crate::allocations::{self, Known};

/// Steps under way at once; they share the store's commits.
const STEPS_AT_ONCE: usize = 256;
/// Rounds until the keys are as they should be. Another server that repairs or writes meanwhile costs one.
const ROUNDS_MAX: usize = 16;

impl Core {
    /// Writes the keys that are missing and deletes those that no Service holds.
    pub(crate) async fn repair_allocations(&self) -> Result<(), StoreError> {
        let registry = self.registry();
        let Some(kind) = registry.stored().find(|kind| allocations::allocates(kind)) else {
            return Ok(());
        };
        for _ in 0..ROUNDS_MAX {
            let Ok(services) = self.cache(kind) else {
                return Ok(());
            };
            // A Service that cannot be read keeps what it has.
            let known = if self.has_unreadable_of(kind) {
                Known::Readable
            } else {
                Known::All
            };
            let steps = self.allocations.plan_repair(kind, &services.list(), known);
            if steps.is_empty() {
                return Ok(());
            }
            tracing::info!(
                keys = steps.len(),
                "writing down which Services hold which addresses and ports"
            );
            let mut newest = 0;
            for some in steps.chunks(STEPS_AT_ONCE) {
                let writes = some.iter().map(|step| self.store.txn(step.clone()));
                for done in futures::future::try_join_all(writes).await? {
                    newest = newest.max(done.revision.0);
                }
            }
            // Where the caches do not get there in time, the next round finds the same steps to do.
            drop(self.wait_for(newest).await);
        }
        tracing::warn!("which Services hold which addresses and ports keeps changing");
        Ok(())
    }
}
