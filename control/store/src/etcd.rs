// SPDX-License-Identifier: Apache-2.0
//! The engine over etcd v3 (3.4 or later): the same store for several processes.
//!
//! A translation: etcd has the revisions, the transactions and the history. The etcd is the cluster's own: a watch is
//! of every key, and each revision that somebody else makes is one that the readers look at for nothing.
//! What it is not: it elects nobody and compacts nothing by itself. `messages` is the translation of values, `watch`
//! keeps a watch open.

mod messages;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pb::kv_client::KvClient;
use tokio::sync::{mpsc, watch as latest};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::store::check_duplicates;
use crate::{
    Range, RangeResult, Revision, Sharing, Stats, Store, StoreDied, StoreError, Txn, TxnResult,
    WatchStream,
};
use messages::pb;

/// How long a call may take; etcd's own time-out of a request is 5 s and an election's 1 s or so.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
/// Batches that a reader of a watch may be behind. Beyond it etcd keeps them.
const WATCH_QUEUE: usize = 64;
/// etcd's `--max-request-bytes`, as it is by default.
const REQUEST_BYTES_MAX: usize = 1536 * 1024;
/// etcd's `--max-txn-ops`, as it is by default.
const TXN_STEPS_MAX: usize = 128;

/// A store in an etcd. Clones are handles to the same connection.
#[derive(Clone, Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    channel: Channel,
    /// The newest revision that an answer has shown.
    seen: AtomicU64,
    /// The newest revision that this process has compacted.
    compacted: AtomicU64,
    writes: AtomicU64,
    failures: AtomicU64,
    failing: AtomicU64,
    watches: AtomicU64,
    closed: latest::Sender<bool>,
}

impl Etcd {
    /// A store in the etcd at the other end of `channel`, which may lead to several members.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self {
            shared: Arc::new(Shared {
                channel,
                seen: AtomicU64::new(0),
                compacted: AtomicU64::new(0),
                writes: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                failing: AtomicU64::new(0),
                watches: AtomicU64::new(0),
                closed: latest::Sender::new(false),
            }),
        }
    }
}

impl Shared {
    fn kv(&self) -> KvClient<Channel> {
        // A list is one message, however many objects it has.
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// Waits for an answer, no longer than a call may take or the store is open.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            // Closing only waits. What becomes of a call that is dropped is not known, as its error says.
            _ = closed.wait_for(|closed| *closed) => Err(CallError::Failed(StoreError::Closed)),
            answer = tokio::time::timeout(CALL_TIME_MAX, call) => match answer {
                Ok(answer) => Ok(answer?.into_inner()),
                Err(late) => Err(CallError::Failed(StoreError::io(late))),
            },
        }
    }

    fn see(&self, header: Option<&pb::ResponseHeader>) -> Revision {
        let revision = messages::number(header.map_or(0, |header| header.revision));
        self.seen.fetch_max(revision, Ordering::Relaxed);
        Revision(revision)
    }

    /// What a refused read or compaction of `requested` means.
    async fn refused(&self, error: CallError, requested: Revision) -> StoreError {
        match error {
            CallError::Compacted => StoreError::Compacted { requested },
            CallError::Future => match self.current_revision().await {
                Ok(newest) => StoreError::FutureRevision { requested, newest },
                Err(error) => error,
            },
            CallError::Failed(error) => error,
        }
    }

    async fn current_revision(&self) -> Result<Revision, StoreError> {
        // Any key does. The read is linearizable as long as it does not say otherwise.
        let request = pb::RangeRequest {
            key: messages::FIRST_KEY,
            count_only: true,
            ..pb::RangeRequest::default()
        };
        let answer = self.answer(self.kv().range(request)).await?;
        Ok(self.see(answer.header.as_ref()))
    }
}

/// Why a call failed, told apart by what it asked for.
#[derive(Debug)]
enum CallError {
    Compacted,
    Future,
    Failed(StoreError),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Failed(error) => error,
            other => Self::io(format!("{other:?} was not asked for")),
        }
    }
}

