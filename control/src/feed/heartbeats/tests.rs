// SPDX-License-Identifier: Apache-2.0
//! Tests of how silence is measured.

use std::time::SystemTime;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn setting_the_clock_changes_no_silence() {
    let heartbeats = Heartbeats::default();
    let start = Instant::now();
    let set = [
        SystemTime::UNIX_EPOCH + SECOND * 1_000_000,
        SystemTime::UNIX_EPOCH,
    ];
    for wall in set {
        let moment = Moment {
            monotonic: start,
            wall,
        };
        heartbeats.beat("node-1", moment);
        assert_eq!(heartbeats.silence("node-1", start + SECOND), SECOND);
        let ago = heartbeats.heard_ago("node-1", start + SECOND);
        assert_eq!(ago, Some(SECOND));
    }
}

#[test]
fn a_node_that_was_never_heard_is_silent_from_when_it_was_first_waited_for() {
    let heartbeats = Heartbeats::default();
    let later = Instant::now() + SECOND * 100;
    assert_eq!(heartbeats.silence("node-1", later), Duration::ZERO);
    assert_eq!(heartbeats.silence("node-1", later + SECOND), SECOND);
    assert_eq!(heartbeats.heard_ago("node-1", later + SECOND), None);
    heartbeats.forget("node-1");
    assert_eq!(
        heartbeats.silence("node-1", later + SECOND * 9),
        Duration::ZERO
    );
}
