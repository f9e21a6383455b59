// SPDX-License-Identifier: Apache-2.0
//! What elector and runner see of each other.

use futures::FutureExt;

use super::*;

#[test]
fn a_process_alone_leads_and_never_loses() {
    let mut leadership = Leadership::always();
    assert!(leadership.begin().is_some());
    assert_eq!(leadership.gained().now_or_never(), Some(()));
    assert_eq!(leadership.lost().now_or_never(), None);
}

#[test]
fn a_standby_begins_no_term_and_holds_nobody_up() {
    let (mut elector, mut leadership) = channel();
    assert!(leadership.begin().is_none());
    assert_eq!(leadership.gained().now_or_never(), None);
    assert_eq!(elector.step_down().now_or_never(), Some(()));
}

#[test]
fn stepping_down_waits_for_the_end_of_the_term() {
    let (mut elector, mut leadership) = channel();
    elector.lead();
    let term = leadership.begin().unwrap();
    assert_eq!(leadership.lost().now_or_never(), None);
    assert_eq!(elector.step_down().now_or_never(), None);
    assert_eq!(leadership.lost().now_or_never(), Some(()));
    assert!(leadership.begin().is_none(), "the role is gone");
    drop(term);
    assert_eq!(elector.step_down().now_or_never(), Some(()));
}

#[test]
fn the_end_of_the_elector_is_a_loss() {
    let (elector, mut leadership) = channel();
    elector.lead();
    let _term = leadership.begin().unwrap();
    drop(elector);
    assert_eq!(leadership.lost().now_or_never(), Some(()));
    assert_eq!(leadership.gained().now_or_never(), None);
}
