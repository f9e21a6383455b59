// SPDX-License-Identifier: Apache-2.0
//! The trait that every engine implements, and the stream that a watch returns.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

use crate::{LeaseId, Range, RangeResult, Revision, StoreError, Txn, TxnResult, WatchBatch};

/// A revisioned key-value store with etcd v3's meaning. Every method can be called from many tasks.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a range, all of it at one revision. Sees every transaction that has returned.
    async fn range(&self, range: Range) -> Result<RangeResult, StoreError>;

    /// Compares and writes at one revision. Durable when it returns; after an error of kind
    /// [`StoreError::Io`] the outcome is unknown.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Every change to the keys from `start` up to `end` (meanings as in [`Range`]) whose revision is
    /// `from` or later: first those that have happened, then those that will, none missed or twice.
    /// `Revision(0)` is "from now on". Fails with [`StoreError::Compacted`] where `from` is too old;
    /// a reader that is too slow finds [`StoreError::WatchLagged`] as the last item.
    async fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> Result<WatchStream, StoreError>;

    /// Forgets what was overwritten or deleted up to `revision`, which itself can still be read.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Makes a lease that ends `ttl` (whole seconds, at least one) after its last keep-alive.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time again; returns its length. Writes nothing.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError>;

    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Counters since the store was opened, and sizes now.
    fn stats(&self) -> Stats;
}

/// Counters and sizes of a store, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The newest revision.
    pub revision: Revision,
    /// The oldest revision that can still be read.
    pub compacted: Revision,
    /// Transactions that changed something.
    pub writes: u64,
    /// Durable commits; one can carry many transactions.
    pub commits: u64,
    /// Commits that failed.
    pub failures: u64,
    /// Commits that failed since the last one that did not: more than zero means that nothing can be written now.
    pub failing: u64,
    /// Watches that are open.
    pub watches: u64,
    /// Size of the store's file in bytes.
    pub file_bytes: u64,
}

/// What a watch sees. Ends with `None` when the store closes.
#[derive(Debug)]
pub struct WatchStream {
    receiver: mpsc::Receiver<Result<WatchBatch, StoreError>>,
    lagged: Arc<AtomicBool>,
    done: bool,
}

impl WatchStream {
    /// A stream over `receiver`; `lagged` is set before the sender is dropped when items were lost.
    pub(crate) fn new(
        receiver: mpsc::Receiver<Result<WatchBatch, StoreError>>,
        lagged: Arc<AtomicBool>,
    ) -> Self {
        Self {
            receiver,
            lagged,
            done: false,
        }
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchBatch, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        match self.receiver.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(item)) => {
                self.done = item.is_err();
                Poll::Ready(Some(item))
            }
            Poll::Ready(None) => {
                self.done = true;
                let lagged = self.lagged.load(Ordering::Acquire);
                Poll::Ready(lagged.then_some(Err(StoreError::WatchLagged)))
            }
        }
    }
}
