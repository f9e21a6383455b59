// SPDX-License-Identifier: Apache-2.0
//! The cache's order of events, its window and its readers.

use std::sync::Arc;
use std::time::Instant;

use super::{
    Cache, CacheEventKind, EVENT_OVERHEAD_BYTES, Lagged, ResourceCache, WINDOW_AGE,
    WINDOW_BYTES_KEPT, WINDOW_EVENTS_MAX,
};
use crate::object::Object;
use crate::registry;

fn cache() -> Cache {
    Cache(Arc::new(ResourceCache::new(registry::builtin(
        "",
        "configmaps",
    ))))
}

fn object(namespace: &str, name: &str, revision: u64) -> Object {
    let json = format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"u-{name}"}}}}"#
    );
    Object::from_stored(
        &registry::builtin("", "configmaps"),
        json.as_bytes(),
        revision,
    )
    .expect("an object")
}

#[test]
fn a_watch_sees_what_is_there_and_then_every_change_in_order() {
    let cache = cache();
    cache.0.put(object("a", "one", 1));
    let (snapshot, mut events) = cache.watch();
    assert_eq!(snapshot.objects.len(), 1);
    assert_eq!(snapshot.revision, 1);
    cache.0.put(object("a", "two", 2));
    cache.0.put(object("a", "one", 3));
    cache.0.remove("a/two", 4);
    let mut seen = Vec::new();
    while let Some(event) = events.try_next().expect("no lag") {
        seen.push((event.kind, event.revision, event.previous.is_some()));
    }
    assert_eq!(
        seen,
        [
            (CacheEventKind::Added, 2, false),
            (CacheEventKind::Modified, 3, true),
            (CacheEventKind::Deleted, 4, true),
        ]
    );
}

