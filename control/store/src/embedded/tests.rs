// SPDX-License-Identifier: Apache-2.0
//! What the embedded engine promises: revisions, history, watches, leases, and what failure does.

use std::path::Path;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use redb::ReadableTableMetadata;

use super::*;
use crate::{Compare, Event, KeyValue, Op, WatchBatch};

mod model;
mod power_loss;
mod volatile;

fn open(dir: &Path) -> Embedded {
    Embedded::open(&dir.join("store"), Options::default()).unwrap()
}

fn text(kvs: &[KeyValue]) -> Vec<(String, String)> {
    kvs.iter()
        .map(|kv| {
            (
                String::from_utf8_lossy(&kv.key).into_owned(),
                String::from_utf8_lossy(&kv.value).into_owned(),
            )
        })
        .collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

async fn put(store: &Embedded, key: &str, value: &str) -> Revision {
    let op = Op::put(key.to_owned(), value.to_owned());
    store.txn(Txn::of(vec![op])).await.unwrap().revision
}

fn put_event(key: &'static str, value: &'static str) -> Event {
    Event::Put {
        key: key.into(),
        value: value.into(),
    }
}

async fn delete(store: &Embedded, key: &str) -> Revision {
    let txn = Txn::of(vec![Op::delete(key.to_owned())]);
    store.txn(txn).await.unwrap().revision
}

/// A watch of what happens from now on.
async fn watch_now(store: &Embedded) -> WatchStream {
    store.watch(store.stats().revision).await.unwrap()
}

async fn next(stream: &mut WatchStream) -> WatchBatch {
    tokio::time::timeout(Duration::from_secs(10), stream.next())
        .await
        .expect("an event within ten seconds")
        .expect("the watch goes on")
        .unwrap()
}

#[tokio::test]
async fn concurrent_transactions_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = store.stats();
    let writes = (0..400).map(|n| {
        let op = Op::put(format!("k{n}"), "v");
        store.txn(Txn::of(vec![op]))
    });
    for result in futures::future::join_all(writes).await {
        result.unwrap();
    }
    let after = store.stats();
    assert_eq!(after.writes - before.writes, 400);
    assert!(
        after.commits - before.commits < 40,
        "{} commits",
        after.commits
    );
    assert_eq!(after.revision.0 - before.revision.0, 400);
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = watch_now(&store).await;
    let writes = (0..WATCH_QUEUE + 10).map(|n| {
        let op = Op::put(format!("k{n}"), "v");
        store.txn(Txn::of(vec![op]))
    });
    for result in futures::future::join_all(writes).await {
        result.unwrap();
    }
    for _ in 0..WATCH_QUEUE {
        next(&mut watch).await;
    }
    let end = watch.next().await.unwrap().unwrap_err();
    assert!(matches!(end, StoreError::WatchLagged), "{end}");
    assert!(watch.next().await.is_none());
    assert_eq!(store.stats().watches, 0);
}

#[tokio::test]
async fn compaction_removes_what_no_readable_revision_shows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    put(&store, "gone", "x").await;
    delete(&store, "gone").await;
    let kept = put(&store, "a", "3").await;
    put(&store, "a", "4").await;
    store.compact(kept).await.unwrap();
    let error = store.range(Range::key("a").at(first)).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
    let at_kept = store.range(Range::prefix("").at(kept)).await.unwrap();
    assert_eq!(text(&at_kept.kvs), pairs(&[("a", "3")]));
    let mut watch = store.watch(kept).await.unwrap();
    assert_eq!(next(&mut watch).await.events, [put_event("a", "4")]);
    let rows = rows(&store);
    assert_eq!(rows, (1, 2), "one key, and the log entries of 3 and 4");
}

#[tokio::test]
async fn a_long_history_is_compacted_in_many_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for round in 0..3 {
        let many = (0..10_000).map(|n| Op::put(format!("k{n}"), round.to_string()));
        store.txn(Txn::of(many.collect())).await.unwrap();
    }
    let head = put(&store, "last", "v").await;
    let before = store.stats().commits;
    store.compact(head).await.unwrap();
    let stats = store.stats();
    assert_eq!(stats.compacted, head);
    let commits = stats.commits - before;
    assert!(commits >= 3, "{commits} commits for 30,001 changes");
    assert_eq!(rows(&store), (10_001, 10_001));
}

