// SPDX-License-Identifier: Apache-2.0
//! Tests of which session is a node's.

use super::*;

fn begins(begins: i64) -> Certificate {
    Certificate { uid: None, begins }
}

#[test]
fn a_new_connection_ends_the_one_before_it_and_not_the_other_way_round() {
    let sessions = Sessions::default();
    let first = sessions.start("node-1", begins(7)).ended;
    let second = sessions.start("node-1", begins(7)).ended;
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
    let session = sessions.start("node-1", begins(7)).ended;
    sessions.interrupt("node-2");
    assert!(!session.is_cancelled());
    sessions.interrupt("node-1");
    assert!(session.is_cancelled());
    assert_eq!(sessions.acknowledged(), []);
}

#[test]
fn a_session_ends_when_its_certificate_counts_no_more_and_no_other_does() {
    let sessions = Sessions::default();
    let (one, two) = (
        sessions.start("node-1", begins(7)),
        sessions.start("node-2", begins(9)),
    );
    for node in sessions.nodes() {
        sessions.refuse(&node, |certificate| certificate.begins < 8);
    }
    assert!(one.refused.is_cancelled() && one.ended.is_cancelled());
    assert!(!two.refused.is_cancelled() && !two.ended.is_cancelled());
    assert_eq!(sessions.nodes(), ["node-2"]);
    assert!(!sessions.refuse("node-1", |_| true));
}
