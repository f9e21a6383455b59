// SPDX-License-Identifier: Apache-2.0
//! `test`: the tiers. A tier that cannot run says which part is missing and fails; it never passes by doing nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

use crate::{build, ebpf, metadata, paths, run, setup, ui, up, vm};

pub mod changed;

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
/// Tests of clusters that may run at a time: most of each waits for pods, time-outs and leases, so two cores bear more
/// than two. `.config/nextest.toml` keeps those of one lab that disturb each other apart, and runs those that measure calls
/// alone.
const CLUSTER_TESTS_AT_ONCE: &str = "4";

/// What is to be tested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// All of them when none is named.
    pub tiers: Vec<Tier>,
    /// A part of the tests' names.
    pub filter: Option<String>,
    /// A revision of git: only what differs from it can affect is tested.
    pub changed: Option<String>,
}

/// Runs tiers.
pub fn run(request: &Request) -> anyhow::Result<()> {
    if let Some(lab) = paths::chosen_lab() {
        bail!(
            "the tests choose their labs themselves: unset {}, which is {lab}",
            paths::LAB
        );
    }
    let filter = request.filter.as_deref();
    let mut tiers = if request.tiers.is_empty() {
        ALL.to_vec()
    } else {
        request.tiers.clone()
    };
    tiers.sort_unstable();
    tiers.dedup();
    let mut only = None;
    if let Some(revision) = &request.changed {
        let files = changed::fetch_changed_files(revision)?;
        let affected = changed::plan_affected(&files, &metadata::metadata()?.workspace());
        tiers.retain(|tier| affected.tiers.contains(tier));
        if tiers.is_empty() {
            ui::line(&format!(
                "no test of these tiers reads any of the {} files that differ from {revision}",
                files.len()
            ));
            return Ok(());
        }
        only = Some(affected.packages);
    }
    if tiers.iter().any(|tier| *tier != Tier::Unit) {
        run::require_root().context("all tiers but `unit` need root")?;
    }
    setup::ensure_for_up()?;
    // Every tier compiles the agent, with the kernel programs inside.
    ebpf::run()?;
    let scope = match tiers[..] {
        _ if only.is_some() => Scope::Workspace,
        [Tier::Unit | Tier::Bpf | Tier::Node] => Scope::Call,
        // The programs that a cluster runs come from the same compilation.
        _ => Scope::Workspace,
    };
    let steps = Step::of(&tiers);
    let mut failed = Vec::new();
    let mut found = Found::Nothing;
    // The emulated machines take one core and share nothing with the tiers before the clusters.
    let mut beside = if steps.len() > 1 && tiers.contains(&Tier::Vm) && vm::has_checks(filter) {
        build::programs(build::Build::Tested)?;
        Some(Beside::start(Tier::Vm, filter)?)
    } else {
        None
    };
    let vm_is_beside = beside.is_some();
    for step in &steps {
        if *step == Step::Alone(Tier::Vm) && vm_is_beside {
            continue;
        }
        // Tests of clusters count calls, for which both cores are needed.
        if step.has_clusters()
            && let Some(beside) = beside.take()
        {
            found = found.max(beside.report(&mut failed));
        }
        ui::heading(&format!("tier {}", step.name()));
        let started = Instant::now();
        let outcome = run_step(*step, scope, filter, only.as_ref());
        found = found.max(report(&step.name(), started, outcome, &mut failed));
    }
    if let Some(beside) = beside {
        found = found.max(beside.report(&mut failed));
    }
    if steps.iter().any(|step| step.has_clusters()) && failed.is_empty() {
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

/// Says how a step ended, and notes its name down when it failed.
fn report(
    name: &str,
    started: Instant,
    outcome: anyhow::Result<Found>,
    failed: &mut Vec<String>,
) -> Found {
    match outcome {
        Ok(Found::Tests) => {
            ui::line(&format!(
                "tier {name} passed in {} s",
                started.elapsed().as_secs()
            ));
            Found::Tests
        }
        Ok(Found::Nothing) => {
            ui::line(&format!("tier {name} has no test of such a name"));
            Found::Nothing
        }
        Err(error) => {
            ui::failure(&error);
            failed.push(name.to_owned());
            Found::Nothing
        }
    }
}

/// What is run at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// One tier.
    Alone(Tier),
    /// The tiers `cluster` and `kubectl`, whose tests share a cluster and run side by side.
    Clusters,
}

impl Step {
    /// The steps for these tiers, in order.
    fn of(tiers: &[Tier]) -> Vec<Self> {
        let both = [Tier::Cluster, Tier::Kubectl]
            .iter()
            .all(|tier| tiers.contains(tier));
        let steps = tiers.iter().filter_map(|tier| match tier {
            Tier::Kubectl if both => None,
            Tier::Cluster if both => Some(Self::Clusters),
            other => Some(Self::Alone(*other)),
        });
        steps.collect()
    }

    fn name(self) -> String {
        match self {
            Self::Alone(tier) => name(tier).to_owned(),
            Self::Clusters => format!("{} and {}", name(Tier::Cluster), name(Tier::Kubectl)),
        }
    }

    fn has_clusters(self) -> bool {
        matches!(
            self,
            Self::Clusters | Self::Alone(Tier::Cluster | Tier::Kubectl)
        )
    }
}

/// A tier that runs in a process of its own while others run. What it prints goes to a file first.
struct Beside {
    tier: Tier,
    process: Child,
    output: PathBuf,
    started: Instant,
}

impl Beside {
    fn start(tier: Tier, filter: Option<&str>) -> anyhow::Result<Self> {
        let output = paths::target().join(format!("test-{}.log", name(tier)));
        let file = fs::File::create(&output)
            .with_context(|| format!("cannot write {}", output.display()))?;
        let xtask = std::env::current_exe().context("cannot tell where xtask is")?;
        let mut command = Command::new(xtask);
        command.args(["test", name(tier)]);
        if let Some(filter) = filter {
            command.args(["--filter", filter]);
        }
        let process = command
            .env(build::NO_BUILD, "1")
            .env(build::TESTED, "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start xtask again")?;
        ui::line(&format!(
            "tier {} runs beside the others; it prints to {}",
            name(tier),
            paths::show(&output)
        ));
        Ok(Self {
            tier,
            process,
            output,
            started: Instant::now(),
        })
    }

    /// Waits for its end and says how it ended.
    fn report(self, failed: &mut Vec<String>) -> Found {
        let name = name(self.tier);
        ui::heading(&format!("tier {name}"));
        let started = self.started;
        report(name, started, self.end(), failed)
    }

    /// Waits for its end and shows what it printed.
    fn end(mut self) -> anyhow::Result<Found> {
        let status = self.process.wait().context("cannot wait for a tier")?;
        let printed = fs::read(&self.output)
            .with_context(|| format!("cannot read {}", self.output.display()))?;
        let printed = String::from_utf8_lossy(&printed);
        for line in printed.lines() {
            ui::line(line.trim_end());
        }
        if status.success() {
            Ok(Found::Tests)
        } else {
            bail!("it failed: {status}")
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // An error ended the call before this tier's turn.
        if let Ok(None) = self.process.try_wait() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
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

/// `only` holds the packages whose unit tests are run, where not all are.
fn run_step(
    step: Step,
    scope: Scope,
    filter: Option<&str>,
    only: Option<&BTreeSet<String>>,
) -> anyhow::Result<Found> {
    let run_of = |packages, targets, parallel, only| {
        let call = Call {
            packages,
            targets,
            only,
        };
        cargo_test(&call, scope, filter, parallel)
    };
    let run = |packages, targets, parallel| run_of(packages, targets, parallel, None);
    let driver = Packages::These(&[CLUSTER_PACKAGE]);
    let tier = match step {
        Step::Alone(tier) => tier,
        Step::Clusters => {
            clusters_from_now()?;
            let targets = Targets::Tests(&["cluster", "kubectl", "lifecycle"]);
            return run(driver, targets, Parallel::Clusters);
        }
    };
    match tier {
        Tier::Unit => {
            let includes = |name: &str| only.is_none_or(|only| only.contains(name));
            let mut found = Found::Nothing;
            if only.is_none_or(|only| {
                only.iter()
                    .any(|name| !OTHER_TIERS.contains(&name.as_str()))
            }) {
                found = run_of(
                    Packages::AllBut(&OTHER_TIERS),
                    Targets::ByDefault,
                    Parallel::Yes,
                    only,
                )?;
            }
            if includes(CLUSTER_PACKAGE) {
                found = found.max(run(driver, Targets::Lib, Parallel::Yes)?);
            }
            Ok(found)
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
            let rest = run(agent, Targets::Tests(&[NAMED_ONLY]), Parallel::No)?;
            Ok(most.max(rest))
        }
        Tier::Cluster => {
            clusters_from_now()?;
            let targets = Targets::Tests(&["cluster", "lifecycle"]);
            run(driver, targets, Parallel::Clusters)
        }
        Tier::Kubectl => {
            clusters_from_now()?;
            run(driver, Targets::Tests(&["kubectl"]), Parallel::Clusters)
        }
        Tier::Vm => {
            if !vm::has_checks(filter) {
                return Ok(Found::Nothing);
            }
            paths::choose_machines();
            Ok(match vm::run(filter)? {
                0 => Found::Nothing,
                _ => Found::Tests,
            })
        }
    }
}

/// The shared cluster, with the programs as they are now. A lab that an earlier run left has older ones.
fn clusters_from_now() -> anyhow::Result<()> {
    // The machines of the tier `vm` run no programs of these tests, and their tier ends them.
    up::down_labs(|lab| lab != paths::MACHINES)?;
    up::up_for_tests()
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
    /// Those of some files or folders below `tests`.
    Tests(&'static [&'static str]),
}

/// One call of the test runner.
#[derive(Clone, Copy, Debug)]
struct Call<'a> {
    packages: Packages,
    targets: Targets,
    /// Of these packages only those.
    only: Option<&'a BTreeSet<String>>,
}

impl Call<'_> {
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
            Targets::Tests(names) => args.extend(names.iter().flat_map(|name| ["--test", name])),
        }
        args
    }

    /// Arguments for nextest.
    fn of_workspace(&self) -> Vec<String> {
        let any = |of: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| format!("{of}(={n})")).collect();
            names.join(" | ")
        };
        let packages = match self.packages {
            Packages::These(names) => any("package", names),
            Packages::AllBut(names) => format!("not ({})", any("package", names)),
        };
        let packages = match self.only {
            Some(only) => {
                let only: Vec<&str> = only.iter().map(String::as_str).collect();
                format!("({packages}) & ({})", any("package", &only))
            }
            None => packages,
        };
        let targets = match self.targets {
            Targets::ByDefault => format!("not binary(={NAMED_ONLY})"),
            Targets::Lib => "kind(lib)".to_owned(),
            Targets::Tests(names) => format!("({})", any("binary", names)),
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
    /// In the groups of `.config/nextest.toml`, each with a lab of its own. cargo's own runner knows no groups.
    Clusters,
}

/// The exit code with which nextest says that no test fits (nextest_metadata's `NO_TESTS_RUN`).
const NEXTEST_FOUND_NONE: i32 = 4;

/// Runs tests with nextest where it is installed, else with cargo's own runner.
fn cargo_test(
    call: &Call<'_>,
    scope: Scope,
    filter: Option<&str>,
    parallel: Parallel,
) -> anyhow::Result<Found> {
    let xtask = std::env::current_exe().context("cannot tell where xtask is")?;
    let command = |runner: &[&str]| {
        let mut cargo = run::cargo();
        cargo
            .args(runner)
            .env("KNARR_EBPF_OBJECT", paths::ebpf_object())
            .env("KNARR_XTASK", &xtask)
            .env("KNARR_TARGET", paths::target())
            .env(build::TESTED, "1");
        cargo
    };
    let with_groups = run::exists("cargo-nextest");
    let threads: &[&str] = match parallel {
        Parallel::Yes => &[],
        Parallel::Clusters if with_groups => &["--test-threads", CLUSTER_TESTS_AT_ONCE],
        Parallel::No | Parallel::Clusters => &["--test-threads", "1"],
    };
    if with_groups {
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
