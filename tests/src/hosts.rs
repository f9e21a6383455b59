// SPDX-License-Identifier: Apache-2.0
//! Commands on lab hosts, through `cargo xtask node|client|control` as a person would run them.

use std::process::Command;

use crate::cluster::xtask;
use crate::kubectl::Outcome;

/// The nodes of the tiers' cluster.
pub const NODES: [&str; 2] = ["node-1", "node-2"];
/// The host outside the cluster.
pub const CLIENT: &str = "client";
/// The control plane's host.
pub const CONTROL: &str = "control";

/// Where a host is in the lab's network.
///
/// # Panics
/// For a name that is none.
pub fn address(host: &str) -> String {
    match host {
        CONTROL => "198.18.0.10".to_owned(),
        CLIENT => "198.18.0.20".to_owned(),
        _ => format!(
            "198.18.1.{}",
            host.strip_prefix("node-").expect("a node is called node-N")
        ),
    }
}

/// A command on a host.
pub fn command(host: &str, args: &[&str]) -> Command {
    let mut command = Command::new(xtask());
    match host {
        CLIENT | CONTROL => command.args([host, "--"]),
        _ => command.args(["node", host, "--"]),
    };
    command.args(args);
    command
}

/// Runs a command on a host, whatever comes of it.
pub fn run(host: &str, args: &[&str]) -> Outcome {
    Outcome::of(&mut command(host, args), "")
}

/// Runs a command on a host and returns what it printed.
///
/// # Panics
/// When it fails.
pub fn ok(host: &str, args: &[&str]) -> String {
    let outcome = run(host, args);
    assert!(
        outcome.success,
        "`{}` on {host} failed:\n{}{}",
        args.join(" "),
        outcome.stdout,
        outcome.stderr
    );
    outcome.stdout
}

/// The line that joins a machine, as `knarr-control token create` prints it.
///
/// # Panics
/// When no token can be made.
pub fn join_line(flags: &[&str]) -> Vec<String> {
    let mut command = vec![
        "knarr-control",
        "token",
        "create",
        "--data-dir",
        "/var/lib/knarr-control",
    ];
    command.extend_from_slice(flags);
    let line = ok(CONTROL, &command);
    line.split_whitespace().map(str::to_owned).collect()
}

/// One HTTP request from a host; the name of who answered.
///
/// # Errors
/// What the client said when it was not answered.
pub fn get(host: &str, target: &str) -> Result<String, String> {
    let outcome = run(host, &["knarr-echo", "client", "get", target]);
    if outcome.success {
        Ok(outcome.stdout.trim().to_owned())
    } else {
        Err(outcome.stderr.trim().to_owned())
    }
}
