// SPDX-License-Identifier: Apache-2.0
//! When a Lease may be taken.

use super::*;

fn lease(holder: &str, version: &str) -> LeaseView {
    LeaseView {
        holder: holder.to_owned(),
        version: version.to_owned(),
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_lease_that_does_not_exist_is_made_and_one_that_was_given_up_is_taken() {
    let mut observed = Observed::default();
    assert_eq!(plan(None, &mut observed, s(0)), Step::Create);
    let free = lease("", "7");
    assert_eq!(plan(Some(&free), &mut observed, s(0)), Step::Take);
}

#[test]
fn a_lease_is_taken_when_it_has_not_changed_for_its_duration() {
    let mut observed = Observed::default();
    let mut at = |version, seconds| plan(Some(&lease("other", version)), &mut observed, s(seconds));
    // However old it is, a candidate that sees it for the first time waits.
    assert_eq!(at("1", 100), Step::Wait);
    assert_eq!(at("1", 114), Step::Wait);
    assert_eq!(at("2", 114), Step::Wait, "it was renewed");
    assert_eq!(at("2", 128), Step::Wait);
    assert_eq!(at("2", 129), Step::Take);
}

#[test]
fn a_holder_has_stopped_before_another_can_take_its_lease() {
    // The last renewal that was written may have been answered late, by one period at most.
    assert!(RENEW_DEADLINE + RETRY_PERIOD < LEASE_DURATION);
}
