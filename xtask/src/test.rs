// SPDX-License-Identifier: Apache-2.0
//! `test`: the tiers. A tier that cannot run says which part is missing and fails; it never passes by doing nothing.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::{build, ebpf, paths, run, setup, ui, up};

/// What can be tested by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Tier {
    /// Plans, schemas, the store, the API: no root, no kernel.
    Unit,
    /// The kernel programs and maps, in namespaces and cgroups of their own.
    Bpf,
    /// Images, sandboxes, containers and cgroups on this machine.
    Node,
    /// What people and scripts do with kubectl against a running cluster.
    Kubectl,
    /// Services, updates, faults, joining and images against a running cluster; at the end it is taken away.
    Cluster,
}

const ALL: [Tier; 5] = [
    Tier::Unit,
    Tier::Bpf,
    Tier::Node,
    Tier::Cluster,
    Tier::Kubectl,
];
/// Crates whose tests load programs into the kernel.
const BPF_PACKAGES: [&str; 1] = ["knarr-datapath"];
/// Crates whose tests make sandboxes.
const NODE_PACKAGES: [&str; 1] = ["knarr-runtime"];
/// The crate that drives whole clusters.
const CLUSTER_PACKAGE: &str = "knarr-tests";
/// The kernel programs have no tests on the host; what can be tested there is in their common crate.
const NO_TESTS: &str = "knarr-ebpf";
/// How many nodes the cluster tiers run on.
const NODES: u32 = 2;
/// Faults show after this long instead of Kubernetes' 40 s and 300 s, so that the tiers fit in a coffee break.
const SHORT_TIMES: [&str; 6] = [
    "--node-monitor-grace-period",
    "8s",
    "--default-not-ready-toleration-seconds",
    "5",
    "--default-unreachable-toleration-seconds",
    "5",
];

/// Runs tiers, all of them when none is named.
pub fn run(tiers: &[Tier], filter: Option<&str>) -> anyhow::Result<()> {
    let mut tiers = if tiers.is_empty() {
        ALL.to_vec()
    } else {
        tiers.to_vec()
    };
    tiers.sort_unstable();
    tiers.dedup();
    if tiers.iter().any(|tier| *tier != Tier::Unit) {
        up::require_root().context("all tiers but `unit` need root")?;
    }
    setup::ensure_for_up()?;
    let mut failed = Vec::new();
    let mut found = Found::Nothing;
    for tier in &tiers {
        ui::heading(&format!("tier {}", name(*tier)));
        let started = Instant::now();
        match run_tier(*tier, filter) {
            Ok(Found::Tests) => {
                found = Found::Tests;
                ui::line(&format!(
                    "tier {} passed in {} s",
                    name(*tier),
                    started.elapsed().as_secs()
                ));
            }
            Ok(Found::Nothing) => {
                ui::line(&format!("tier {} has no test of such a name", name(*tier)))
            }
            Err(error) => {
                ui::failure(&error);
                failed.push(name(*tier));
            }
        }
    }
    if tiers
        .iter()
        .any(|tier| matches!(tier, Tier::Cluster | Tier::Kubectl))
        && failed.is_empty()
    {
        up::down()?;
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    if let (Found::Nothing, Some(filter)) = (found, filter) {
        let named: Vec<&str> = tiers.iter().map(|tier| name(*tier)).collect();
        bail!(
            "no test's name contains \"{filter}\" in {}: nothing was tested",
            named.join(", ")
        );
    }
    Ok(())
}

/// Whether a call had anything to run. A filter may fit the tests of one tier or package only, but one that fits none
/// at all is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Tests,
}

fn name(tier: Tier) -> &'static str {
    match tier {
        Tier::Unit => "unit",
        Tier::Bpf => "bpf",
        Tier::Node => "node",
        Tier::Cluster => "cluster",
        Tier::Kubectl => "kubectl",
    }
}

