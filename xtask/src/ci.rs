// SPDX-License-Identifier: Apache-2.0
//! `ci`: everything that a change has to pass. Cheap checks come first; all of them say what is wrong at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, bail};

use crate::metadata::metadata;
use crate::{build, ebpf, paths, run, test, tidy, ui};

/// Whether the test tiers are part of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tests {
    /// All of them.
    Run,
    /// The caller has just run them.
    Leave,
}

/// Says by its error what is wrong.
type Check = fn() -> anyhow::Result<()>;

/// The command. A check that fails does not keep the others from saying what they see.
pub fn run(tests: Tests) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    let mut checks: Vec<(&str, Check)> = vec![
        ("format", format),
        ("tidy", tidy::check),
        ("dependency rule", dependency_rule),
        ("lints", lints),
        ("documentation", documentation),
    ];
    if tests == Tests::Run {
        checks.push(("tests", || test::run(&test::Request::default())));
    }
    for (name, check) in checks {
        ui::heading(name);
        if let Err(error) = check() {
            ui::failure(&error);
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    ui::heading("Everything passes.");
    Ok(())
}

fn format() -> anyhow::Result<()> {
    run::loud(run::cargo().args(["fmt", "--all", "--", "--check"]))
        .context("`cargo fmt --all` puts the format right")
}

fn lints() -> anyhow::Result<()> {
    ebpf::run()?;
    let workspace = [
        "--workspace",
        "--exclude",
        build::NOT_FOR_THE_HOST,
        "--all-targets",
    ];
    // `--all-targets` leaves out tests that only run when they are named.
    let named = ["--package", "knarr-agent", "--test", "machine"];
    // Kernel programs run nowhere here, but most of what is to be said of them can be said on the host.
    let kernel = ["--package", build::NOT_FOR_THE_HOST, "--bins"];
    // The tests' dependencies give the programs features that people's do not have.
    let alone = [
        "--package",
        "knarr-control",
        "--package",
        "knarr-agent",
        "--bins",
    ];
    let calls: [&[&str]; 4] = [&workspace, &named, &kernel, &alone];
    for targets in calls {
        let mut clippy = run::cargo();
        clippy.arg("clippy").args(targets);
        clippy.args(["--", "--deny", "warnings"]);
        run::loud(clippy.env("KNARR_EBPF_OBJECT", paths::ebpf_object()))
            .context("clippy has something to say")?;
    }
    Ok(())
}

fn documentation() -> anyhow::Result<()> {
    let mut docs = run::cargo();
    docs.args([
        "doc",
        "--workspace",
        "--exclude",
        build::NOT_FOR_THE_HOST,
        "--no-deps",
        "--quiet",
    ]);
    docs.env("KNARR_EBPF_OBJECT", paths::ebpf_object());
    docs.env(
        "RUSTDOCFLAGS",
        "--deny warnings --allow rustdoc::private_intra_doc_links",
    );
    run::loud(&mut docs).context("the documentation has broken links")
}

/// Compares what each crate uses with the table in ARCHITECTURE.md.
fn dependency_rule() -> anyhow::Result<()> {
    let step = ui::step("dependency rule");
    let text = fs::read_to_string(paths::root().join("ARCHITECTURE.md"))
        .context("the table of crates is in ARCHITECTURE.md")?;
    let findings = compare(&allowed(&text)?, &metadata()?.own_dependencies());
    for finding in &findings {
        ui::line(finding);
    }
    if !findings.is_empty() {
        bail!("the crates do not depend on each other as ARCHITECTURE.md says");
    }
    step.done();
    Ok(())
}

/// A crate that may use everything.
const EVERYTHING: &str = "everything";

/// The table: `| folder | crate | what lives there | may use |`.
fn allowed(architecture: &str) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let mut table = BTreeMap::new();
    for line in architecture.lines() {
        let cells: Vec<&str> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        let &[_, name, _, uses] = cells.as_slice() else {
            continue;
        };
        let Some(name) = name
            .strip_prefix('`')
            .and_then(|name| name.strip_suffix('`'))
        else {
            continue;
        };
        let uses = uses
            .split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
            .filter(|name| name != "nothing of ours" && !name.is_empty());
        table.insert(name.to_owned(), uses.collect());
    }
    if table.is_empty() {
        bail!("ARCHITECTURE.md holds no table `| folder | crate | what lives there | may use |`");
    }
    Ok(table)
}

fn compare(
    allowed: &BTreeMap<String, BTreeSet<String>>,
    used: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, uses) in used {
        let Some(allowed) = allowed.get(name) else {
            findings.push(format!("{name} is not in the table of ARCHITECTURE.md"));
            continue;
        };
        if allowed.contains(EVERYTHING) {
            continue;
        }
        findings.extend(uses.difference(allowed).map(|other| {
            format!(
                "{name} uses {other}, which the table does not allow: arrows point one way only"
            )
        }));
    }
    findings.extend(
        allowed
            .keys()
            .filter(|name| !used.contains_key(*name))
            .map(|name| format!("{name} is in the table and not in the workspace")),
    );
    findings
}

#[cfg(test)]
mod tests;
