// SPDX-License-Identifier: Apache-2.0
//! Tests of the feed's log.

use knarr_api::feed::{PodRemove, change};
use knarr_api::k8s_openapi::api::core::v1::Pod;
use knarr_control_plan::feed::{ObjectKey, ObjectKind};

use super::*;

fn outgoing(node: &str, uid: &str) -> Outgoing {
    Outgoing {
        audience: Audience::Node(node.into()),
        change: Change {
            change: Some(change::Change::PodRemove(PodRemove { uid: uid.into() })),
        },
        body: None,
    }
}

fn limited_to(changes: usize) -> Limits {
    Limits {
        changes,
        bytes: BYTES_MAX,
    }
}

fn pod(name: &str, node: &str) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "default", "name": name, "uid": name},
        "spec": {"nodeName": node, "containers": [
            {"name": "c", "envFrom": [{"configMapRef": {"name": "large"}}]}]},
    }))
    .unwrap()
}

#[test]
fn a_node_reads_its_own_changes_and_catches_up_with_the_rest() {
    let mut log = Log::default();
    for (node, uid) in [("a", "1"), ("b", "2"), ("a", "3")] {
        log.append(outgoing(node, uid));
    }
    let piece = log
        .since(0, "a", limited_to(10), &FeedView::default())
        .unwrap();
    assert_eq!((piece.version, piece.changes.len()), (3, 2));
    let piece = log
        .since(1, "b", limited_to(10), &FeedView::default())
        .unwrap();
    assert_eq!((piece.version, piece.changes.len()), (3, 1));
    let piece = log
        .since(3, "a", limited_to(10), &FeedView::default())
        .unwrap();
    assert_eq!((piece.version, piece.changes.len()), (3, 0));
}

#[test]
fn a_limited_piece_ends_before_the_first_change_left_out() {
    let mut log = Log::default();
    for uid in ["1", "2", "3"] {
        log.append(outgoing("a", uid));
    }
    let piece = log
        .since(0, "a", limited_to(2), &FeedView::default())
        .unwrap();
    assert_eq!((piece.version, piece.changes.len()), (2, 2));
    let rest = log
        .since(piece.version, "a", limited_to(2), &FeedView::default())
        .unwrap();
    assert_eq!((rest.version, rest.changes.len()), (3, 1));
}

#[test]
fn what_was_dropped_cannot_be_resumed() {
    let mut log = Log::default();
    let total = ENTRIES_MAX as u64 + 10;
    for uid in 0..total {
        log.append(outgoing("a", &uid.to_string()));
    }
    assert_eq!(
        log.since(9, "a", limited_to(10), &FeedView::default()),
        None
    );
    assert!(
        log.since(10, "a", limited_to(10), &FeedView::default())
            .is_some()
    );
    assert!(!log.reaches(total + 1));
}

#[test]
fn what_a_burst_left_is_forgotten_after_a_while() {
    let mut log = Log::default();
    let burst = ENTRIES_KEPT as u64 * 3;
    for uid in 0..burst {
        log.append(outgoing("a", &uid.to_string()));
    }
    assert!(log.trim(), "there is much");
    assert!(log.reaches(0), "nothing was here before");
    log.append(outgoing("a", "new"));
    assert!(!log.trim());
    assert_eq!(log.entries.len(), ENTRIES_KEPT);
    assert!(log.entries.capacity() <= 2 * ENTRIES_KEPT);
    let view = FeedView::default();
    assert_eq!(log.since(burst - 300, "a", limited_to(1000), &view), None);
    let piece = log.since(burst - 10, "a", limited_to(1000), &view).unwrap();
    assert_eq!((piece.version, piece.changes.len()), (burst + 1, 11));
    for _ in 0..10 {
        assert!(!log.trim());
    }
    assert_eq!(log.entries.len(), ENTRIES_KEPT, "these stay");
}

#[test]
fn large_changes_are_dropped_by_their_bytes() {
    let mut log = Log::default();
    let large = "x".repeat(BYTES_MAX / 2);
    for _ in 0..3 {
        log.append(outgoing("a", &large));
    }
    assert!(!log.reaches(0));
    assert!(log.bytes <= BYTES_MAX);
}

#[test]
fn large_objects_cost_no_node_its_place_in_the_log() {
    let (mut log, mut view) = (Log::default(), FeedView::default());
    let large = ObjectKey {
        kind: ObjectKind::ConfigMap,
        namespace: "default".to_owned(),
        name: "large".to_owned(),
    };
    let body = |byte: u8| bytes::Bytes::from(vec![byte; BYTES_MAX]);
    log.append(outgoing("b", "1"));
    let mut outgoing = view.observe_pod(&pod("web", "a"), "{}");
    outgoing.extend(view.observe_object(&large, Some(body(1))));
    outgoing.extend(view.observe_object(&large, Some(body(2))));
    outgoing.into_iter().for_each(|change| log.append(change));
    assert!(log.reaches(0));
    let other = log.since(0, "b", limited_to(10), &view).unwrap();
    assert_eq!((other.version, other.changes.len()), (4, 1));
    // The newest body, as often as it changed, and never more than fits with it.
    let mut version = 0;
    let mut bodies = Vec::new();
    while version < 4 {
        let piece = log.since(version, "a", limited_to(10), &view).unwrap();
        version = piece.version;
        assert!(!piece.changes.is_empty());
        for change in piece.changes {
            if let Some(change::Change::ObjectSet(set)) = change.change {
                bodies.push(set.object_json[0]);
            }
        }
    }
    assert_eq!(bodies, [2, 2]);
    // What is gone is not told any more; that it is gone is.
    view.forget_pod(&knarr_api::names::NamespacedName::new("default", "web"))
        .into_iter()
        .for_each(|change| log.append(change));
    let piece = log.since(0, "a", limited_to(10), &view).unwrap();
    assert_eq!(piece.changes.len(), 2);
    assert!(piece.changes.into_iter().all(|told| matches!(
        told.change,
        Some(change::Change::PodRemove(_) | change::Change::ObjectRemove(_))
    )));
}
