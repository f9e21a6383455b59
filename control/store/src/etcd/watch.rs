// SPDX-License-Identifier: Apache-2.0
//! A watch of etcd that outlives its connection: it is opened again after the last revision that was handed on.
//!
//! One task for each watch, spawned by the engine `etcd`; it ends with the reader or the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use pb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::Shared;
use super::messages::{self, pb};
use crate::{Revision, StoreError, WatchBatch};

/// Pause before a watch whose connection broke is opened again. It doubles while nothing comes in between.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause: etcd that comes back is followed that soon. A read waits for the watch for three seconds.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one, also where nothing changed meanwhile.
const LASTING: Duration = Duration::from_secs(10);
/// Failures in a row after which the log says at each one that the reader sees no changes. An election costs one or two.
const FAILURES_QUIET: u32 = 3;

type Reader = mpsc::Sender<Result<WatchBatch, StoreError>>;

/// How a connection of a watch ended.
enum End {
    /// It broke. What comes after the revision is not sent yet.
    Broken {
        seen: Revision,
        /// Whether it had shown a change, or had lasted.
        was_good: bool,
        status: Status,
    },
    /// History that the reader has not seen is gone.
    Compacted(Revision),
    /// The reader is gone.
    Unread,
}

/// Hands every change after `after` to `reader`.
pub(super) async fn run(shared: Arc<Shared>, after: Revision, reader: Reader) {
    let mut closed = shared.closed.subscribe();
    shared.watches.fetch_add(1, Ordering::Relaxed);
    tokio::select! {
        // All three end the watch, whatever the other ones were doing.
        _ = closed.wait_for(|closed| *closed) => {}
        () = reader.closed() => {}
        () = follow(&shared, after, &reader) => {}
    }
    shared.watches.fetch_sub(1, Ordering::Relaxed);
}

async fn follow(shared: &Shared, mut after: Revision, reader: &Reader) {
    let mut failures = 0;
    loop {
        match follow_once(shared, after, reader).await {
            End::Broken {
                seen,
                was_good,
                status,
            } => {
                failures = if was_good { 1 } else { failures + 1 };
                after = seen;
                if failures > FAILURES_QUIET {
                    tracing::warn!(%status, %after, failures, "no change in etcd is seen; the watch is opened again");
                } else {
                    tracing::debug!(%status, %after, "a watch of etcd broke and is opened again");
                }
                tokio::time::sleep(reopen_pause(failures)).await;
            }
            End::Compacted(requested) => {
                // A failure to send means that the reader is gone.
                drop(reader.send(Err(StoreError::Compacted { requested })).await);
                return;
            }
            End::Unread => return,
        }
    }
}

/// The pause after so many failures in a row, counted from 1.
fn reopen_pause(failures: u32) -> Duration {
    // More doublings are beyond the longest pause anyway.
    let doublings = failures.saturating_sub(1).min(8);
    (REOPEN_PAUSE * 2_u32.pow(doublings)).min(REOPEN_PAUSE_MAX)
}

async fn follow_once(shared: &Shared, known: Revision, reader: &Reader) -> End {
    let mut after = known;
    let mut client = WatchClient::new(shared.channel.clone()).max_decoding_message_size(usize::MAX);
    // etcd lets a watch start at the compacted revision, whose deletions are gone. So the watch starts with the revision
    // that the reader knows already: that one is refused exactly where something after it is gone.
    let start = after.max(Revision(1));
    // The stream of requests stays open: etcd ends the watch with it.
    let requests = stream::iter([messages::watch(start)]).chain(stream::pending());
    let mut request = Request::new(requests);
    // A member without a leader ends the watch instead of saying nothing.
    let metadata = request.metadata_mut();
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    let opened = Instant::now();
    let broken = |seen, status| End::Broken {
        seen,
        was_good: seen > known || opened.elapsed() >= LASTING,
        status,
    };
    let mut responses = match client.watch(request).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return broken(after, status),
    };
    loop {
        let response = match responses.message().await {
            Ok(Some(response)) => response,
            Ok(None) => {
                return broken(after, Status::unavailable("etcd ended the stream"));
            }
            Err(status) => return broken(after, status),
        };
        if response.compact_revision > 0 {
            return End::Compacted(after);
        }
        if response.canceled {
            return broken(after, Status::unavailable(response.cancel_reason));
        }
        shared.see(response.header.as_ref());
        for batch in messages::batches(response.events, after) {
            after = batch.revision;
            if reader.send(Ok(batch)).await.is_err() {
                return End::Unread;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let pauses: Vec<u128> = [1, 2, 3, 5, 6, 1000]
            .map(|failures| reopen_pause(failures).as_millis())
            .to_vec();
        assert_eq!(pauses, [200, 400, 800, 1000, 1000, 1000]);
    }
}
