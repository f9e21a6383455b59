// SPDX-License-Identifier: Apache-2.0
//! The tier `vm`: the packed archive on a stock Debian 12 machine, installed with the README's own commands. The lab's
//! hosts share this machine's kernel, mounts and limits; whatever a user's machine has otherwise is seen only here.
//! `ARCHITECTURE.md` lists the differences.
//!
//! The checks are a story of two machines, in order: each goes on where the one before it ended.

mod addresses;
mod checks;
mod delivery;
mod image;
pub mod machine;
mod readme;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{paths, setup, ui};

/// How much of a console an error repeats.
const LINES_SHOWN: usize = 15;
/// Set to anything, it makes the tier leave its machines running also when everything passed.
const KEEP: &str = "KNARR_VM_KEEP";

/// Everything of the machines.
fn folder() -> PathBuf {
    paths::target().join("vm")
}

/// The end of a file, for an error.
fn show_tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n    ");
    format!("the end of {}:\n    {shown}", paths::show(path))
}

/// Whether the filter leaves any check.
pub fn has_checks(filter: Option<&str>) -> bool {
    checks::ALL.iter().any(|check| fits(check.name, filter))
}

fn fits(name: &str, filter: Option<&str>) -> bool {
    filter.is_none_or(|filter| name.contains(filter))
}

/// Runs the checks; how many there were. With a filter, those whose name contains it and those that all others build on.
///
/// # Errors
/// Names the checks that failed. What the others build on ends the tier when it fails; any other check lets the rest run.
pub fn run(filter: Option<&str>) -> anyhow::Result<usize> {
    if !has_checks(filter) {
        return Ok(0);
    }
    setup::ensure_for_vm()?;
    let image = image::ensure()?;
    let delivery = delivery::pack()?;
    let mut stage = checks::Stage::new(image, delivery)?;
    let mut failed = Vec::new();
    let mut count = 0;
    for check in &checks::ALL {
        if !fits(check.name, filter) && check.needed == checks::Needed::IfAsked {
            continue;
        }
        count += 1;
        let started = Instant::now();
        match (check.run)(&mut stage) {
            Ok(()) => ui::line(&format!(
                "PASS [{:>4} s] {}",
                started.elapsed().as_secs(),
                check.name
            )),
            Err(error) => {
                ui::line(&format!(
                    "FAIL [{:>4} s] {}",
                    started.elapsed().as_secs(),
                    check.name
                ));
                ui::failure(&error.context(check.name));
                failed.push(check.name);
                if check.needed == checks::Needed::ByAll {
                    break;
                }
            }
        }
    }
    if !failed.is_empty() {
        for name in stage.machines() {
            machine::say_how_to_look(name);
        }
        bail!("failed: {}", failed.join("; "));
    }
    if std::env::var_os(KEEP).is_none() {
        for name in machine::NAMES {
            machine::end(name)?;
        }
    }
    Ok(count)
}

/// Runs a command in a machine that is there, and ends as it ends.
pub fn run_in(name: &str, script: &str) -> anyhow::Result<ExitCode> {
    const LIMIT: Duration = Duration::from_secs(600);
    let answer = machine::run_in(name, script, LIMIT)?;
    print!("{}", answer.text);
    let code = u8::try_from(answer.code).context("an exit code fits a byte")?;
    Ok(ExitCode::from(code))
}
