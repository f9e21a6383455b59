// SPDX-License-Identifier: Apache-2.0
//! Tests of the bound on log lines about refused joins.

use super::*;

#[test]
fn a_flood_of_refusals_is_one_line_a_second_that_counts_the_others() {
    let refusals = Refusals::default();
    let start = Instant::now();
    let lines: Vec<u64> = (0..5_000)
        .filter_map(|ms| refusals.line(start + Duration::from_millis(ms)))
        .collect();
    assert_eq!(lines, [0, 999, 999, 999, 999]);
}

#[test]
fn a_long_name_is_cut_between_two_characters() {
    assert_eq!(beginning("node-1"), "node-1");
    let long = "ä".repeat(1_000_000);
    assert_eq!(beginning(&long), "ä".repeat(32));
    let odd = format!("x{long}");
    assert_eq!(beginning(&odd).len(), 63);
}
