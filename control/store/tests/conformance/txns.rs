// SPDX-License-Identifier: Apache-2.0
//! Transactions: revisions, comparisons, and what is refused.

use knarr_store::{Compare, Event, Op, Revision, StoreError, Txn};

use crate::engines::Engine;
use crate::steps::{delete, done, next, put, read};

pub async fn every_change_has_the_revision_after_the_one_before(engine: Engine) {
    let store = &*engine.store;
    let created = put(store, "a", "1").await;
    let other = put(store, "b", "x").await;
    assert_eq!(other, created.next());
    let written = put(store, "a", "2").await;
    assert_eq!(written, other.next());
    assert_eq!(read(store, "a").await, Some(("2".into(), written)));
    let gone = delete(store, "a").await;
    assert_eq!(gone, written.next());
    assert_eq!(read(store, "a").await, None);
    let ops = vec![Op::put("a", "3"), Op::put("c", "3"), Op::delete("b")];
    let many = store.txn(Txn::of(ops)).await.unwrap().revision;
    assert_eq!(many, gone.next(), "one revision for all of them");
    for key in ["a", "c"] {
        assert_eq!(read(store, key).await, Some(("3".into(), many)));
    }
    assert_eq!(read(store, "b").await, None);
    assert!(store.stats().revision >= many);
}

pub async fn a_failed_comparison_changes_nothing_and_says_which_keys_differ(engine: Engine) {
    let store = &*engine.store;
    let a = put(store, "a", "1").await;
    let b = put(store, "b", "1").await;
    delete(store, "gone").await;
    let compare = |key: &'static str, revision| Compare::mod_revision(key, revision);
    // (the comparisons, what differs)
    let cases: [(Vec<Compare>, &[&'static str]); 5] = [
        (vec![Compare::absent("a")], &["a"]),
        (vec![compare("a", b), compare("b", b)], &["a"]),
        (vec![compare("a", b), compare("b", a)], &["a", "b"]),
        (vec![compare("a", a), compare("gone", a)], &["gone"]),
        (vec![Compare::absent("new"), Compare::absent("b")], &["b"]),
    ];
    for (compare, differing) in cases {
        let then = vec![Op::put("a", "x"), Op::delete("b"), Op::put("new", "x")];
        let refused = store.txn(Txn { compare, then }).await.unwrap();
        assert!(!refused.succeeded());
        assert_eq!(refused.conflicts, differing);
        assert!(refused.revision >= b);
    }
    assert_eq!(read(store, "a").await, Some(("1".into(), a)));
    assert_eq!(read(store, "b").await, Some(("1".into(), b)));
    assert_eq!(read(store, "new").await, None);
    let swap = Txn {
        compare: vec![compare("a", a), compare("b", b), Compare::absent("new")],
        then: vec![Op::put("a", "2")],
    };
    assert!(store.txn(swap).await.unwrap().succeeded());
    assert_eq!(store.current_revision().await.unwrap(), b.next());
}

pub async fn of_many_concurrent_swaps_of_one_revision_exactly_one_succeeds(engine: Engine) {
    let first = put(&*engine.store, "a", "0").await;
    let swaps = (0..40_usize).map(|n| {
        let store = if n.is_multiple_of(2) {
            &engine.store
        } else {
            &engine.other
        };
        store.txn(Txn {
            compare: vec![Compare::mod_revision("a", first)],
            then: vec![Op::put("a", n.to_string())],
        })
    });
    let results = futures::future::join_all(swaps).await;
    let won = results.iter().filter(|r| r.as_ref().unwrap().succeeded());
    assert_eq!(won.count(), 1);
}

pub async fn a_transaction_that_changes_nothing_takes_no_revision(engine: Engine) {
    let store = &*engine.store;
    let head = put(store, "a", "1").await;
    let nothing = [
        Txn::of(vec![Op::delete("nothing")]),
        Txn::of(vec![Op::put_volatile("nothing", "x")]),
        Txn::of(Vec::new()),
        Txn {
            compare: vec![Compare::absent("a")],
            then: vec![Op::put("a", "x")],
        },
    ];
    for txn in nothing {
        assert_eq!(store.txn(txn).await.unwrap().revision, head);
    }
    assert_eq!(store.current_revision().await.unwrap(), head);
    assert_eq!(read(store, "nothing").await, None);
}

pub async fn two_steps_about_one_key_are_refused(engine: Engine) {
    let store = &*engine.store;
    let head = put(store, "b", "1").await;
    for second in [
        Op::put("a", "2"),
        Op::delete("a"),
        Op::put_volatile("a", "2"),
    ] {
        let txn = Txn::of(vec![Op::put("a", "1"), second]);
        let error = store.txn(txn).await.unwrap_err();
        assert!(matches!(error, StoreError::DuplicateKey(_)), "{error}");
        assert!(!error.leaves_outcome_unknown());
    }
    assert_eq!(store.current_revision().await.unwrap(), head);
}

pub async fn a_volatile_value_is_seen_compared_and_replaced_like_any_other(engine: Engine) {
    let store = &*engine.store;
    let written = put(store, "lease", "0").await;
    let mut watch = engine.other.watch(written).await.unwrap();
    let renewed = done(store, Op::put_volatile("lease", "1")).await;
    assert_eq!(renewed, written.next());
    assert_eq!(read(store, "lease").await, Some(("1".into(), renewed)));
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, renewed);
    let (key, value) = ("lease".into(), "1".into());
    assert_eq!(batch.events, [Event::Put { key, value }]);
    let swap = |read: Revision| Txn {
        compare: vec![Compare::mod_revision("lease", read)],
        then: vec![Op::put("lease", "2")],
    };
    assert!(!store.txn(swap(written)).await.unwrap().succeeded());
    let replaced = store.txn(swap(renewed)).await.unwrap();
    assert!(replaced.succeeded());
    let stored = read(store, "lease").await;
    assert_eq!(stored, Some(("2".into(), replaced.revision)));
    delete(store, "lease").await;
    assert_eq!(read(store, "lease").await, None);
}

pub async fn a_value_that_no_engine_takes_is_refused(engine: Engine) {
    let store = &*engine.store;
    let head = put(store, "a", "1").await;
    let op = Op::put("a", vec![0; 5 << 20]);
    let error = store.txn(Txn::of(vec![op])).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(!error.leaves_outcome_unknown());
    assert_eq!(store.current_revision().await.unwrap(), head);
}
