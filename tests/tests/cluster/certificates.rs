// SPDX-License-Identifier: Apache-2.0
//! Certificates of nodes in a cluster that has run for a while: the tiers' control plane gives them a life of minutes.

use std::fs;
use std::time::Duration;

use knarr_tests::hosts::{self, NODES};
use knarr_tests::lab::up_dir;
use knarr_tests::wait::eventually;
use knarr_tests::{Kubectl, faults};

/// Longer than two thirds of the life of a certificate of this lab (150 s), after which it is renewed.
const RENEWED_WITHIN: Duration = Duration::from_secs(150);
/// A node joins within this long after its agent started; a certificate that is younger than that was renewed.
const JOINED_WITHIN_S: u64 = 10;

/// The process id of a node's agent.
fn agent(node: &str) -> u64 {
    let state = fs::read_to_string(up_dir().join("state.json")).expect("a cluster is up");
    let state: serde_json::Value = serde_json::from_str(&state).expect("the lab's book is JSON");
    state["hosts"][node]["service"]["pid"]
        .as_u64()
        .unwrap_or_else(|| panic!("{node} has no agent: {state}"))
}

/// How long a process runs, in seconds.
fn age_s(pid: u64) -> u64 {
    let output = std::process::Command::new("ps")
        .args(["--format", "etimes=", "--pid", &pid.to_string()])
        .output()
        .expect("ps starts");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("process {pid} does not run"))
}

/// How long ago a node's certificate came, in seconds.
fn certificate_age_s(node: &str) -> u64 {
    let number = |args: &[&str]| -> u64 {
        let text = hosts::ok(node, args);
        text.trim().parse().expect("a number of seconds")
    };
    let written = number(&["stat", "--format=%Y", "/var/lib/knarr/pki/node.pem"]);
    number(&["date", "+%s"]).saturating_sub(written)
}

#[test]
fn certificates_of_nodes_are_renewed_by_agents_that_go_on() {
    faults::all_ready();
    for node in NODES {
        let pid = agent(node);
        eventually(
            &format!("{node} has another certificate than it started with"),
            RENEWED_WITHIN,
            || {
                let (runs_s, has_s) = (age_s(pid), certificate_age_s(node));
                if has_s + JOINED_WITHIN_S < runs_s {
                    Ok(())
                } else {
                    Err(format!(
                        "the agent runs for {runs_s} s, the certificate is {has_s} s old"
                    ))
                }
            },
        );
        assert_eq!(agent(node), pid, "the agent of {node} was started again");
        faults::node_ready(&Kubectl::new("default"), node, "True", Duration::ZERO);
    }
}
