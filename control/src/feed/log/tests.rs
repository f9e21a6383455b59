// SPDX-License-Identifier: Apache-2.0
//! Tests of the feed's log.

use knarr_api::feed::{PodRemove, change};

use super::*;

fn outgoing(node: &str, uid: &str) -> Outgoing {
    Outgoing {
        audience: Audience::Node(node.into()),
        change: Change {
            change: Some(change::Change::PodRemove(PodRemove { uid: uid.into() })),
        },
    }
}

#[test]
fn a_node_reads_its_own_changes_and_catches_up_with_the_rest() {
    let mut log = Log::default();
    for (node, uid) in [("a", "1"), ("b", "2"), ("a", "3")] {
        log.append(outgoing(node, uid));
    }
    let piece = log.since(0, "a", 10).unwrap();
    assert_eq!((piece.version, piece.changes.len()), (3, 2));
    let piece = log.since(1, "b", 10).unwrap();
    assert_eq!((piece.version, piece.changes.len()), (3, 1));
    let piece = log.since(3, "a", 10).unwrap();
    assert_eq!((piece.version, piece.changes.len()), (3, 0));
}

#[test]
fn a_limited_piece_ends_before_the_first_change_left_out() {
    let mut log = Log::default();
    for uid in ["1", "2", "3"] {
        log.append(outgoing("a", uid));
    }
    let piece = log.since(0, "a", 2).unwrap();
    assert_eq!((piece.version, piece.changes.len()), (2, 2));
    let rest = log.since(piece.version, "a", 2).unwrap();
    assert_eq!((rest.version, rest.changes.len()), (3, 1));
}

#[test]
fn what_was_dropped_cannot_be_resumed() {
    let mut log = Log::default();
    let total = ENTRIES_MAX as u64 + 10;
    for uid in 0..total {
        log.append(outgoing("a", &uid.to_string()));
    }
    assert_eq!(log.since(9, "a", 10), None);
    assert!(log.since(10, "a", 10).is_some());
    assert!(!log.reaches(total + 1));
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
