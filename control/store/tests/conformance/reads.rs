// SPDX-License-Identifier: Apache-2.0
//! Reads: as of now and of older revisions, in pages, and what is refused.

use bytes::Bytes;
use knarr_store::{KeyValue, Op, Range, Revision, StoreError, Txn};

use crate::engines::Engine;
use crate::steps::{delete, put};

fn pairs(kvs: &[KeyValue]) -> Vec<(Bytes, Bytes)> {
    kvs.iter()
        .map(|kv| (kv.key.clone(), kv.value.clone()))
        .collect()
}

fn wanted(pairs: &[(&'static str, &'static str)]) -> Vec<(Bytes, Bytes)> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect()
}

pub async fn the_current_revision_is_that_of_what_another_process_wrote(engine: Engine) {
    for n in 0..20 {
        let written = put(&*engine.other, "a", &n.to_string()).await;
        assert_eq!(engine.store.current_revision().await.unwrap(), written);
        let read = engine.store.range(Range::key("a")).await.unwrap();
        assert_eq!(read.revision, written);
        assert_eq!(read.kvs[0].value, n.to_string());
        assert_eq!(engine.store.stats().revision, written);
    }
}

pub async fn a_list_at_an_older_revision_shows_what_was_then(engine: Engine) {
    let store = &*engine.store;
    put(store, "p/a", "1").await;
    put(store, "p/b", "1").await;
    let then = put(store, "p/c", "1").await;
    put(store, "p/a", "2").await;
    delete(store, "p/b").await;
    put(store, "p/d", "1").await;
    let again = put(store, "p/b", "again").await;
    put(store, "q", "1").await;
    let old = store.range(Range::prefix("p/").at(then)).await.unwrap();
    assert_eq!(
        pairs(&old.kvs),
        wanted(&[("p/a", "1"), ("p/b", "1"), ("p/c", "1")])
    );
    assert_eq!(old.revision, then);
    let new = store.range(Range::prefix("p/")).await.unwrap();
    let all = [("p/a", "2"), ("p/b", "again"), ("p/c", "1"), ("p/d", "1")];
    assert_eq!(pairs(&new.kvs), wanted(&all));
    assert_eq!(new.revision, again.next());
    let everything = store.range(Range::prefix("")).await.unwrap();
    assert_eq!(everything.kvs.len(), 5);
    let empty = store.range(Range::prefix("none/")).await.unwrap();
    assert_eq!((empty.kvs.len(), empty.more), (0, false));
}

pub async fn a_limited_list_says_whether_there_is_more(engine: Engine) {
    let store = &*engine.store;
    for n in 0..10 {
        put(store, &format!("p/{n}"), "v").await;
    }
    put(store, "q", "v").await;
    let page = store.range(Range::prefix("p/").limit(4)).await.unwrap();
    assert_eq!((page.kvs.len(), page.more), (4, true));
    // What happens between two pages does not show on the second.
    delete(store, "p/7").await;
    put(store, "p/77", "v").await;
    let mut rest = Range::prefix("p/").at(page.revision).limit(6);
    rest.start = "p/3\0".into();
    let rest = store.range(rest).await.unwrap();
    assert_eq!((rest.kvs.len(), rest.more), (6, false));
    assert_eq!(rest.kvs[3].key, "p/7");
}

pub async fn a_list_is_whole_however_large_it_is(engine: Engine) {
    let store = &*engine.store;
    // More than the 4 MiB that gRPC takes in one message by default.
    for n in 0..8 {
        let op = Op::put(format!("p/{n}"), vec![b'x'; 1 << 20]);
        store.txn(Txn::of(vec![op])).await.unwrap();
    }
    let all = store.range(Range::prefix("p/")).await.unwrap();
    assert_eq!((all.kvs.len(), all.more), (8, false));
}

pub async fn a_future_revision_is_refused(engine: Engine) {
    let store = &*engine.store;
    let head = put(store, "a", "1").await;
    let refused = store.range(Range::key("a").at(head.next())).await;
    let StoreError::FutureRevision { requested, newest } = refused.unwrap_err() else {
        panic!("another error");
    };
    assert_eq!((requested, newest), (head.next(), head));
    let refused = store.compact(head.next()).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::FutureRevision { .. }),
        "{refused}"
    );
}

pub async fn a_compacted_revision_is_refused_and_the_next_is_not(engine: Engine) {
    let store = &*engine.store;
    let first = put(store, "a", "1").await;
    put(store, "gone", "x").await;
    delete(store, "gone").await;
    let kept = put(store, "a", "3").await;
    put(store, "a", "4").await;
    store.compact(kept).await.unwrap();
    for at in [first, Revision(kept.0 - 1)] {
        let error = store.range(Range::key("a").at(at)).await.unwrap_err();
        assert!(matches!(error, StoreError::Compacted { requested } if requested == at));
    }
    let found = store.range(Range::prefix("").at(kept)).await.unwrap();
    assert_eq!(pairs(&found.kvs), wanted(&[("a", "3")]));
    assert_eq!(store.stats().compacted, kept);
}
