// SPDX-License-Identifier: Apache-2.0
//! Tests of what is taken from whom.

use super::*;

fn version(version: u64, dead: Option<&str>) -> Snapshot {
    Snapshot {
        version,
        dead: dead.map(str::to_owned),
        containers: Vec::new(),
    }
}

#[test]
fn a_shim_is_heard_when_it_says_something_newer() {
    let mut known = Known::new(version(3, None));
    assert_eq!(known.hear(version(3, Some("x"))), Learned::Nothing);
    assert_eq!(known.hear(version(2, Some("x"))), Learned::Nothing);
    assert_eq!(known.snapshot, version(3, None));
    assert_eq!(known.hear(version(4, Some("x"))), Learned::Something);
    assert_eq!(known.snapshot, version(4, Some("x")));
}

#[test]
fn the_end_of_a_shim_is_taken_whatever_its_version() {
    let mut known = Known::new(version(3, None));
    assert_eq!(known.hear(version(9, None)), Learned::Something);
    assert_eq!(known.settle(version(4, Some("x"))), Learned::Something);
    assert_eq!(known.snapshot, version(4, Some("x")));
    assert_eq!(known.settle(version(4, Some("x"))), Learned::Nothing);
    // An answer that was on its way when the shim died.
    assert_eq!(known.hear(version(10, None)), Learned::Nothing);
    assert_eq!(known.snapshot, version(4, Some("x")));
}
