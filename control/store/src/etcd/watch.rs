// SPDX-License-Identifier: Apache-2.0
//! A watch of etcd that outlives its connection: it is opened again after the last revision that was handed on.
//!
//! One task for each watch, spawned by the engine `etcd`; it ends with the reader or the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{StreamExt, stream};
use pb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::Shared;
use super::messages::{self, pb};
use crate::{Revision, StoreError, WatchBatch};

/// Pause before a watch whose connection broke is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

type Reader = mpsc::Sender<Result<WatchBatch, StoreError>>;

/// How a connection of a watch ended.
enum End {
    /// It broke; what comes after the revision is still to be told.
    Broken(Revision, Status),
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
    loop {
        match follow_once(shared, after, reader).await {
            End::Broken(seen, status) => {
                after = seen;
                tracing::debug!(%status, %after, "a watch of etcd broke and is opened again");
                tokio::time::sleep(REOPEN_PAUSE).await;
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

async fn follow_once(shared: &Shared, mut after: Revision, reader: &Reader) -> End {
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
    let mut responses = match client.watch(request).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return End::Broken(after, status),
    };
    loop {
        let response = match responses.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return End::Broken(after, Status::unavailable("etcd ended the stream")),
            Err(status) => return End::Broken(after, status),
        };
        if response.compact_revision > 0 {
            return End::Compacted(after);
        }
        if response.canceled {
            return End::Broken(after, Status::unavailable(response.cancel_reason));
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
