// SPDX-License-Identifier: Apache-2.0
//! Tests of blocking calls.

use super::*;

#[tokio::test]
async fn the_result_comes_back() {
    assert_eq!(run(|| 7).await, 7);
    let failed: Result<(), Panicked> = run_or_fail(|| Err(Panicked("own".to_owned()))).await;
    assert_eq!(failed.unwrap_err().0, "own");
}

#[tokio::test]
#[should_panic(expected = "of the call")]
async fn a_panic_goes_on_in_the_caller() {
    run(|| panic!("of the call")).await;
}

#[tokio::test]
async fn a_panic_becomes_an_error_that_says_what_it_was() {
    for (failed, text) in [
        (run_or_fail(|| panic!("short")).await, "short"),
        (run_or_fail(|| panic!("number {}", 5)).await, "number 5"),
        (run_or_fail(|| std::panic::panic_any(5)).await, "no message"),
    ] {
        let failed: Result<(), Panicked> = failed;
        let whole = format!("a blocking call panicked: {text}");
        assert_eq!(failed.unwrap_err().to_string(), whole);
    }
}
