// SPDX-License-Identifier: Apache-2.0
//! Tests of finding the checkout.

use std::fs;

use super::*;

fn checkout(at: &Path) {
    fs::create_dir_all(at.join("xtask").join("src")).unwrap();
    fs::create_dir_all(at.join("agent")).unwrap();
    fs::write(at.join("Cargo.lock"), "").unwrap();
    fs::write(at.join("xtask").join("Cargo.toml"), "").unwrap();
}

#[test]
fn a_copied_checkout_is_found_from_every_folder_in_it_and_the_original_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (original, copy) = (dir.path().join("original"), dir.path().join("copy"));
    checkout(&original);
    checkout(&copy);
    for inside in ["", "xtask", "xtask/src", "agent"] {
        assert_eq!(checkout_of(&copy.join(inside)).unwrap(), copy);
    }
}

#[test]
fn outside_a_checkout_the_error_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = checkout_of(dir.path()).unwrap_err().to_string();
    assert!(error.contains("call `cargo xtask` there"), "{error}");
}
