// SPDX-License-Identifier: Apache-2.0
//! Whose name a machine may have.

use serde_json::json;

use super::*;

const PATIENCE: Patience = Patience {
    heard: Duration::from_secs(20),
    start: Duration::from_secs(40),
};

fn node(ready: &str) -> Node {
    let condition = json!([{"type": "Ready", "status": ready}]);
    serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"conditions": condition}}))
        .unwrap()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn a_node_that_is_heard_lives_until_it_has_been_silent() {
    for up in [seconds(1), seconds(1000)] {
        let judged = |silent| judge(&node("True"), Some(silent), up, PATIENCE);
        assert_eq!(judged(seconds(20)), Namesake::Connected);
        assert_eq!(judged(seconds(21)), Namesake::Gone);
    }
}

#[test]
fn a_node_that_was_alive_before_the_start_has_the_grace_to_connect_again() {
    for ready in ["True", "False"] {
        let judged = |up| judge(&node(ready), None, up, PATIENCE);
        assert_eq!(judged(Duration::ZERO), Namesake::Awaited(seconds(40)));
        assert_eq!(judged(seconds(39)), Namesake::Awaited(seconds(1)));
        assert_eq!(judged(seconds(40)), Namesake::Gone);
        assert_eq!(judged(seconds(400)), Namesake::Gone);
    }
}

#[test]
fn a_node_that_was_given_up_or_never_reported_is_not_waited_for() {
    for gone in [node("Unknown"), Node::default()] {
        assert_eq!(judge(&gone, None, Duration::ZERO, PATIENCE), Namesake::Gone);
    }
}
