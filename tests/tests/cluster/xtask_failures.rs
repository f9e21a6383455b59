// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask` that cannot do what it was asked ends with another code than 0, and the last thing it says is why.

use std::fs;
use std::path::Path;
use std::process::Command;

use knarr_tests::Outcome;
use knarr_tests::hosts::{CLIENT, CONTROL, NODES};
use knarr_tests::lab::{up_dir, xtask, xtask_program};

/// What it says on the way to ending with this code. Nothing of that is output.
fn failure(args: &[&str], code: i32) -> String {
    let outcome = Outcome::of(&mut xtask(args), "");
    let said = outcome.stderr.trim_end().to_owned();
    let line = args.join(" ");
    assert_eq!(
        outcome.code,
        Some(code),
        "xtask {line}: {}{said}",
        outcome.stdout
    );
    assert_eq!(outcome.stdout, "", "xtask {line}");
    said
}

fn reason(args: &[&str]) -> String {
    let said = failure(args, 1);
    said.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_host_that_there_is_not_is_refused_with_those_there_are() {
    for args in [
        &["node", "node-9", "--", "true"] as &[&str],
        &["node", "node-9", "--kill-agent"],
    ] {
        let reason = reason(args);
        let there = reason
            .strip_prefix("error: there is no host node-9; there are ")
            .unwrap_or_else(|| panic!("{reason}"));
        let there: Vec<&str> = there.split(", ").collect();
        for host in [CLIENT, CONTROL].iter().chain(&NODES) {
            assert!(there.contains(host), "{host} is not told: {reason}");
        }
    }
}

#[test]
fn a_command_with_nothing_to_do_is_refused_with_what_there_is_to_say() {
    assert_eq!(
        reason(&["node", "node-1"]),
        "error: say what to do on node-1: `-- CMD...`, or one of the faults in `cargo xtask node --help`"
    );
    assert_eq!(
        reason(&["control"]),
        "error: say what to do: --kill, --start or `-- CMD...`"
    );
}

#[test]
fn arguments_that_are_not_understood_are_refused_with_those_that_are() {
    // 2 is what the parser of arguments ends with; it has a line of its own behind every reason.
    assert_eq!(
        failure(&["bench", "nothing"], 2),
        "error: invalid value 'nothing' for '[NAMES]...'\n  [possible values: datapath, idle, start]\n\n\
         For more information, try '--help'."
    );
}

/// A checkout with the parts of this one by which xtask knows a checkout and a lab, and with xtask itself.
fn copied_checkout(at: &Path) {
    let up = at.join("target").join("up");
    fs::create_dir_all(&up).unwrap();
    fs::create_dir_all(at.join("xtask")).unwrap();
    fs::write(at.join("Cargo.lock"), "").unwrap();
    fs::write(at.join("xtask").join("Cargo.toml"), "").unwrap();
    fs::copy(up_dir().join("state.json"), up.join("state.json")).unwrap();
    fs::copy(xtask_program(), at.join("target").join("xtask")).unwrap();
}

#[test]
fn a_copied_checkout_leaves_the_cluster_of_the_original_alone() {
    let copy = tempfile::tempdir().unwrap();
    copied_checkout(copy.path());
    let in_copy = |args: &[&str]| {
        let mut command = Command::new(copy.path().join("target").join("xtask"));
        for name in ["CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR"] {
            command.env_remove(name);
        }
        Outcome::of(command.current_dir(copy.path()).args(args), "")
    };
    let state = || fs::read(up_dir().join("state.json")).unwrap();
    let before = state();

    let command = in_copy(&["node", NODES[0], "--", "true"]);
    let down = in_copy(&["down"]);

    assert_eq!(command.code, Some(1), "{}", command.stderr);
    assert!(
        command.stderr.contains("nothing is up"),
        "{}",
        command.stderr
    );
    assert_eq!(down.code, Some(0), "{}", down.stderr);
    assert!(!copy.path().join("target/up/state.json").exists());
    assert_eq!(state(), before);
    let here = Outcome::of(&mut xtask(&["node", NODES[0], "--", "true"]), "");
    assert_eq!(here.code, Some(0), "the original's host: {}", here.stderr);
}
