// SPDX-License-Identifier: Apache-2.0
//! Building our programs with cargo, in the one profile that `up`, `demo`, the test tiers and the benches share.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;

use crate::{ebpf, paths, run, ui};

/// A static program runs in an image that holds nothing else.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the built programs are.
pub struct Programs {
    /// `knarr-control`.
    pub control: PathBuf,
    /// `knarr-agent`, with the kernel programs inside.
    pub agent: PathBuf,
    /// The echo server, static.
    pub echo: PathBuf,
}

/// cargo, as the one that called us.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::root());
    // What cargo set for us must not look like settings of the build that we start.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || name == "CARGO_MANIFEST_DIR"
                || name == "CARGO_MANIFEST_PATH"
        }) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Set to anything, it makes `up`, `demo`, `test` and `bench` use the programs that were built last.
const NO_BUILD: &str = "KNARR_XTASK_NO_BUILD";

/// Builds the kernel programs, both programs and the echo server.
pub fn programs() -> anyhow::Result<Programs> {
    if std::env::var_os(NO_BUILD).is_none() {
        build_programs()?;
    }
    let release = paths::target().join("release");
    Ok(Programs {
        control: release.join("knarr-control"),
        agent: release.join("knarr-agent"),
        echo: paths::target()
            .join("static")
            .join(STATIC_TARGET)
            .join("release")
            .join("knarr-echo"),
    })
}

fn build_programs() -> anyhow::Result<()> {
    ebpf::run()?;
    build(
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
    )?;
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
    let mut cargo = cargo();
    cargo
        .args(args)
        .env("KNARR_EBPF_OBJECT", paths::ebpf_object())
        .envs(environment.iter().copied());
    run::loud(&mut cargo).with_context(|| format!("{what} could not be built"))
}
