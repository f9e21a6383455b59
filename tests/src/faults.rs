// SPDX-License-Identifier: Apache-2.0
//! Faults, through xtask as a person would cause them, and a guard that undoes them even when a test fails, so that the
//! next test finds a whole cluster.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::hosts::NODES;
use crate::kubectl::Kubectl;
use crate::lab::{up_dir, xtask};
use crate::outcome::Outcome;
use crate::wait::eventually;

/// The kernel stops and ends a host's few hundred processes in milliseconds; a loaded machine gets some more.
const KERNEL_LIMIT: Duration = Duration::from_secs(20);

/// A call of xtask, once the lab is there.
fn on_lab(args: &[&str]) -> Command {
    up_dir();
    xtask(args)
}

/// The lab's own commands. Gives what they print.
///
/// # Panics
/// When one fails.
pub fn lab(args: &[&str]) -> String {
    let outcome = Outcome::of(&mut on_lab(args), "");
    assert!(
        outcome.success,
        "xtask {} failed:\n{}{}",
        args.join(" "),
        outcome.stdout,
        outcome.stderr
    );
    format!("{}{}", outcome.stdout, outcome.stderr)
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

/// kill -9 of every process on these hosts but the first of each, which only reaps: programs under test, shims, pause
/// processes, containers. It is one moment for all: everything is frozen before the first is killed, so that nothing
/// sees another part die, and nothing that was about to be started gets away. What they left in the kernel and on the
/// disk stays, other than at [`stop_host`].
///
/// # Panics
/// When a process is left.
pub fn kill_all_processes(hosts: &[&str]) {
    let frozen: Vec<Frozen> = hosts.iter().map(|host| Frozen::new(host)).collect();
    for host in &frozen {
        host.await_frozen();
    }
    let pids: Vec<String> = frozen
        .iter()
        .flat_map(Frozen::processes)
        .map(|pid| pid.to_string())
        .collect();
    // Frozen processes do not end by themselves, so these numbers are still theirs.
    let killed = Outcome::of(Command::new("kill").arg("-KILL").args(&pids), "");
    assert!(killed.success, "kill failed:\n{}", killed.stderr);
    for host in &frozen {
        eventually("everything that was killed is gone", KERNEL_LIMIT, || {
            let left = host.processes();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?} in {}", host.cgroup.display()))
            }
        });
    }
}

/// A lab host whose processes do not run until this is dropped, also when the test has failed.
struct Frozen {
    /// Its folder in cgroup v2, as this process sees it.
    cgroup: PathBuf,
    /// Its first process.
    init: u64,
}

impl Frozen {
    /// Asks for it; [`Frozen::await_frozen`] waits for it.
    fn new(host: &str) -> Self {
        let book = fs::read_to_string(up_dir().join("state.json")).expect("a lab is up");
        let book: Value = serde_json::from_str(&book).expect("the lab's book is JSON");
        let lab = book["cgroup"].as_str().expect("a lab has a cgroup");
        let init = book["hosts"][host]["init"]["pid"]
            .as_u64()
            .unwrap_or_else(|| panic!("{host} does not run"));
        let frozen = Self {
            cgroup: cgroup_v2().join(lab).join(host),
            init,
        };
        frozen.set("1").expect("a host can be frozen");
        frozen
    }

    fn set(&self, value: &str) -> io::Result<()> {
        fs::write(self.cgroup.join("cgroup.freeze"), value)
    }

    fn await_frozen(&self) {
        let file = self.cgroup.join("cgroup.events");
        eventually("a host is frozen", KERNEL_LIMIT, || {
            let events = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            if events.contains("frozen 1") {
                Ok(())
            } else {
                Err(events)
            }
        });
    }

    /// All but the first one. A process that only waits to be reaped is none (the kernel's cgroup-v2.rst).
    fn processes(&self) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.cgroup.clone()];
        while let Some(folder) = open.pop() {
            // No process can remove a cgroup of a frozen host.
            let procs = fs::read_to_string(folder.join("cgroup.procs")).expect("a cgroup is read");
            found.extend(procs.lines().filter_map(|line| line.parse::<u64>().ok()));
            let entries = fs::read_dir(&folder).expect("a cgroup is listed");
            open.extend(
                entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
        }
        assert!(
            found.remove(&self.init),
            "{} does not hold the host's first process {}, so it is not the host's",
            self.cgroup.display(),
            self.init
        );
        found
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = self.set("0");
        // A second panic would hide the first.
        if !std::thread::panicking() {
            thawed.expect("a frozen host can go on");
        }
    }
}

/// Where cgroup v2 is mounted on this machine: alone, or beside v1.
fn cgroup_v2() -> &'static Path {
    [
        Path::new("/sys/fs/cgroup/unified"),
        Path::new("/sys/fs/cgroup"),
    ]
    .into_iter()
    .find(|root| root.join("cgroup.controllers").is_file())
    .expect("cgroup v2 is mounted")
}

/// The lab's own commands where a failure changes nothing: while a test's end is being undone.
pub fn quietly(args: &[&str]) {
    Outcome::of(&mut on_lab(args), "");
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
