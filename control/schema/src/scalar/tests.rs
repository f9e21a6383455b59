// SPDX-License-Identifier: Apache-2.0
//! Tests of base64 and times.

use super::*;

#[test]
fn times_come_back_in_utc_and_whole_seconds() {
    for (text, wanted) in [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T01:30:00+02:00", "2025-12-31T23:30:00Z"),
        ("2026-01-01T01:30:00-00:30", "2026-01-01T02:00:00Z"),
        ("2026-01-01T00:00:00.999999999Z", "2026-01-01T00:00:00Z"),
        ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59Z"),
    ] {
        assert_eq!(time(text, Precision::Seconds).as_deref(), Ok(wanted));
    }
}

#[test]
fn micro_times_have_six_digits() {
    for (text, wanted) in [
        ("2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.123456Z"),
        ("2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00.500000Z"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z"),
        (
            "2026-01-01T00:00:00.123456789+01:00",
            "2025-12-31T23:00:00.123456Z",
        ),
    ] {
        assert_eq!(time(text, Precision::Micros).as_deref(), Ok(wanted));
    }
}

#[test]
fn a_wrong_time_is_explained_as_go_does() {
    for (text, wanted) in [
        (
            "yesterday",
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
        ),
        (
            "2026-01-01",
            r#"parsing time "2026-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#,
        ),
        (
            "2026-01-01T00:00:00",
            r#"parsing time "2026-01-01T00:00:00" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#,
        ),
        (
            "2026-13-01T00:00:00Z",
            r#"parsing time "2026-13-01T00:00:00Z": month out of range"#,
        ),
        (
            "2026-02-30T00:00:00Z",
            r#"parsing time "2026-02-30T00:00:00Z": day out of range"#,
        ),
        (
            "2026-02-03T24:00:00Z",
            r#"parsing time "2026-02-03T24:00:00Z": hour out of range"#,
        ),
        (
            "2026-02-03T04:00:00Zjunk",
            r#"parsing time "2026-02-03T04:00:00Zjunk": extra text: "junk""#,
        ),
    ] {
        assert_eq!(time(text, Precision::Seconds), Err(wanted.to_owned()));
    }
    for text in ["", "é", "2026-é1-01T00:00:00Z", "2026-01-01T00:00:00+é"] {
        assert!(time(text, Precision::Seconds).is_err(), "{text}");
    }
}

#[test]
fn base64_loses_line_breaks_and_loose_bits() {
    assert_eq!(base64("aGVsbG8=").as_deref(), Ok("aGVsbG8="));
    assert_eq!(base64("aGVs\nbG8=\n").as_deref(), Ok("aGVsbG8="));
    assert_eq!(base64("aGl=").as_deref(), Ok("aGk="));
    assert_eq!(base64("").as_deref(), Ok(""));
}

#[test]
fn wrong_base64_is_explained_with_its_place() {
    for (text, at) in [("!", 0), ("aGVsbG8", 4), ("aGVs*G8=", 4), ("abc", 0)] {
        assert_eq!(base64(text), Err(illegal_base64(at)), "{text}");
    }
}
