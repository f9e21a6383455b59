// SPDX-License-Identifier: Apache-2.0
//! Commands on lab hosts, through `cargo xtask node|client|control` as a person would run them.

use std::process::Command;
use std::time::Duration;

use crate::lab::{up_dir, xtask};
use crate::outcome::Outcome;
use crate::wait::eventually;

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
    // Starts the lab when this is the first test of its group.
    up_dir();
    let mut command = xtask(&[]);
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

/// Waits until on every node the maps have this many ready endpoints, and none that is about to go, behind each port of
/// a Service, given as NAMESPACE/NAME. The API knows of them before the nodes do.
///
/// # Panics
/// When it is not so after the limit.
pub fn knows_endpoints(service: &str, count: usize, limit: Duration) {
    let wanted = format!(" {count} ready, 0 terminating");
    for node in NODES {
        eventually(
            &format!("{node} knows of {count} endpoints of {service}"),
            limit,
            || {
                let said = run(node, &["knarr-agent", "service", "get", service]);
                let sets = said.stdout.lines().filter(|line| line.contains(" ready, "));
                let sets: Vec<&str> = sets.collect();
                if !sets.is_empty() && sets.iter().all(|set| set.contains(&wanted)) {
                    Ok(())
                } else {
                    Err(format!("{}{}", said.stdout, said.stderr))
                }
            },
        );
    }
}
