// SPDX-License-Identifier: Apache-2.0
//! The lab that a test acts on. Tests that disturb no other test share the one that `cargo xtask test` brings up under
//! `target/up/`. The others are in groups of nextest (`.config/nextest.toml`); a group has a lab of its own under
//! `target/labs/`, which its first test starts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use serde_json::Value;

use crate::outcome::Outcome;

/// How the groups begin whose tests start and end their lab themselves.
const MAKES_ITS_LAB: &str = "lifecycle-";
/// How nextest calls the group of a test that is in none.
const NO_GROUP: &str = "@global";
/// Names the lab that xtask acts on.
const LAB: &str = "KNARR_LAB";

/// The lab of this test's group; none for the tests that share one.
fn group() -> Option<String> {
    let group = std::env::var("NEXTEST_TEST_GROUP").ok()?;
    (group != NO_GROUP).then_some(group)
}

/// Cargo's target folder, which holds everything that xtask makes.
pub fn target_dir() -> PathBuf {
    let dir = std::env::var_os("KNARR_TARGET").map_or_else(
        || {
            let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
            PathBuf::from(package).join("../target")
        },
        PathBuf::from,
    );
    dir.canonicalize().unwrap_or(dir)
}

/// Where the files of this test's cluster are. Starts the cluster when this is the first test of its group.
pub fn up_dir() -> PathBuf {
    static STARTED: Once = Once::new();
    let Some(group) = group() else {
        return target_dir().join("up");
    };
    let dir = target_dir().join("labs").join(&group);
    if !group.starts_with(MAKES_ITS_LAB) && !is_complete(&dir) {
        STARTED.call_once(|| {
            // Everything was built before the first test ran.
            let mut up = xtask(&["up-for-tests"]);
            let outcome = Outcome::of(up.env("KNARR_XTASK_NO_BUILD", "1"), "");
            assert!(
                outcome.success,
                "the lab {group} does not start:\n{}{}",
                outcome.stdout, outcome.stderr
            );
        });
    }
    dir
}

/// Whether `up` has come to its end in a lab's folder; it makes the kubeconfig long before.
fn is_complete(dir: &Path) -> bool {
    let book = std::fs::read(dir.join("state.json")).unwrap_or_default();
    let book: Value = serde_json::from_slice(&book).unwrap_or_default();
    book["complete"] == true
}

/// The xtask program.
///
/// # Panics
/// When it is not there.
pub fn xtask_program() -> PathBuf {
    let path = std::env::var_os("KNARR_XTASK")
        .map_or_else(|| target_dir().join("debug/xtask"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: these tests are run by `cargo xtask test cluster kubectl`",
        path.display()
    );
    path
}

/// A call of xtask that acts on this test's lab.
pub fn xtask(args: &[&str]) -> Command {
    let mut command = Command::new(xtask_program());
    if let Some(group) = group() {
        command.env(LAB, group);
    }
    command.args(args);
    command
}
