// SPDX-License-Identifier: Apache-2.0
//! `test`: the tiers. A tier that cannot run says which part is missing and fails; it never passes by doing nothing.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};

use crate::{build, ebpf, paths, run, setup, ui, up, vm};

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
    /// The packed programs on a stock Debian machine, emulated, by the README's own commands.
    Vm,
}

const ALL: [Tier; 6] = [
    Tier::Unit,
    Tier::Bpf,
    Tier::Node,
    Tier::Cluster,
    Tier::Kubectl,
    Tier::Vm,
];
/// The crate whose tests load programs into the kernel.
const BPF_PACKAGE: &str = "knarr-datapath";
/// The crate whose tests make sandboxes.
const NODE_PACKAGE: &str = "knarr-runtime";
/// The crate that drives whole clusters.
const CLUSTER_PACKAGE: &str = "knarr-tests";
/// What the unit tier does not run.
const OTHER_TIERS: [&str; 3] = [BPF_PACKAGE, NODE_PACKAGE, CLUSTER_PACKAGE];
/// What cargo tests only when it is named: see the agent's manifest.
const NAMED_ONLY: &str = "machine";
/// How many nodes the cluster tiers run on.
const NODES: u32 = 2;
/// Faults show after this long instead of Kubernetes' 40 s and 300 s, and certificates end after minutes instead of a
/// year, so that the tiers fit in a coffee break.
const SHORT_TIMES: [&str; 8] = [
    "--node-monitor-grace-period",
    "8s",
    "--default-not-ready-toleration-seconds",
    "5",
    "--default-unreachable-toleration-seconds",
    "5",
    // Nodes renew theirs several times in a run, and are never away for the third that is left then.
    "--node-certificate-lifetime",
    "150s",
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
    // Every tier compiles the agent, with the kernel programs inside.
    ebpf::run()?;
    let scope = match tiers[..] {
        [Tier::Unit | Tier::Bpf | Tier::Node] => Scope::Call,
        // The programs that a cluster runs come from the same compilation.
        _ => Scope::Workspace,
    };
    let mut failed = Vec::new();
    let mut found = Found::Nothing;
    for tier in &tiers {
        ui::heading(&format!("tier {}", name(*tier)));
        let started = Instant::now();
        match run_tier(*tier, scope, filter) {
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
        Tier::Vm => "vm",
    }
}

fn run_tier(tier: Tier, scope: Scope, filter: Option<&str>) -> anyhow::Result<Found> {
    let run = |packages, targets, parallel| {
        let call = Call { packages, targets };
        cargo_test(&call, scope, filter, parallel)
    };
    let driver = Packages::These(&[CLUSTER_PACKAGE]);
    match tier {
        Tier::Unit => {
            let most = run(
                Packages::AllBut(&OTHER_TIERS),
                Targets::ByDefault,
                Parallel::Yes,
            )?;
            let rest = run(driver, Targets::Lib, Parallel::Yes)?;
            Ok(most.max(rest))
        }
        Tier::Bpf => run(
            Packages::These(&[BPF_PACKAGE]),
            Targets::ByDefault,
            Parallel::No,
        ),
        Tier::Node => {
            let most = run(
                Packages::These(&[NODE_PACKAGE]),
                Targets::ByDefault,
                Parallel::No,
            )?;
            // How the agent refuses machines that cannot be a node: it needs root to get that far.
            let agent = Packages::These(&["knarr-agent"]);
            let rest = run(agent, Targets::Test(NAMED_ONLY), Parallel::No)?;
            Ok(most.max(rest))
        }
        Tier::Cluster => {
            cluster_up()?;
            let most = run(driver, Targets::Test("cluster"), Parallel::No)?;
            // The last ones: they take the cluster away.
            let rest = run(driver, Targets::Test("lifecycle"), Parallel::No)?;
            Ok(most.max(rest))
        }
        Tier::Kubectl => {
            cluster_up()?;
            run(driver, Targets::Test("kubectl"), Parallel::Yes)
        }
        Tier::Vm => Ok(match vm::run(filter)? {
            0 => Found::Nothing,
            _ => Found::Tests,
        }),
    }
}

fn cluster_up() -> anyhow::Result<()> {
    up::up_with(NODES, &SHORT_TIMES.map(str::to_owned), build::Build::Tested)
}

/// What cargo resolves dependencies for. Crates that are compiled for other packages have other features of the same
/// dependencies, which are then compiled once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Only what a call tests: the shortest way from a change to one tier.
    Call,
    /// The workspace, of which a call runs its part: the shortest way to several tiers.
    Workspace,
}

