// SPDX-License-Identifier: Apache-2.0
//! The steps that the suite is made of: one write, one read, the next batch of a watch.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use knarr_store::{Event, Op, Range, Revision, Store, StoreError, Txn, WatchBatch, WatchStream};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a watch is listened to that should say nothing.
pub const SILENCE: Duration = Duration::from_millis(200);

/// Writes one key; its revision.
pub async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    let op = Op::put(key.to_owned(), value.to_owned());
    done(store, op).await
}

/// Deletes one key; the revision after it.
pub async fn delete(store: &dyn Store, key: &str) -> Revision {
    done(store, Op::delete(key.to_owned())).await
}

/// Takes one step; the revision after it.
pub async fn done(store: &dyn Store, op: Op) -> Revision {
    let done = store.txn(Txn::of(vec![op])).await.unwrap();
    assert!(done.succeeded());
    done.revision
}

/// A key's value and revision.
pub async fn read(store: &dyn Store, key: &'static str) -> Option<(Bytes, Revision)> {
    let found = store.range(Range::key(key)).await.unwrap();
    let kv = found.kvs.into_iter().next()?;
    assert_eq!(kv.key, key);
    Some((kv.value, kv.mod_revision))
}

/// The next batch.
pub async fn next(watch: &mut WatchStream) -> WatchBatch {
    item(watch).await.expect("the watch goes on").unwrap()
}

/// The next batch, or how the watch ends.
pub async fn item(watch: &mut WatchStream) -> Option<Result<WatchBatch, StoreError>> {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("an event in time")
}

/// Whether the watch says nothing for a while.
pub async fn is_silent(watch: &mut WatchStream) -> bool {
    tokio::time::timeout(SILENCE, watch.next()).await.is_err()
}

/// The event of a write.
pub fn put_of(key: &str, value: &str) -> Event {
    Event::Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
    }
}
