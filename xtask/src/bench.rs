// SPDX-License-Identifier: Apache-2.0
//! `bench`: measures on this machine and writes `target/bench/NAME.json` in a fixed format that scripts read; the same
//! is printed as a table. A metric's name is what is measured, then statistic, case and size as
//! suffixes.

mod cluster;
mod datapath;
mod idle;
mod peers;
mod start;
mod stats;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::{paths, run, setup, ui, up};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Connects, round trips and programming: direct, Knarr, iptables and nftables beside each other.
    Datapath,
    /// What two programs with nothing to do cost.
    Idle,
    /// From nothing to Ready, from POST to Running.
    Start,
}

const ALL: [Name; 3] = [Name::Datapath, Name::Idle, Name::Start];

/// Brings what it needs up, and measures.
type Measure = fn(Effort) -> anyhow::Result<Vec<Figure>>;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// As much as a figure needs to mean something.
    Full,
    /// As little as shows that the bench works.
    Quick,
}

impl Effort {
    fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }

    /// Where files are written. A quick run never replaces figures that mean something.
    fn directory(self) -> PathBuf {
        self.pick(paths::bench(), paths::bench().join("quick"))
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, for ever.
    pub metric: String,
    /// The middle one.
    pub value: f64,
    /// Of all three.
    pub unit: &'static str,
    /// The 10th percentile, or the least of a few.
    pub low: f64,
    /// The 90th percentile, or the most of a few.
    pub high: f64,
    /// How it was made.
    pub note: String,
}

#[derive(Serialize)]
struct File<'a> {
    commit: String,
    kernel: String,
    started: String,
    results: &'a [Figure],
}

/// The command. Ends with nothing up.
pub fn run(names: &[Name], effort: Effort) -> anyhow::Result<()> {
    run::require_root()?;
    setup::ensure_for_up()?;
    let names = if names.is_empty() { &ALL[..] } else { names };
    for name in names {
        let (file, measure): (&str, Measure) = match name {
            Name::Datapath => ("datapath", datapath::measure),
            Name::Idle => ("idle", idle::measure),
            Name::Start => ("start", start::measure),
        };
        ui::heading(&format!("bench {file}"));
        let commit = commit();
        let started = line(&mut run::command("date", ["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))?;
        let measured = measure(effort);
        let removed = up::down();
        let figures = measured.with_context(|| format!("bench {file}"))?;
        removed?;
        write(&effort.directory(), file, commit, &started, &figures)?;
        print(&figures);
    }
    Ok(())
}

fn line(command: &mut std::process::Command) -> anyhow::Result<String> {
    Ok(run::stdout(command)?.trim().to_owned())
}

/// What is measured: the commit before anything is built, with `-dirty` where files differ from it.
fn commit() -> String {
    let git = |args: &[&str]| line(run::command("git", args).current_dir(paths::root()));
    let Ok(commit) = git(&["rev-parse", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Ok(changed) if changed.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}

fn write(
    directory: &Path,
    name: &str,
    commit: String,
    started: &str,
    results: &[Figure],
) -> anyhow::Result<()> {
    let kernel = line(&mut run::command("uname", ["--kernel-release"]))?;
    let file = File {
        commit,
        kernel,
        started: started.to_owned(),
        results,
    };
    let path = directory.join(format!("{name}.json"));
    fs::create_dir_all(directory)?;
    fs::write(&path, serde_json::to_vec_pretty(&file)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    ui::line(&format!("written to {}", paths::show(&path)));
    Ok(())
}

fn print(figures: &[Figure]) {
    println!(
        "\n| metric | value | unit | low | high | note |\n| --- | ---: | --- | ---: | ---: | --- |"
    );
    for Figure {
        metric,
        value,
        unit,
        low,
        high,
        note,
    } in figures
    {
        println!(
            "| `{metric}` | {} | {unit} | {} | {} | {note} |",
            short(*value),
            short(*low),
            short(*high)
        );
    }
}

/// Three digits that mean something.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts outside this repository read it.
    #[test]
    fn the_file_has_the_format_that_stays_fixed() {
        let figure = Figure {
            metric: "post_to_running_ms_p99".to_owned(),
            value: 2.5,
            unit: "ms",
            low: 1.0,
            high: 4.0,
            note: "how".to_owned(),
        };
        let file = File {
            commit: "c".to_owned(),
            kernel: "k".to_owned(),
            started: "s".to_owned(),
            results: &[figure],
        };
        let wanted = serde_json::json!({
            "commit": "c", "kernel": "k", "started": "s",
            "results": [{
                "metric": "post_to_running_ms_p99", "value": 2.5, "unit": "ms",
                "low": 1.0, "high": 4.0, "note": "how",
            }],
        });
        assert_eq!(serde_json::to_value(&file).expect("JSON"), wanted);
    }
}
