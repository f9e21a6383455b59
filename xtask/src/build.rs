// SPDX-License-Identifier: Apache-2.0
//! Building our programs with cargo: optimized for people and benches, or as the tests are built.

use std::path::PathBuf;

use anyhow::Context;

use crate::{ebpf, paths, run, ui};

/// A static program runs in an image that holds nothing else.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Which of its two builds of a program a lab runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Optimized, as people get them.
    Release,
    /// From the tests' own compilation, with its overflow checks and debug assertions: a run of all tiers compiles
    /// every dependency once.
    Tested,
}

impl Build {
    /// What the caller of this process wants.
    pub fn asked() -> Self {
        match std::env::var_os(TESTED) {
            Some(_) => Self::Tested,
            None => Self::Release,
        }
    }

    /// The folder of its programs.
    pub fn directory(self) -> PathBuf {
        paths::target().join(match self {
            Self::Release => "release",
            Self::Tested => "debug",
        })
    }
}

/// Where the built programs are.
pub struct Programs {
    /// `knarr-control`.
    pub control: PathBuf,
    /// `knarr-agent`, with the kernel programs inside.
    pub agent: PathBuf,
    /// The echo server, static.
    pub echo: PathBuf,
}

/// Set to anything, it makes `up`, `demo`, `test` and `bench` use the programs that were built last.
pub const NO_BUILD: &str = "KNARR_XTASK_NO_BUILD";

/// Set to anything, it makes `up`, `demo` and `bench` use the programs from the tests' compilation. The tiers set it.
pub const TESTED: &str = "KNARR_XTASK_TESTED";
/// The kernel programs compile for the kernel's machine only; the host's tools see all the others.
pub const NOT_FOR_THE_HOST: &str = "knarr-ebpf";

/// Every test that there is. cargo resolves features for what it is asked for, so nextest is always asked for the same and
/// every dependency is compiled once; its filter says what is run. cargo's own runner has no such filter and compiles some
/// of them again for a tier.
pub const EVERY_TEST: [&str; 7] = [
    "--workspace",
    "--exclude",
    NOT_FOR_THE_HOST,
    "--lib",
    "--bins",
    "--test",
    "*",
];

/// Builds the kernel programs, both programs and the echo server.
pub fn programs(build: Build) -> anyhow::Result<Programs> {
    if std::env::var_os(NO_BUILD).is_none() {
        build_programs(build)?;
    }
    let directory = build.directory();
    Ok(Programs {
        control: directory.join("knarr-control"),
        agent: directory.join("knarr-agent"),
        echo: paths::target()
            .join("static")
            .join(STATIC_TARGET)
            .join("release")
            .join("knarr-echo"),
    })
}

fn build_programs(kind: Build) -> anyhow::Result<()> {
    ebpf::run()?;
    match kind {
        Build::Release => build(
            "knarr-control and knarr-agent",
            &[
                "build",
                "--release",
                "--package",
                "knarr-control",
                "--package",
                "knarr-agent",
            ],
            &[],
        )?,
        Build::Tested => {
            let runner: &[&str] = if run::exists("cargo-nextest") {
                &["nextest", "run"]
            } else {
                &["test"]
            };
            build(
                "the tests and both programs",
                &[runner, &EVERY_TEST, &["--no-run"]].concat(),
                &[],
            )?;
        }
    }
    let static_dir = paths::target().join("static");
    let static_dir = static_dir
        .to_str()
        .context("the target folder has a name that is text")?;
    build(
        "knarr-echo",
        &[
            "build",
            "--release",
            "--package",
            "knarr-echo",
            "--target",
            STATIC_TARGET,
            "--target-dir",
            static_dir,
        ],
        &[("RUSTFLAGS", "-C target-feature=+crt-static")],
    )
}

/// Runs cargo with its own progress. It says nothing when everything is up to date.
pub fn build(what: &str, args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<()> {
    ui::line(&format!("building {what}"));
    let mut cargo = run::cargo();
    cargo
        .args(args)
        .env("KNARR_EBPF_OBJECT", paths::ebpf_object())
        .envs(environment.iter().copied());
    run::loud(&mut cargo).with_context(|| format!("{what} could not be built"))
}
