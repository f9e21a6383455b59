// SPDX-License-Identifier: Apache-2.0
//! The delays of a container that keeps failing.
use super::*;

#[test]
fn the_first_end_is_followed_by_a_start_at_once() {
    assert_eq!(BackOff::due(None, 5_000), 5_000);
}

#[test]
fn delays_double_from_ten_seconds_to_five_minutes() {
    let mut b = None;
    let mut now = 0;
    let mut delays = Vec::new();
    for _ in 0..8 {
        let due = BackOff::due(b, now);
        delays.push((due - now) / 1000);
        b = Some(BackOff::next(b, now, due));
        now = due;
    }
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn ten_quiet_minutes_forget_the_delay() {
    let b = Some(BackOff {
        delay_ms: BACK_OFF_MAX_MS,
        updated_ms: 0,
    });
    assert_eq!(
        BackOff::due(b, BACK_OFF_RESET_MS),
        BACK_OFF_RESET_MS + BACK_OFF_MAX_MS
    );
    assert_eq!(
        BackOff::due(b, BACK_OFF_RESET_MS + 1),
        BACK_OFF_RESET_MS + 1
    );
    assert_eq!(
        BackOff::next(b, BACK_OFF_RESET_MS + 1, BACK_OFF_RESET_MS + 1).delay_ms,
        BACK_OFF_FIRST_MS
    );
}

#[test]
fn durations_are_printed_as_go_prints_them() {
    assert_eq!(go_duration(10_000), "10s");
    assert_eq!(go_duration(80_000), "1m20s");
    assert_eq!(go_duration(300_000), "5m0s");
}
