// SPDX-License-Identifier: Apache-2.0
//! Rules about single lines and whole files: length, names, words and unbounded queues.

use super::scan::code_lines;
use super::{Finding, Source};

/// A file that is longer has a seam that was not looked for.
const LINES_MAX: usize = 800;

/// Promises to do something later; made of two halves, so that this file does not find itself.
const POSTPONED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Ways to make a queue without a bound.
const UNBOUNDED: [&str; 5] = [
    concat!("unbounded_", "channel("),
    concat!("mpsc::", "unbounded("),
    concat!("Unbounded", "Sender"),
    concat!("crossbeam_channel::", "unbounded"),
    concat!("std::sync::mpsc::", "channel("),
];

/// Folders of decisions: values in, values out.
const PLANS: [&str; 3] = ["agent/plan/src", "agent/services/src", "control/plan/src"];

/// What reads or changes the world, or the clock.
const EFFECTS: [&str; 12] = [
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    // Which of the modules above comes in this way would be seen nowhere else.
    "std::{",
    "rand::",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "::now()",
    "SystemTime",
    "tokio",
];

pub fn check(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .filter(|source| source.is_rust())
        .flat_map(check_one)
        .collect()
}

fn check_one(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        findings.push(Finding::new(&source.path, 0, format!("{lines} lines; more than {LINES_MAX} is too long to be read at once, so find the seam")));
    }
    if source.path.file_name().is_some_and(|name| name == "mod.rs") {
        findings.push(Finding::new(&source.path, 0, "modules are called `name.rs` beside their folder `name/`: a tab that says mod.rs says nothing"));
    }
    for (number, line) in source.text.lines().enumerate() {
        for word in POSTPONED {
            if line
                .split(|sign: char| !sign.is_alphanumeric())
                .any(|found| found == word)
            {
                findings.push(Finding::new(
                    &source.path,
                    number + 1,
                    format!("{word}: do it, refuse it loudly, or write an issue"),
                ));
            }
        }
    }
    for (number, line) in code_lines(&source.text).iter().enumerate() {
        for call in UNBOUNDED {
            if line.contains(call) {
                findings.push(Finding::new(&source.path, number + 1, format!("`{call}` has no bound: a queue that grows without limit hides that its reader is too slow")));
            }
        }
    }
    findings.extend(effects(source));
    findings
}

/// Tests may: they measure, and have to make a moment from something.
fn effects(source: &Source) -> Vec<Finding> {
    let is_test = source
        .path
        .iter()
        .any(|part| part == "tests" || part == "tests.rs");
    if is_test || !PLANS.iter().any(|plan| source.path.starts_with(plan)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in code_lines(&source.text).iter().enumerate() {
        for effect in EFFECTS {
            if line.contains(effect) {
                findings.push(Finding::new(&source.path, number + 1, format!("`{effect}` in a plan crate: a decision gets the world and the time as values, so that it can be tested as one")));
            }
        }
    }
    findings
}
