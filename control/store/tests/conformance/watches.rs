// SPDX-License-Identifier: Apache-2.0
//! Watches: nothing missed, nothing twice, in order; and what ends them.

use std::sync::Arc;

use knarr_store::{Event, Op, Range, Revision, StoreError, Txn};

use crate::engines::Engine;
use crate::steps::{SILENCE, delete, is_silent, item, next, put, put_of};

pub async fn a_watch_replays_history_and_goes_on_without_a_gap(engine: Engine) {
    let first = put(&*engine.store, "p/0", "v").await;
    // More than one piece of replay, while new changes keep coming.
    for n in 1..400 {
        put(&*engine.store, &format!("p/{n}"), "v").await;
    }
    let mut watch = engine.store.watch(Revision(first.0 - 1)).await.unwrap();
    let writer = Arc::clone(&engine.other);
    let writing = tokio::spawn(async move {
        for n in 400..600 {
            put(&*writer, &format!("p/{n}"), "v").await;
        }
    });
    for n in 0..600 {
        let batch = next(&mut watch).await;
        assert_eq!(batch.revision, Revision(first.0 + n));
        assert_eq!(batch.events, [put_of(&format!("p/{n}"), "v")]);
    }
    writing.await.unwrap();
    assert!(is_silent(&mut watch).await, "nothing comes twice");
    assert_eq!(engine.store.stats().watches, 1);
}

pub async fn one_transaction_is_one_batch(engine: Engine) {
    let store = &*engine.store;
    let head = put(store, "c", "0").await;
    let mut live = store.watch(head).await.unwrap();
    let ops = vec![
        Op::put("b", "1"),
        Op::delete("c"),
        Op::delete("nothing"),
        Op::put("d", "3"),
    ];
    let revision = store.txn(Txn::of(ops)).await.unwrap().revision;
    let mut replayed = engine.other.watch(head).await.unwrap();
    for watch in [&mut live, &mut replayed] {
        let mut batch = next(watch).await;
        assert_eq!(batch.revision, revision);
        batch.events.sort_by(|a, b| a.key().cmp(b.key()));
        let deleted = Event::Delete { key: "c".into() };
        assert_eq!(batch.events, [put_of("b", "1"), deleted, put_of("d", "3")]);
    }
}

pub async fn a_watch_of_a_revision_to_come_starts_after_it(engine: Engine) {
    let store = &*engine.store;
    let head = put(store, "a", "0").await;
    let mut watch = store.watch(Revision(head.0 + 2)).await.unwrap();
    for n in 1..=3 {
        put(store, "a", &n.to_string()).await;
    }
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, Revision(head.0 + 3));
    assert_eq!(batch.events, [put_of("a", "3")]);
}

pub async fn a_watch_after_the_compacted_revision_misses_no_deletion(engine: Engine) {
    let store = &*engine.store;
    put(store, "a", "1").await;
    let before = put(store, "b", "1").await;
    let deleted = delete(store, "a").await;
    let last = put(store, "c", "1").await;
    store.compact(before).await.unwrap();
    let mut watch = store.watch(before).await.unwrap();
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, deleted);
    assert_eq!(batch.events, [Event::Delete { key: "a".into() }]);
    assert_eq!(next(&mut watch).await.revision, last);
    // One further, and what a watch after `before` has to tell is gone with the deletion.
    store.compact(deleted).await.unwrap();
    expect_compacted(&engine, before).await;
    let mut watch = store.watch(deleted).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, last);
}

/// The call or the first item says so.
async fn expect_compacted(engine: &Engine, after: Revision) {
    let error = match engine.store.watch(after).await {
        Err(error) => error,
        Ok(mut watch) => {
            let error = item(&mut watch).await.expect("an item").unwrap_err();
            assert!(
                item(&mut watch).await.is_none(),
                "an error is the last item"
            );
            error
        }
    };
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
}

pub async fn history_that_is_gone_ends_a_watch(engine: Engine) {
    let store = &*engine.store;
    let first = put(store, "a", "1").await;
    for n in 0..5 {
        put(store, "a", &n.to_string()).await;
    }
    let head = store.current_revision().await.unwrap();
    store.compact(head).await.unwrap();
    for after in [first, Revision(head.0 - 1)] {
        expect_compacted(&engine, after).await;
    }
    let mut watch = store.watch(head).await.unwrap();
    let written = put(store, "a", "new").await;
    assert_eq!(next(&mut watch).await.revision, written);
}

pub async fn what_is_compacted_already_is_compacted_without_an_error(engine: Engine) {
    let store = &*engine.store;
    for n in 0..5 {
        put(store, "a", &n.to_string()).await;
    }
    let head = store.current_revision().await.unwrap();
    for through in [head, head, Revision(head.0 - 2)] {
        store.compact(through).await.unwrap();
        engine.other.compact(through).await.unwrap();
    }
    let found = store.range(Range::key("a").at(head)).await.unwrap();
    assert_eq!(found.kvs[0].value, "4");
}

pub async fn closing_ends_the_watches_and_refuses_every_call(engine: Engine) {
    let store = &*engine.store;
    let head = put(store, "a", "1").await;
    let mut watch = store.watch(head).await.unwrap();
    store.close().await;
    assert!(item(&mut watch).await.is_none());
    let errors = [
        store.current_revision().await.map(drop),
        store.range(Range::key("a")).await.map(drop),
        store.txn(Txn::of(vec![Op::put("a", "2")])).await.map(drop),
        store.watch(head).await.map(drop),
        store.compact(head).await,
    ];
    for result in errors {
        assert!(matches!(result, Err(StoreError::Closed)), "{result:?}");
    }
    let died = tokio::time::timeout(SILENCE, store.died()).await;
    assert!(died.is_err(), "closing in order is no death");
}

pub async fn a_watch_outlives_a_restart_of_its_server(mut engine: Engine) {
    let head = put(&*engine.store, "a", "0").await;
    let mut watch = engine.store.watch(head).await.unwrap();
    let before = put(&*engine.store, "a", "1").await;
    assert_eq!(next(&mut watch).await.revision, before);
    engine.restart_server().await;
    let after = put(&*engine.other, "a", "2").await;
    assert_eq!(next(&mut watch).await.revision, after);
    let written = put(&*engine.store, "a", "3").await;
    assert_eq!(next(&mut watch).await.revision, written);
    assert!(is_silent(&mut watch).await, "nothing comes twice");
}
