// SPDX-License-Identifier: Apache-2.0
//! `build-ebpf`: compiles the kernel programs to target/ebpf/knarr-ebpf. Stable Rust has no core library for BPF, so this
//! takes Debian's compiler, which comes with one, or a nightly of rustup's that has the sources of one.

mod stack;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};

use crate::{paths, run, setup, ui};

/// Debian's compiler, by its full path: a toolchain manager's `rustc` stands before it in `PATH`.
const RUSTC: &str = "/usr/bin/rustc";
/// Its cargo, for the same reason.
const CARGO: &str = "/usr/bin/cargo";
/// What the caller's own toolchain has set and must not reach the other one.
const OTHER_TOOLCHAIN: [&str; 7] = [
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];
/// The kernel's machine on a little-endian host.
const TARGET: &str = "bpfel-unknown-none";
/// What the programs are made from.
const SOURCES: [&str; 3] = ["ebpf", "Cargo.lock", "Cargo.toml"];

/// Compiles the kernel programs where a source is newer than what was compiled last.
pub fn run() -> anyhow::Result<()> {
    let object = paths::ebpf_object();
    if up_to_date(&object)? {
        return Ok(());
    }
    let (toolchain, linker) = check_tools()?;
    let step = ui::step("compiling the kernel programs");
    let built = compile(&toolchain, &linker)?;
    let programs = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    stack::check(&programs)?;
    fs::create_dir_all(paths::target().join("ebpf"))?;
    // The agent is built again when this file changes, so an equal one is left alone.
    if fs::read(&object).ok().as_ref() != Some(&programs) {
        let fresh = object.with_extension("new");
        fs::write(&fresh, &programs)
            .with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::rename(&fresh, &object)?;
    }
    fs::write(stamp(&object), b"")?;
    step.done_with(&paths::show(&object));
    Ok(())
}

/// What can compile for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Toolchain {
    /// Debian's `rustc-web` with its core library for BPF.
    Debian,
    /// rustup's nightly, which builds the core library from its sources.
    Nightly,
}

/// Debian's where it is whole, because what it links to is known; else the nightly; else everything that is missing.
fn choose(debian_missing: &[String], nightly_missing: &[String]) -> Result<Toolchain, String> {
    if debian_missing.is_empty() {
        Ok(Toolchain::Debian)
    } else if nightly_missing.is_empty() {
        Ok(Toolchain::Nightly)
    } else {
        Err(format!(
            "missing: {}; or, instead of these: {}",
            debian_missing.join(", "),
            nightly_missing.join(", ")
        ))
    }
}

fn debian_missing() -> Vec<String> {
    let sysroot = Path::new("/usr/lib/rustlib").join(TARGET);
    let mut missing = Vec::new();
    if !Path::new(RUSTC).exists() {
        missing.push(format!("{RUSTC} (Debian's rustc-web)"));
    }
    if !Path::new(CARGO).exists() {
        missing.push(format!("{CARGO} (Debian's cargo-web)"));
    }
    if !sysroot.exists() {
        missing.push(format!(
            "{} (Debian's libstd-rust-web-dev-bpf)",
            sysroot.display()
        ));
    }
    missing
}

fn nightly_missing() -> Vec<String> {
    if !run::exists("rustup") {
        return vec!["rustup with a nightly toolchain and its rust-src".to_owned()];
    }
    let mut rustc = run::command("rustup", ["run", "nightly", "rustc", "--print", "sysroot"]);
    for name in OTHER_TOOLCHAIN {
        rustc.env_remove(name);
    }
    let Ok(sysroot) = run::stdout(&mut rustc) else {
        return vec![
            "a nightly toolchain (`rustup toolchain install nightly --component rust-src`)"
                .to_owned(),
        ];
    };
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if core.exists() {
        Vec::new()
    } else {
        vec![
            "rust-src of the nightly toolchain (`rustup component add rust-src --toolchain nightly`)"
                .to_owned(),
        ]
    }
}

fn check_tools() -> anyhow::Result<(Toolchain, PathBuf)> {
    let debian = debian_missing();
    // Asked only where it matters: rustup takes its time.
    let nightly = if debian.is_empty() {
        Vec::new()
    } else {
        nightly_missing()
    };
    let chosen = choose(&debian, &nightly);
    let linker = setup::bpf_linker();
    match (chosen, linker) {
        (Ok(toolchain), Some(linker)) => Ok((toolchain, linker)),
        (chosen, linker) => {
            let mut missing: Vec<String> = chosen.err().into_iter().collect();
            if linker.is_none() {
                missing.push("missing: bpf-linker".to_owned());
            }
            bail!(
                "the kernel programs cannot be compiled; {}. `cargo xtask setup` installs what is missing on Debian",
                missing.join("; ")
            )
        }
    }
}

fn compile(toolchain: &Toolchain, linker: &Path) -> anyhow::Result<PathBuf> {
    let target_dir = paths::target().join("ebpf-build");
    // BTF is made from debug information, and bpf-linker does its own optimizing across crates.
    let flags = format!(
        "-C debuginfo=2 -C link-arg=--btf --cfg=bpf_target_arch=\"{}\"",
        std::env::consts::ARCH
    );
    let mut cargo = match toolchain {
        Toolchain::Debian => {
            let mut cargo = run::command(CARGO, ["build"]);
            cargo.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
            cargo
        }
        Toolchain::Nightly => run::command(
            "rustup",
            ["run", "nightly", "cargo", "build", "-Z", "build-std=core"],
        ),
    };
    cargo.args([
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "knarr-ebpf",
        "--target",
        TARGET,
    ]);
    cargo
        .current_dir(paths::root())
        .arg("--target-dir")
        .arg(&target_dir);
    for name in OTHER_TOOLCHAIN {
        cargo.env_remove(name);
    }
    cargo
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags)
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    run::quiet(&mut cargo).context("the kernel programs do not compile")?;
    Ok(target_dir.join(TARGET).join("release").join("knarr-ebpf"))
}

/// Its time is when the object was last known to fit the sources.
fn stamp(object: &Path) -> PathBuf {
    object.with_extension("stamp")
}

fn up_to_date(object: &Path) -> anyhow::Result<bool> {
    let Ok(made) = fs::metadata(stamp(object)).and_then(|meta| meta.modified()) else {
        return Ok(false);
    };
    if !object.exists() {
        return Ok(false);
    }
    for source in SOURCES {
        if newest(&paths::root().join(source))? > made {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When the newest file in a folder was changed.
fn newest(path: &Path) -> anyhow::Result<SystemTime> {
    let meta = fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(meta.modified()?);
    }
    let mut newest_time = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(path)? {
        newest_time = newest_time.max(newest(&entry?.path())?);
    }
    Ok(newest_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(what: &str) -> Vec<String> {
        vec![what.to_owned()]
    }

    #[test]
    fn debians_compiler_is_taken_where_it_is_whole() {
        assert_eq!(choose(&[], &[]), Ok(Toolchain::Debian));
        assert_eq!(choose(&[], &some("nightly")), Ok(Toolchain::Debian));
    }

    #[test]
    fn a_nightly_with_its_sources_stands_in() {
        assert_eq!(choose(&some("rustc-web"), &[]), Ok(Toolchain::Nightly));
    }

    #[test]
    fn what_is_missing_of_either_is_said() {
        let said = choose(&some("rustc-web"), &some("rust-src")).unwrap_err();
        assert_eq!(said, "missing: rustc-web; or, instead of these: rust-src");
    }
}
