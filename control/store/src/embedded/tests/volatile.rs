// SPDX-License-Identifier: Apache-2.0
//! Values in memory only: seen by everybody, never written, and never at a revision that is given out twice.

use super::*;

async fn put_volatile(store: &Embedded, key: &str, value: &str) -> Revision {
    let op = Op::put_volatile(key.to_owned(), value.to_owned());
    store.txn(Txn::of(vec![op])).await.unwrap().revision
}

async fn value(store: &Embedded, key: &str) -> (String, Revision) {
    let kv = store.range(Range::key(key.to_owned())).await.unwrap();
    let kv = kv.kvs.into_iter().next().expect("the key");
    (
        String::from_utf8(kv.value.to_vec()).unwrap(),
        kv.mod_revision,
    )
}

#[tokio::test]
async fn many_volatile_changes_cost_one_durable_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "lease", "0").await;
    let mut watch = watch_now(&store).await;
    let before = store.stats();
    let mut last = before.revision;
    for n in 0..1000 {
        let revision = put_volatile(&store, "lease", &n.to_string()).await;
        assert_eq!(revision, last.next(), "every change has a revision");
        last = revision;
        let batch = next(&mut watch).await;
        assert_eq!(batch.revision, revision);
        let renewed = Event::Put {
            key: "lease".into(),
            value: n.to_string().into(),
        };
        assert_eq!(batch.events, [renewed]);
        assert_eq!(value(&store, "lease").await, (n.to_string(), revision));
    }
    let after = store.stats();
    assert_eq!(after.writes, before.writes, "none of them is a write");
    assert_eq!(after.commits, before.commits + 1, "one reserves revisions");
}

#[tokio::test]
async fn volatile_and_durable_changes_compare_and_swap_with_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let written = put(&store, "lease", "0").await;
    let renewed = put_volatile(&store, "lease", "1").await;
    let swap = |read: Revision, op: Op| Txn {
        compare: vec![Compare::mod_revision("lease", read)],
        then: vec![op],
    };
    // Whoever read the durable value has not seen the newest.
    let stale = store
        .txn(swap(written, Op::put("lease", "x")))
        .await
        .unwrap();
    assert_eq!(stale.conflicts, [Bytes::from("lease")]);
    assert_eq!(stale.revision, renewed);
    let done = store
        .txn(swap(renewed, Op::put("lease", "2")))
        .await
        .unwrap();
    assert!(done.succeeded());
    assert_eq!(
        value(&store, "lease").await,
        ("2".to_owned(), done.revision)
    );
    // A renewal of what was replaced meanwhile does nothing.
    let late = store
        .txn(swap(renewed, Op::put_volatile("lease", "late")))
        .await
        .unwrap();
    assert!(!late.succeeded());
    assert_eq!(late.revision, done.revision);
    put_volatile(&store, "lease", "3").await;
    let gone = delete(&store, "lease").await;
    let left = store.range(Range::key("lease")).await.unwrap();
    assert_eq!((left.kvs, left.revision), (vec![], gone));
    assert_eq!(
        put_volatile(&store, "lease", "4").await,
        gone,
        "what is gone stays so"
    );
}

#[tokio::test]
async fn after_a_restart_no_revision_is_given_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Revision(0);
    for restart in 0..3 {
        let store = open(dir.path());
        let durable = put(&store, "lease", "durable").await;
        assert!(durable > seen, "restart {restart}: {durable} after {seen}");
        for n in 0..10 {
            seen = put_volatile(&store, "lease", &n.to_string()).await;
        }
        store.close().await;
        let store = open(dir.path());
        assert_eq!(
            value(&store, "lease").await,
            ("durable".to_owned(), durable)
        );
        assert!(store.stats().revision >= seen);
        // What a client had read before is a revision still.
        let at = store.range(Range::key("lease").at(seen)).await.unwrap();
        assert_eq!(at.kvs.len(), 1);
        let next = put_volatile(&store, "lease", "again").await;
        assert!(next > seen);
        seen = next;
        store.close().await;
    }
}

#[tokio::test]
async fn after_an_orderly_restart_a_watch_goes_on_at_the_head_and_after_a_crash_it_jumps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "lease", "durable").await;
    let seen = put_volatile(&store, "lease", "1").await;
    let crashed = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), crashed.path().join(file.file_name())).unwrap();
    }
    store.close().await;
    for restart in 0..2 {
        let store = open(dir.path());
        assert_eq!(store.stats().revision, seen, "restart {restart}");
        store.close().await;
    }
    let store = open(dir.path());
    let mut watch = store.watch(seen).await.unwrap();
    let renewed = put_volatile(&store, "lease", "2").await;
    assert_eq!(renewed, seen.next());
    assert_eq!(next(&mut watch).await.revision, renewed);

    let store = open(crashed.path());
    assert!(
        store.stats().revision > seen,
        "the file does not tell how far it got"
    );
}

#[tokio::test]
async fn compaction_writes_nothing_where_only_volatile_changes_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "lease", "0").await;
    let head = put_volatile(&store, "lease", "1").await;
    store.compact(head).await.unwrap();
    for n in 0..5 {
        let head = put_volatile(&store, "lease", &n.to_string()).await;
        let before = store.stats();
        store.compact(head).await.unwrap();
        assert_eq!(store.stats(), before);
    }
}

#[tokio::test]
async fn a_file_without_volatile_changes_keeps_its_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let head = put(&store, "a", "1").await;
    store.close().await;
    let store = open(dir.path());
    assert_eq!(store.stats().revision, head);
    assert_eq!(put(&store, "a", "2").await, head.next());
}