fn run_tier(tier: Tier, filter: Option<&str>) -> anyhow::Result<Found> {
    match tier {
        Tier::Unit => {
            // The agent is built with the kernel programs inside.
            ebpf::run()?;
            let mut excluded: Vec<&str> = vec![NO_TESTS, CLUSTER_PACKAGE];
            excluded.extend(BPF_PACKAGES);
            excluded.extend(NODE_PACKAGES);
            let mut args = vec!["--workspace"];
            for package in excluded {
                args.extend(["--exclude", package]);
            }
            let most = cargo_test(&args, filter, Parallel::Yes)?;
            let rest = cargo_test(
                &["--package", CLUSTER_PACKAGE, "--lib"],
                filter,
                Parallel::Yes,
            )?;
            Ok(most.max(rest))
        }
        Tier::Bpf => {
            ebpf::run()?;
            cargo_test(&packages(&BPF_PACKAGES), filter, Parallel::No)
        }
        Tier::Node => {
            let most = cargo_test(&packages(&NODE_PACKAGES), filter, Parallel::No)?;
            // How the agent refuses machines that cannot be a node: it needs root to get that far.
            let of = ["--package", "knarr-agent", "--test", "machine"];
            let rest = cargo_test(&of, filter, Parallel::No)?;
            Ok(most.max(rest))
        }
        Tier::Cluster => {
            cluster_up()?;
            let of = |test| ["--package", CLUSTER_PACKAGE, "--test", test];
            let most = cargo_test(&of("cluster"), filter, Parallel::No)?;
            // The last ones: they take the cluster away.
            let rest = cargo_test(&of("lifecycle"), filter, Parallel::No)?;
            Ok(most.max(rest))
        }
        Tier::Kubectl => {
            cluster_up()?;
            cargo_test(
                &["--package", CLUSTER_PACKAGE, "--test", "kubectl"],
                filter,
                Parallel::Yes,
            )
        }
    }
}

fn cluster_up() -> anyhow::Result<()> {
    up::up_with(NODES, &SHORT_TIMES.map(str::to_owned))
}

fn packages(names: &[&'static str]) -> Vec<&'static str> {
    names.iter().flat_map(|name| ["--package", name]).collect()
}

/// Whether the tests of a call may run beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parallel {
    Yes,
    No,
}

/// The exit code with which nextest says that no test fits (nextest_metadata's `NO_TESTS_RUN`).
const NEXTEST_FOUND_NONE: i32 = 4;

/// Runs tests with nextest where it is installed, else with cargo's own runner.
fn cargo_test(args: &[&str], filter: Option<&str>, parallel: Parallel) -> anyhow::Result<Found> {
    let xtask = std::env::current_exe().context("cannot tell where xtask is")?;
    let command = |runner: &[&str]| {
        let mut cargo = build::cargo();
        cargo
            .args(runner)
            .args(args)
            .env("KNARR_EBPF_OBJECT", paths::ebpf_object())
            .env("KNARR_XTASK", &xtask)
            .env("KNARR_UP", paths::up());
        cargo
    };
    let threads: &[&str] = match parallel {
        Parallel::Yes => &[],
        Parallel::No => &["--test-threads", "1"],
    };
    if run::exists("cargo-nextest") {
        let mut cargo = command(&[
            "nextest",
            "run",
            "--no-fail-fast",
            "--status-level",
            "pass",
            "--final-status-level",
            "slow",
            "--no-tests",
            "fail",
        ]);
        return nextest(cargo.args(threads).args(filter), filter);
    }
    if filter.is_some() {
        let listed = run::stdout(command(&["test"]).args(filter).args(["--", "--list"]))?;
        if !listed.lines().any(|line| line.ends_with(": test")) {
            return Ok(Found::Nothing);
        }
    }
    let mut cargo = command(&["test", "--no-fail-fast"]);
    run::loud(cargo.args(filter).arg("--").args(threads))?;
    Ok(Found::Tests)
}

fn nextest(cargo: &mut Command, filter: Option<&str>) -> anyhow::Result<Found> {
    let shown = run::show(cargo);
    let status = cargo
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    match (status.code(), filter) {
        (Some(0), _) => Ok(Found::Tests),
        (Some(NEXTEST_FOUND_NONE), Some(_)) => Ok(Found::Nothing),
        _ => bail!("`{shown}` failed: {status}"),
    }
}
