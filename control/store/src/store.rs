// SPDX-License-Identifier: Apache-2.0
//! The trait that every engine implements, and the stream that a watch returns.

use std::collections::HashSet;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

use crate::{Range, RangeResult, Revision, StoreError, Txn, TxnResult, WatchBatch};

/// A revisioned key-value store with etcd v3's meaning. Every method can be called from many tasks; where
/// [`Store::sharing`] says so, several processes have the same store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision, at least that of every transaction that returned before this call, whichever process made
    /// it. May ask another machine; [`Stats::revision`] is what this process knows without asking.
    async fn current_revision(&self) -> Result<Revision, StoreError>;

    /// Reads a range, all of it at one revision. Sees every transaction that returned before this call, whichever process
    /// made it.
    async fn range(&self, range: Range) -> Result<RangeResult, StoreError>;

    /// Compares and writes at one revision. Durable when it returns, [`crate::Op::PutVolatile`] excepted; where
    /// [`StoreError::leaves_outcome_unknown`], it may have taken place.
    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Every change after revision `after`: first those that have happened, then those that will, none missed or twice,
    /// in the order of their revisions. A watch is of all keys, so that a reader that has seen the batch of a revision
    /// knows everything up to it. The first item is [`StoreError::Compacted`] where `after` is before the compacted
    /// revision, or the call fails with it; a reader that is too slow may find [`StoreError::WatchLagged`]. An
    /// error is the last item.
    async fn watch(&self, after: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets what was overwritten or deleted up to `revision`, which itself can still be read. Does nothing where that
    /// has been done already.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// Waits until this store can never write again in this process although nobody closed it. The process has to end
    /// then: every call fails with [`StoreError::Closed`]. What comes back by itself (a full disk, a server that is
    /// away) is an error of the calls instead. Dropping the future loses nothing.
    async fn died(&self) -> StoreDied;

    /// Finishes what is queued, ends every watch and releases what the store holds. Further calls fail with
    /// [`StoreError::Closed`].
    async fn close(&self);

    /// Whether other processes can have the same store.
    fn sharing(&self) -> Sharing;

    /// Counters since the store was opened, and sizes now, as far as this process knows.
    fn stats(&self) -> Stats;
}

/// Who can have a store open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Only one process at a time.
    Exclusive,
    /// Any number of processes.
    Shared,
}

/// The store cannot write any more. What was acknowledged is safe.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store's writer failed")]
pub struct StoreDied(#[source] pub Arc<dyn Error + Send + Sync>);

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

/// Refuses two steps about one key. Every engine asks it first.
pub(crate) fn check_duplicates(txn: &Txn) -> Result<(), StoreError> {
    let mut keys: HashSet<&Bytes> = HashSet::new();
    if txn.then.len() < 2 {
        return Ok(());
    }
    match txn.then.iter().find(|op| !keys.insert(op.key())) {
        Some(op) => Err(StoreError::DuplicateKey(
            String::from_utf8_lossy(op.key()).into_owned(),
        )),
        None => Ok(()),
    }
}