#[test]
fn a_deleted_object_carries_the_revision_of_its_deletion() {
    let cache = cache();
    cache.0.put(object("a", "one", 1));
    let event = cache.0.remove("a/one", 9).expect("it was there");
    let text = String::from_utf8_lossy(&event.object.bytes).into_owned();
    assert!(text.contains(r#""resourceVersion":"9""#), "{text}");
    assert!(cache.get("a", "one").is_none());
}

#[test]
fn a_namespace_is_listed_without_its_neighbours() {
    let cache = cache();
    for (namespace, revision) in [("a", 1), ("a-b", 2), ("ab", 3)] {
        cache.0.put(object(namespace, "x", revision));
    }
    let names: Vec<String> = cache
        .list_namespace("a")
        .iter()
        .map(|o| o.meta.key())
        .collect();
    assert_eq!(names, ["a/x"]);
    assert_eq!(cache.len(), 3);
}

#[test]
fn a_watch_can_start_in_the_past_as_far_as_the_window_reaches() {
    let cache = cache();
    cache.0.fill(vec![object("a", "one", 5)], 7);
    cache.0.put(object("a", "two", 8));
    let mut events = cache.watch_from(7).expect("in the window");
    assert_eq!(
        events.try_next().expect("no lag").map(|e| e.revision),
        Some(8)
    );
    let expired = cache.watch_from(6).expect_err("before the window");
    assert_eq!(expired.to_string(), "too old resource version: 6 (7)");
}

#[test]
fn a_reader_that_falls_behind_is_told_and_the_window_stays_bounded() {
    let cache = cache();
    let (_, mut slow) = cache.watch();
    for revision in 1..=(WINDOW_EVENTS_MAX as u64 + 1) {
        cache.0.put(object("a", "one", revision));
    }
    assert_eq!(slow.try_next().expect_err("it fell behind"), Lagged);
    assert!(cache.watch_from(0).is_err());
    assert!(cache.watch_from(1).is_ok());
}

#[test]
fn old_events_go_where_they_hold_much_and_stay_where_they_do_not() {
    let cache = cache();
    let (_, mut slow) = cache.watch();
    for revision in 1..=4000 {
        cache.0.put(object("a", "one", revision));
    }
    let now = Instant::now();
    assert!(cache.0.trim(now), "there is much");
    assert!(cache.watch_from(0).is_ok(), "but nothing of it is old");
    assert!(!cache.0.trim(now + WINDOW_AGE * 2));
    let oldest = cache.watch_from(0).expect_err("they are gone").oldest;
    let kept = usize::try_from(4000 - oldest).expect("few") * EVENT_OVERHEAD_BYTES;
    assert!(
        (WINDOW_BYTES_KEPT / 2..=WINDOW_BYTES_KEPT).contains(&kept),
        "{kept}"
    );
    assert_eq!(slow.try_next().expect_err("it fell behind"), Lagged);
    // What is left stays, however old it gets.
    assert!(!cache.0.trim(now + WINDOW_AGE * 1000));
    assert!(cache.watch_from(oldest).is_ok());
}

#[test]
fn namespaces_are_counted_as_objects_come_and_go() {
    let cache = cache();
    let filled = ["a/x", "a/y", "a-b/x", "b/x"];
    let split = |key: &str| {
        key.split_once('/')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    let objects = filled.iter().filter_map(|key| split(key));
    let objects = objects.map(|(namespace, name)| object(&namespace, &name, 1));
    cache.0.fill(objects.collect(), 1);
    let check = || {
        for namespace in ["a", "a-b", "b", "c"] {
            let listed = cache.list_namespace(namespace).len();
            assert_eq!(cache.0.count(Some(namespace)), listed, "{namespace}");
            for limit in [0, 1, 2, 9] {
                let (first, count) = cache.0.first(Some(namespace), limit);
                assert_eq!((first.objects.len(), count), (listed.min(limit), listed));
            }
        }
        assert_eq!(cache.0.count(None), cache.len());
        assert_eq!(cache.0.first(None, 2).0.objects.len(), cache.len().min(2));
    };
    check();
    let steps = [
        "+a/x", "-a/x", "+c/z", "-a/y", "-a/y", "+a/y", "-b/x", "-c/z", "-a-b/x",
    ];
    for (step, revision) in steps.iter().zip(2..) {
        let (sign, key) = step.split_at(1);
        match split(key) {
            Some((namespace, name)) if sign == "+" => {
                cache.0.put(object(&namespace, &name, revision));
            }
            _ => drop(cache.0.remove(key, revision)),
        }
        check();
    }
    // A refill is counted as well.
    cache.0.refill(vec![object("c", "new", 20)], 11, 20);
    check();
}

#[test]
fn a_refill_after_a_gap_leads_to_the_same_state_by_events() {
    let cache = cache();
    cache.0.put(object("a", "stays", 1));
    cache.0.put(object("a", "goes", 2));
    let (_, mut events) = cache.watch();
    cache
        .0
        .refill(vec![object("a", "stays", 1), object("a", "comes", 8)], 2, 9);
    let mut seen = Vec::new();
    while let Some(event) = events.try_next().expect("no lag") {
        seen.push((event.kind, event.object.meta.name.to_string()));
    }
    assert_eq!(
        seen,
        [
            (CacheEventKind::Added, "comes".to_owned()),
            (CacheEventKind::Deleted, "goes".to_owned()),
        ]
    );
}

#[test]
fn a_refill_puts_its_events_in_by_revision_and_readers_find_their_place_among_them() {
    let cache = cache();
    cache.0.fill(vec![object("a", "goes", 3)], 4);
    cache.0.put(object("a", "known", 5));
    // By key the younger one comes first.
    let read = vec![
        object("a", "a-young", 9),
        object("a", "known", 5),
        object("a", "z-old", 7),
    ];
    cache.0.refill(read, 5, 10);
    let seen_after = |revision: u64| {
        let mut events = cache.watch_from(revision).expect("in the window");
        let mut seen = Vec::new();
        while let Some(event) = events.try_next().expect("no lag") {
            seen.push((
                event.kind,
                event.object.meta.name.to_string(),
                event.revision,
            ));
        }
        seen
    };
    let missed = [
        (CacheEventKind::Added, "z-old".to_owned(), 7),
        (CacheEventKind::Added, "a-young".to_owned(), 9),
        (CacheEventKind::Deleted, "goes".to_owned(), 10),
    ];
    assert_eq!(seen_after(5), missed);
    assert_eq!(seen_after(4)[1..], missed);
    assert_eq!(seen_after(10), []);
    // What came and went inside the gap is unknown, so nobody may go on from there.
    for inside in 6..10 {
        let expired = cache.watch_from(inside).expect_err("inside the gap");
        assert_eq!((expired.requested, expired.oldest), (inside, 10));
    }
}

#[test]
fn the_oldest_revision_to_watch_from_never_goes_back() {
    let cache = cache();
    cache.0.fill(Vec::new(), 10);
    let read = vec![object("a", "one", 30), object("a", "two", 20)];
    cache.0.refill(read, 10, 40);
    let mut oldest = 10;
    for revision in 41..41 + WINDOW_EVENTS_MAX as u64 {
        cache.0.put(object("a", "three", revision));
        let now = cache.watch_from(0).expect_err("before the window").oldest;
        assert!(now >= oldest, "{now} after {oldest}");
        oldest = now;
    }
    assert!(cache.watch_from(oldest).is_ok());
    assert!(oldest >= 30, "{oldest}");
}
