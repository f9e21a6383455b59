// SPDX-License-Identifier: Apache-2.0
//! Faults, through xtask as a person would cause them, and a guard that undoes them even when a test fails, so that the
//! next test finds a whole cluster.

use std::process::Command;
use std::time::Duration;

use crate::cluster::xtask;
use crate::hosts::NODES;
use crate::kubectl::{Kubectl, Outcome};
use crate::wait::eventually;

/// The lab's own commands.
///
/// # Panics
/// When one fails.
pub fn lab(args: &[&str]) {
    let outcome = Outcome::of(Command::new(xtask()).args(args), "");
    assert!(
        outcome.success,
        "xtask {} failed:\n{}{}",
        args.join(" "),
        outcome.stdout,
        outcome.stderr
    );
}

/// kill -9 of a node's agent.
pub fn kill_agent(node: &str) {
    lab(&["node", node, "--kill-agent"]);
}

/// Starts a node's agent.
pub fn restart_agent(node: &str) {
    lab(&["node", node, "--restart-agent"]);
}

/// Power off.
pub fn stop_host(node: &str) {
    lab(&["node", node, "--stop-host"]);
}

/// Power on.
pub fn start_host(node: &str) {
    lab(&["node", node, "--start-host"]);
}

/// kill -9 of the control plane.
pub fn kill_control() {
    lab(&["control", "--kill"]);
}

/// Starts the control plane and waits until it answers.
pub fn start_control() {
    lab(&["control", "--start"]);
}

/// The lab's own commands where a failure changes nothing: while a test's end is being undone.
pub fn quietly(args: &[&str]) {
    Outcome::of(Command::new(xtask()).args(args), "");
}

/// Makes everything whole at the end of a test.
pub struct Whole;

impl Drop for Whole {
    fn drop(&mut self) {
        quietly(&["control", "--start"]);
        for node in NODES {
            quietly(&["node", node, "--plug"]);
            // Starts host and agent where they do not run, and changes nothing where they do.
            quietly(&["node", node, "--start-host"]);
        }
        if !std::thread::panicking() {
            all_ready();
        }
    }
}

/// Waits until every node is Ready.
///
/// # Panics
/// When that takes too long.
pub fn all_ready() {
    let kubectl = Kubectl::new("default");
    for node in NODES {
        node_ready(&kubectl, node, "True", Duration::from_secs(60));
    }
}

/// Waits until a node's Ready condition has this status.
///
/// # Panics
/// When that takes too long.
pub fn node_ready(kubectl: &Kubectl, node: &str, status: &str, limit: Duration) {
    eventually(&format!("{node} has Ready={status}"), limit, || {
        let seen = kubectl
            .run(&[
                "get",
                "node",
                node,
                "--output",
                r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#,
            ])
            .stdout;
        if seen == status { Ok(()) } else { Err(seen) }
    });
}
