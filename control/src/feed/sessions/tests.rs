// SPDX-License-Identifier: Apache-2.0
//! Tests of which session is a node's.

use super::*;

#[test]
fn a_new_connection_ends_the_one_before_it_and_not_the_other_way_round() {
    let sessions = Sessions::default();
    let first = sessions.start("node-1");
    let second = sessions.start("node-1");
    assert!(first.is_cancelled() && !second.is_cancelled());
    sessions.end("node-1", &first);
    sessions.acked("node-1", 7);
    assert_eq!(sessions.acknowledged(), [("node-1".to_owned(), 7)]);
    sessions.end("node-1", &second);
    assert_eq!(sessions.acknowledged(), []);
}

#[test]
fn an_interrupted_session_ends_so_that_the_agent_says_everything_again() {
    let sessions = Sessions::default();
    let session = sessions.start("node-1");
    sessions.interrupt("node-2");
    assert!(!session.is_cancelled());
    sessions.interrupt("node-1");
    assert!(session.is_cancelled());
    assert_eq!(sessions.acknowledged(), []);
}