/// Whose tests a call runs.
#[derive(Clone, Copy, Debug)]
enum Packages {
    These(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

/// Which of the packages' tests.
#[derive(Clone, Copy, Debug)]
enum Targets {
    /// All that cargo takes by itself.
    ByDefault,
    /// Those of the library.
    Lib,
    /// Those of one file or folder below `tests`.
    Test(&'static str),
}

/// One call of the test runner.
#[derive(Clone, Copy, Debug)]
struct Call {
    packages: Packages,
    targets: Targets,
}

impl Call {
    /// Arguments that cargo's own runner knows too.
    fn alone(&self) -> Vec<&'static str> {
        let mut args = match self.packages {
            Packages::These(names) => names.iter().flat_map(|name| ["--package", name]).collect(),
            Packages::AllBut(names) => {
                let mut args = vec!["--workspace", "--exclude", build::NOT_FOR_THE_HOST];
                args.extend(names.iter().flat_map(|name| ["--exclude", name]));
                args
            }
        };
        match self.targets {
            Targets::ByDefault => {}
            Targets::Lib => args.push("--lib"),
            Targets::Test(name) => args.extend(["--test", name]),
        }
        args
    }

    /// Arguments for nextest.
    fn of_workspace(&self) -> Vec<String> {
        let any = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| format!("package(={n})")).collect();
            names.join(" | ")
        };
        let packages = match self.packages {
            Packages::These(names) => any(names),
            Packages::AllBut(names) => format!("not ({})", any(names)),
        };
        let targets = match self.targets {
            Targets::ByDefault => format!("not binary(={NAMED_ONLY})"),
            Targets::Lib => "kind(lib)".to_owned(),
            Targets::Test(name) => format!("binary(={name})"),
        };
        let mut args = build::EVERY_TEST.map(str::to_owned).to_vec();
        args.extend([
            "--filterset".to_owned(),
            format!("({packages}) & {targets}"),
        ]);
        args
    }
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
fn cargo_test(
    call: &Call,
    scope: Scope,
    filter: Option<&str>,
    parallel: Parallel,
) -> anyhow::Result<Found> {
    let xtask = std::env::current_exe().context("cannot tell where xtask is")?;
    let command = |runner: &[&str]| {
        let mut cargo = build::cargo();
        cargo
            .args(runner)
            .env("KNARR_EBPF_OBJECT", paths::ebpf_object())
            .env("KNARR_XTASK", &xtask)
            .env("KNARR_UP", paths::up())
            .env(build::TESTED, "1");
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
        match scope {
            Scope::Call => cargo.args(call.alone()),
            Scope::Workspace => cargo.args(call.of_workspace()),
        };
        return nextest(cargo.args(threads).args(filter), filter);
    }
    if filter.is_some() {
        let listed = run::stdout(
            command(&["test"])
                .args(call.alone())
                .args(filter)
                .args(["--", "--list"]),
        )?;
        if !listed.lines().any(|line| line.ends_with(": test")) {
            return Ok(Found::Nothing);
        }
    }
    let mut cargo = command(&["test", "--no-fail-fast"]);
    run::loud(
        cargo
            .args(call.alone())
            .args(filter)
            .arg("--")
            .args(threads),
    )?;
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
