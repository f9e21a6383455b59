// SPDX-License-Identifier: Apache-2.0
//! What is kept for watchers, and for how long.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn encoding(kind: &str) -> Encoding {
    Encoding {
        format: Format::Protobuf,
        api_version: "v1".into(),
        kind: kind.into(),
    }
}

/// Encodes by copying, and counts how often it had to.
#[derive(Default)]
struct Encoder(AtomicUsize);

impl Encoder {
    fn ask(&self, watcher: &Watcher, encoding: &Encoding, json: &Bytes) -> Bytes {
        let encoded = watcher.encoded(encoding, json, || {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Bytes::copy_from_slice(json))
        });
        encoded.expect("it can be encoded")
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_hundred_watchers_cost_one_encoding() {
    let kept = Arc::new(Kept::default());
    let encoder = Encoder::default();
    let json = Bytes::from_static(b"{}");
    std::thread::scope(|scope| {
        for _ in 0..100 {
            let (watcher, encoder, json) = (kept.watcher(), &encoder, &json);
            scope.spawn(move || {
                let encoded = encoder.ask(&watcher, &encoding("Pod"), json);
                assert_eq!(encoded, json);
                // Others may be encoding still.
                std::mem::forget(watcher);
            });
        }
    });
    assert_eq!(encoder.count(), 1);
    let _ = encoder.ask(&kept.watcher(), &encoding("Event"), &json);
    assert_eq!(encoder.count(), 2, "another encoding is encoded for itself");
}

#[test]
fn equal_objects_in_two_places_are_two_objects() {
    let kept = Arc::new(Kept::default());
    let watcher = kept.watcher();
    let encoder = Encoder::default();
    for _ in 0..2 {
        let json = Bytes::from(b"{}".to_vec());
        let _ = encoder.ask(&watcher, &encoding("Pod"), &json);
    }
    assert_eq!(encoder.count(), 2);
}

#[test]
fn the_oldest_goes_when_there_is_too_much() {
    let kept = Arc::new(Kept::default());
    let watcher = kept.watcher();
    let encoder = Encoder::default();
    let objects: Vec<Bytes> = (0..8)
        .map(|n| Bytes::from(vec![n; KEPT_BYTES_MAX / 8]))
        .collect();
    for json in &objects {
        let _ = encoder.ask(&watcher, &encoding("Pod"), json);
    }
    assert_eq!(encoder.count(), 8);
    assert!(kept.lock().held_bytes <= KEPT_BYTES_MAX);
    let _ = encoder.ask(&watcher, &encoding("Pod"), &objects[7]);
    assert_eq!(encoder.count(), 8, "the newest is there");
    let _ = encoder.ask(&watcher, &encoding("Pod"), &objects[0]);
    assert_eq!(encoder.count(), 9, "the oldest is gone");
    let state = kept.lock();
    let held: usize = state.entries.values().map(|entry| entry.held_bytes()).sum();
    assert_eq!(held, state.held_bytes);
    assert_eq!(state.order.len(), state.entries.len());
}

#[test]
fn nothing_is_kept_without_watchers() {
    let kept = Arc::new(Kept::default());
    let (first, second) = (kept.watcher(), kept.watcher());
    let json = Bytes::from_static(b"{}");
    let encoder = Encoder::default();
    let _ = encoder.ask(&first, &encoding("Pod"), &json);
    drop(first);
    let _ = encoder.ask(&second, &encoding("Pod"), &json);
    assert_eq!(encoder.count(), 1);
    drop(second);
    assert!(kept.lock().entries.is_empty());
    assert_eq!(kept.lock().held_bytes, 0);
}

#[test]
fn each_watcher_gets_the_reason_of_what_cannot_be_encoded() {
    let kept = Arc::new(Kept::default());
    let watcher = kept.watcher();
    for _ in 0..2 {
        let refused = watcher.encoded(&encoding("Pod"), &Bytes::from_static(b"{"), || {
            Err(ApiError::internal("no object"))
        });
        assert!(refused.is_err_and(|e| e.to_string().contains("no object")));
    }
}
