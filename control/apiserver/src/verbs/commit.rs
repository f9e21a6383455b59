// SPDX-License-Identifier: Apache-2.0
//! The one way of a transaction into the store, together with what is held for it: addresses, ports, quotas.
//!
//! A client that hangs up ends its request's future wherever it waits, but what is in the store's queue is written
//! all the same. So the holds belong to a task of their own until the outcome is known.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use knarr_store::{Range, Store, Txn, TxnResult};
use tokio::sync::{oneshot, watch};

use crate::ApiError;
use crate::admission::Hold;
use crate::core::Core;

/// Pause between two looks at a store that cannot be read.
const LOOK_MS: u64 = 200;

/// How a compare-and-swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Swapped {
    /// It took place at this revision.
    At(u64),
    /// Another write came first.
    Overtaken {
        /// The store's revision.
        seen: u64,
        /// The keys that are not as compared.
        conflicts: Vec<Bytes>,
    },
}

impl Core {
    /// Does a transaction if its comparisons hold.
    pub(super) async fn swap(
        &self,
        txn: Txn,
        holds: Vec<Box<dyn Hold>>,
    ) -> Result<Swapped, ApiError> {
        let done = self.commit(txn, holds).await?;
        let revision = done.revision.0;
        Ok(if done.succeeded() {
            Swapped::At(revision)
        } else {
            Swapped::Overtaken {
                seen: revision,
                conflicts: done.conflicts,
            }
        })
    }

    /// Writes. The holds are kept where the transaction succeeded and dropped where it did not. Dropping the future ends
    /// the waiting, not the write.
    async fn commit(&self, txn: Txn, holds: Vec<Box<dyn Hold>>) -> Result<TxnResult, ApiError> {
        if holds.is_empty() {
            return Ok(self.store.txn(txn).await?);
        }
        let (reply, answer) = oneshot::channel();
        let store = Arc::clone(&self.store);
        let progress = self.progress();
        tokio::spawn(async move {
            let outcome = store.txn(txn).await;
            let unknown = match &outcome {
                Ok(done) if done.succeeded() => {
                    keep(holds, done.revision.0);
                    None
                }
                Err(error) if error.leaves_outcome_unknown() => Some(holds),
                Ok(_) | Err(_) => {
                    drop(holds);
                    None
                }
            };
            // A client that has gone needs no answer.
            drop(reply.send(outcome));
            if let Some(holds) = unknown {
                hold_until_known(&*store, progress, holds).await;
            }
        });
        match answer.await {
            Ok(outcome) => Ok(outcome?),
            // The task has panicked, and the log has why.
            Err(_) => Err(ApiError::internal("the write was not finished")),
        }
    }
}

fn keep(holds: Vec<Box<dyn Hold>>, revision: u64) {
    for hold in holds {
        hold.keep(revision);
    }
}

/// Holds on until the store can be read again and the caches have seen what it has: then the stored object has what it
/// needs itself, or it was not written.
async fn hold_until_known(
    store: &dyn Store,
    mut progress: watch::Receiver<u64>,
    holds: Vec<Box<dyn Hold>>,
) {
    loop {
        match store.range(Range::key("/")).await {
            Ok(read) => {
                // An error means that the API server has ended, and its caches with it.
                let seen = progress.wait_for(|seen| *seen >= read.revision.0).await;
                drop(seen);
                drop(holds);
                return;
            }
            Err(knarr_store::StoreError::Closed) => {
                // Nothing is given out any more either.
                keep(holds, u64::MAX);
                return;
            }
            Err(error) => {
                tracing::warn!(error = %knarr_base::chain(&error), "the outcome of a write is not known yet");
                tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            }
        }
    }
}