/// What happens after a commit that failed and yet reached the disk, with a compaction in the same group.
#[tokio::test]
async fn watches_that_compaction_has_overtaken_end_as_lagged_and_the_file_opens() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..10 {
        put(&store, "a", &n.to_string()).await;
    }
    store.compact(Revision(8)).await.unwrap();
    let database = store.shared.database().unwrap();
    // (what the watches have seen, whether the history still leads from there)
    for (seen, complete) in [(9, true), (8, true), (7, false), (3, false)] {
        let (hub, overlay) = (Hub::new(Revision(seen)), Overlay::new(Revision(seen)));
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let lagged = Arc::new(AtomicBool::new(false));
        let live = Live {
            after: Revision(seen),
            sender,
            lagged: lagged.clone(),
        };
        assert!(matches!(hub.join(live, Revision(seen)), Joined::Live));
        let mut stream = WatchStream::new(receiver, lagged);

        writer::catch_up(&hub, &overlay, &database).unwrap();

        assert_eq!((hub.head(), overlay.head()), (Revision(10), Revision(10)));
        if complete {
            for revision in seen + 1..=10 {
                assert_eq!(next(&mut stream).await.revision, Revision(revision));
            }
        } else {
            let end = stream.next().await.unwrap().unwrap_err();
            assert!(matches!(end, StoreError::WatchLagged), "{end}");
        }
    }
}

/// Rows of `keys` and of `log`.
fn rows(store: &Embedded) -> (u64, u64) {
    store
        .shared
        .read(|read| {
            let keys = read.open_table(format::KEYS).map_err(engine_error)?;
            let log = read.open_table(format::LOG).map_err(engine_error)?;
            Ok((
                keys.len().map_err(engine_error)?,
                log.len().map_err(engine_error)?,
            ))
        })
        .unwrap()
}

#[tokio::test]
async fn history_stays_bounded_by_itself_and_an_idle_store_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        history_bytes: 100 * 50,
        ..Options::default()
    };
    let store = Embedded::open(&dir.path().join("store"), options).unwrap();
    for n in 0..300 {
        put(&store, "a", &n.to_string()).await;
    }
    let stats = store.stats();
    let kept = stats.revision.0 - stats.compacted.0;
    assert!((20..=51).contains(&kept), "{kept} revisions are kept");
    assert_eq!(rows(&store), (1, kept + 1));
    // Deletions leave history as well, and what says that a key is gone counts.
    for n in 0..300 {
        put(&store, &format!("b{n}"), "x").await;
        delete(&store, &format!("b{n}")).await;
    }
    let (keys, log) = rows(&store);
    assert!(keys < 60 && log < 120, "{keys} keys, {log} changes");
    let stats = store.stats();
    // Reading, failed comparisons and deletions of what is not there write nothing.
    store.range(Range::prefix("")).await.unwrap();
    delete(&store, "nothing").await;
    let failing = Txn {
        compare: vec![Compare::absent("a")],
        then: vec![Op::put("a", "x")],
    };
    store.txn(failing).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(store.stats(), stats);
}

#[tokio::test]
async fn history_of_large_values_is_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        history_bytes: 1024 * 1024,
        ..Options::default()
    };
    let store = Embedded::open(&dir.path().join("store"), options).unwrap();
    let large = "x".repeat(100_000);
    for _ in 0..100 {
        put(&store, "a", &large).await;
    }
    let (_, log) = rows(&store);
    assert!(log < 20, "{log} values of 100 kB are kept");
    assert_eq!(store.stats().revision, Revision(100));
}

#[tokio::test]
async fn everything_is_there_after_closing_and_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "a", "1").await;
    let then = put(&store, "b", "1").await;
    let head = put(&store, "a", "2").await;
    let mut watch = watch_now(&store).await;
    store.close().await;
    assert!(watch.next().await.is_none());
    let error = store.txn(Txn::of(vec![Op::put("a", "3")])).await;
    assert!(matches!(error, Err(StoreError::Closed)));
    let store = open(dir.path());
    assert_eq!(store.stats().revision, head);
    let old = store.range(Range::prefix("").at(then)).await.unwrap();
    assert_eq!(text(&old.kvs), pairs(&[("a", "1"), ("b", "1")]));
    let mut watch = store.watch(Revision(then.0 - 1)).await.unwrap();
    for (key, value) in [("b", "1"), ("a", "2")] {
        assert_eq!(next(&mut watch).await.events, [put_event(key, value)]);
    }
}