impl From<Status> for CallError {
    /// Words and codes of `api/v3rpc/rpctypes/error.go`, etcd 3.4.
    fn from(status: Status) -> Self {
        let says = |words: &str| status.message().contains(words);
        match status.code() {
            Code::OutOfRange if says("revision has been compacted") => Self::Compacted,
            Code::OutOfRange if says("future revision") => Self::Future,
            Code::ResourceExhausted if says("database space exceeded") => {
                Self::Failed(StoreError::DiskFull)
            }
            _ => Self::Failed(StoreError::io(status)),
        }
    }
}

#[async_trait]
impl Store for Etcd {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.shared.current_revision().await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        let shared = &self.shared;
        let at = range.revision;
        let mut kv = shared.kv();
        let asked = kv.range(messages::range(range));
        let answer = match shared.answer(asked).await {
            Ok(answer) => answer,
            Err(error) => return Err(shared.refused(error, at.unwrap_or_default()).await),
        };
        let newest = shared.see(answer.header.as_ref());
        Ok(RangeResult {
            revision: at.unwrap_or(newest),
            kvs: answer.kvs.into_iter().map(messages::key_value).collect(),
            more: answer.more,
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let shared = &self.shared;
        check_duplicates(&txn)?;
        let steps = txn.then.len().max(txn.compare.len());
        if steps > TXN_STEPS_MAX {
            return Err(StoreError::TooManySteps {
                steps,
                limit: TXN_STEPS_MAX,
            });
        }
        let request = messages::txn(&txn);
        let size = prost::Message::encoded_len(&request);
        if size > REQUEST_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "transaction",
                size,
                limit: REQUEST_BYTES_MAX,
            });
        }
        let mut kv = shared.kv();
        let answer = match shared.answer(kv.txn(request)).await {
            Ok(answer) => answer,
            Err(error) => {
                let error = StoreError::from(error);
                if error.leaves_outcome_unknown() {
                    shared.failures.fetch_add(1, Ordering::Relaxed);
                    shared.failing.fetch_add(1, Ordering::Relaxed);
                }
                return Err(error);
            }
        };
        shared.failing.store(0, Ordering::Relaxed);
        if answer.succeeded && !txn.then.is_empty() {
            shared.writes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(TxnResult {
            revision: shared.see(answer.header.as_ref()),
            conflicts: messages::conflicts(&txn, &answer),
        })
    }

    async fn watch(&self, after: Revision) -> Result<WatchStream, StoreError> {
        if *self.shared.closed.borrow() {
            return Err(StoreError::Closed);
        }
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(watch::run(self.shared.clone(), after, sender));
        // etcd keeps what a slow reader has not taken, so none falls behind for good.
        Ok(WatchStream::new(receiver, Arc::default()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let shared = &self.shared;
        let request = pb::CompactionRequest {
            revision: messages::signed(revision.0),
        };
        let mut kv = shared.kv();
        match shared.answer(kv.compact(request)).await {
            Ok(_) => {}
            // As far as that, or further.
            Err(CallError::Compacted) => return Ok(()),
            Err(error) => return Err(shared.refused(error, revision).await),
        }
        shared.compacted.fetch_max(revision.0, Ordering::Relaxed);
        Ok(())
    }

    async fn died(&self) -> StoreDied {
        // An etcd that is away may come back.
        std::future::pending().await
    }

    async fn close(&self) {
        self.shared.closed.send_replace(true);
    }

    fn sharing(&self) -> Sharing {
        Sharing::Shared
    }

    fn stats(&self) -> Stats {
        let shared = &self.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            revision: Revision(count(&shared.seen)),
            compacted: Revision(count(&shared.compacted)),
            writes: count(&shared.writes),
            // etcd groups them as it likes.
            commits: count(&shared.writes),
            failures: count(&shared.failures),
            failing: count(&shared.failing),
            watches: count(&shared.watches),
            // On another machine.
            file_bytes: 0,
        }
    }
}
