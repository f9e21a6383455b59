// SPDX-License-Identifier: Apache-2.0
//! The one way of a transaction into the store, together with the addresses and ports that it gives away.
//!
//! A client that hangs up ends its request's future wherever it waits, but what is in the store's queue is written
//! all the same. So the reservation belongs to a task that nobody can end, until the outcome is known.

use std::sync::Arc;
use std::time::Duration;

use knarr_store::{Range, Store, Txn, TxnResult};
use tokio::sync::{oneshot, watch};

use crate::ApiError;
use crate::allocations::Reservation;
use crate::core::Core;

/// Pause between two looks at a store that cannot be read.
const LOOK_MS: u64 = 200;

impl Core {
    /// Writes; `reservation` is kept where the transaction succeeded and given back where it did not. Dropping the
    /// future ends the waiting, not the write.
    pub(super) async fn write(
        &self,
        txn: Txn,
        reservation: Reservation,
    ) -> Result<TxnResult, ApiError> {
        if reservation.is_empty() {
            return Ok(self.store.txn(txn).await?);
        }
        let (reply, answer) = oneshot::channel();
        let store = Arc::clone(&self.store);
        let progress = self.progress();
        tokio::spawn(async move {
            let outcome = store.txn(txn).await;
            let unknown = match &outcome {
                Ok(done) if done.succeeded => {
                    reservation.keep(done.revision.0);
                    None
                }
                Err(error) if error.leaves_outcome_unknown() => Some(reservation),
                Ok(_) | Err(_) => {
                    drop(reservation);
                    None
                }
            };
            // A client that has gone needs no answer.
            drop(reply.send(outcome));
            if let Some(reservation) = unknown {
                hold_until_known(&*store, progress, reservation).await;
            }
        });
        match answer.await {
            Ok(outcome) => Ok(outcome?),
            // The task has panicked, and the log has why.
            Err(_) => Err(ApiError::internal("the write was not finished")),
        }
    }
}

/// Keeps a reservation until the store can be read again and the caches have seen what it holds: then the Service
/// holds its addresses itself, or nobody does.
async fn hold_until_known(
    store: &dyn Store,
    mut progress: watch::Receiver<u64>,
    reservation: Reservation,
) {
    loop {
        match store.range(Range::key("/")).await {
            Ok(read) => {
                // An error means that the API server has ended, and its caches with it.
                let seen = progress.wait_for(|seen| *seen >= read.revision.0).await;
                drop(seen);
                drop(reservation);
                return;
            }
            Err(knarr_store::StoreError::Closed) => {
                // Nothing is given out any more either.
                reservation.keep(u64::MAX);
                return;
            }
            Err(error) => {
                tracing::warn!(error = %error.with_causes(), "the outcome of a write is not known yet");
                tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            }
        }
    }
}
