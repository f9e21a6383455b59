// SPDX-License-Identifier: Apache-2.0
//! Tests of how a snapshot is cut into messages.

use knarr_api::feed::{ObjectSet, change};

use super::*;

fn object(bytes: usize) -> Change {
    let object = ObjectSet {
        object_json: vec![0; bytes].into(),
        ..ObjectSet::default()
    };
    Change {
        change: Some(change::Change::ObjectSet(object)),
    }
}

#[test]
fn a_part_is_bounded_by_count_and_by_bytes_and_never_empty() {
    assert_eq!(part_of(&[]), 0);
    assert_eq!(part_of(&vec![object(10); 1000]), CHANGES_PER_DELTA_MAX);
    assert_eq!(part_of(&vec![object(DELTA_BYTES_MAX / 4); 10]), 3);
    assert_eq!(part_of(&vec![object(DELTA_BYTES_MAX * 2); 10]), 1);
}
