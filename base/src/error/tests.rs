// SPDX-License-Identifier: Apache-2.0
//! Tests of error chains.

use std::io;

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Step {
    text: &'static str,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

fn step(text: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Step {
    Step {
        text,
        source: Some(source.into()),
    }
}

#[test]
fn every_cause_stands_once_and_in_order() {
    let disk = io::Error::from_raw_os_error(28);
    let error = step("saving the pod", step("writing /x", disk));
    assert_eq!(
        chain(&error),
        "saving the pod: writing /x: No space left on device (os error 28)"
    );
}

#[test]
fn an_error_without_a_cause_is_its_own_text() {
    let error = Step {
        text: "closed",
        source: None,
    };
    assert_eq!(chain(&error), "closed");
}

#[test]
fn a_cause_that_the_error_repeats_is_left_out() {
    let error = step("client error: connection refused", "connection refused");
    assert_eq!(chain(&error), "client error: connection refused");
    let error = step(
        "outer: middle",
        step("middle", step("inner", io::Error::other("disk"))),
    );
    assert_eq!(chain(&error), "outer: middle: inner: disk");
}

#[test]
fn the_io_error_at_the_root_is_found() {
    let error = step("a", step("b", io::Error::from_raw_os_error(1)));
    assert_eq!(io_error(&error).and_then(io::Error::raw_os_error), Some(1));
    assert!(io_error(&step("a", "b")).is_none());
}