#[tokio::test]
async fn a_file_in_use_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let error = Embedded::open(&dir.path().join("store"), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another process"));
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "a", "1").await;
    let database = store.shared.database().unwrap();
    format::set_format(&database, format::FORMAT_VERSION + 1).unwrap();
    drop(database);
    store.close().await;
    let path = dir.path().join("store");
    let error = Embedded::open(&path, Options::default()).unwrap_err();
    assert!(
        matches!(error, OpenError::NewerFormat { found: 3, .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("start the newer program again"));
}

#[tokio::test]
async fn a_file_with_other_content_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for content in [b"hello".to_vec(), vec![7; 100_000]] {
        std::fs::write(&path, &content).unwrap();
        let error = Embedded::open(&path, Options::default()).unwrap_err();
        assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_acknowledged_and_the_store_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let quota = Quota::default();
    let store = Embedded::open_with_quota(&path, Options::default(), quota.clone()).unwrap();
    let mut watch = watch_now(&store).await;
    quota.0.store(8 * 1024 * 1024, Ordering::Relaxed);
    let value = "x".repeat(64 * 1024);
    let mut acknowledged = Vec::new();
    let error = loop {
        let key = format!("k{:05}", acknowledged.len());
        let op = Op::put(key.clone(), value.clone());
        match store.txn(Txn::of(vec![op])).await {
            Ok(_) => acknowledged.push(key),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 10_000, "the disk never filled up");
    };
    assert!(matches!(error, StoreError::DiskFull), "{error}");
    assert!(error.is_retryable());
    assert!(acknowledged.len() > 10);
    assert!(store.stats().failing > 0);
    // Reads go on while the disk is full, and show exactly what was acknowledged.
    let found = store.range(Range::prefix("k")).await.unwrap();
    let keys: Vec<_> = text(&found.kvs).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, acknowledged);
    // With space again, the same store takes writes, and the watch has missed nothing.
    quota.0.store(u64::MAX, Ordering::Relaxed);
    put(&store, "k99999", "after").await;
    assert_eq!(store.stats().failing, 0);
    acknowledged.push("k99999".to_owned());
    for key in &acknowledged {
        assert_eq!(next(&mut watch).await.events[0].key(), key);
    }
    store.close().await;
    let store = open(dir.path());
    let found = store.range(Range::prefix("k")).await.unwrap();
    assert_eq!(found.kvs.len(), acknowledged.len());
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let op = Op::put("a", vec![0; apply::VALUE_BYTES_MAX + 1]);
    let error = store.txn(Txn::of(vec![op])).await.unwrap_err();
    assert!(
        matches!(error, StoreError::TooLarge { what: "value", .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_panic_of_the_writer_is_told_and_nobody_waits_in_vain() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "a", "kept").await;
    let mut watch = watch_now(&store).await;
    let handle = store.clone();
    let died = handle.died();
    let mut died = std::pin::pin!(died);
    assert!(died.as_mut().now_or_never().is_none());
    // There is no revision after the last number there is, so the next write panics.
    let database = store.shared.database().unwrap();
    let txn = database.begin_write().unwrap();
    let mut numbers = txn.open_table(format::META).unwrap();
    numbers.insert(format::HEAD, u64::MAX).unwrap();
    drop(numbers);
    txn.commit().unwrap();
    drop(database);
    let lost = store.txn(Txn::of(vec![Op::put("a", "lost")])).await;
    let lost = lost.expect_err("the writer died of it");
    assert!(lost.leaves_outcome_unknown());
    let told = tokio::time::timeout(Duration::from_secs(10), died)
        .await
        .expect("the death is told");
    assert!(std::error::Error::source(&told).is_some());
    assert!(watch.next().await.is_none());
    let refused = store.txn(Txn::of(vec![Op::put("a", "lost")])).await;
    assert!(matches!(refused, Err(StoreError::Closed)));
    // A later watcher of the death is told as well, and what was acknowledged is there again.
    store.died().await;
    let store = open(dir.path());
    let found = store.range(Range::key("a")).await.unwrap();
    assert_eq!(text(&found.kvs), pairs(&[("a", "kept")]));
}

#[tokio::test]
async fn closing_in_order_is_no_death() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.close().await;
    let died = tokio::time::timeout(Duration::from_millis(100), store.died()).await;
    assert!(died.is_err());
}

#[test]
fn a_failure_keeps_its_cause() {
    let cause = std::io::Error::other("the cable is out");
    let error = engine_error(redb::Error::Io(cause));
    assert!(matches!(error, StoreError::Io(_)));
    assert_eq!(error.to_string(), "the store failed");
    assert!(std::error::Error::source(&error).is_some());
    let shown = chain(&error);
    assert!(shown.ends_with("the cable is out"), "{shown}");
    assert_eq!(chain(&StoreError::Closed), "the store is closed");
}
