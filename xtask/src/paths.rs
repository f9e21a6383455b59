// SPDX-License-Identifier: Apache-2.0
//! Where things are. Every path that more than one command uses is named here once.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, bail};

/// The checkout that xtask acts on, once it was looked for.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// Looks for the checkout that xtask was called in. Called first by every command: nothing else here can fail.
///
/// The program does not remember where it was compiled. A checkout may be copied with everything that was built in it,
/// and the copy must never act on the original.
///
/// # Errors
/// When it was called outside a checkout.
pub fn find_root() -> anyhow::Result<()> {
    let here = std::env::current_dir().context("cannot tell which folder this was called in")?;
    // cargo says where the package is that it runs or tests; without cargo it is the current folder.
    let from = std::env::var_os("CARGO_MANIFEST_DIR").map_or(here, PathBuf::from);
    let found = checkout_of(&from)?;
    ROOT.get_or_init(|| found);
    Ok(())
}

/// The nearest folder above that holds the workspace.
fn checkout_of(from: &Path) -> anyhow::Result<PathBuf> {
    match from.ancestors().find(|folder| {
        folder.join("Cargo.lock").is_file() && folder.join("xtask").join("Cargo.toml").is_file()
    }) {
        Some(found) => Ok(found.to_path_buf()),
        None => bail!(
            "{} is not in a checkout of Knarr: change to one, and call `cargo xtask` there",
            from.display()
        ),
    }
}

/// The checkout: the folder that holds the workspace's Cargo.toml.
///
/// # Panics
/// When [`find_root`] was not called and this is not run in a checkout.
pub fn root() -> PathBuf {
    if ROOT.get().is_none() {
        find_root().unwrap_or_else(|error| panic!("{error:#}"));
    }
    ROOT.get().cloned().unwrap_or_default()
}

/// Cargo's target folder, which also holds everything xtask makes.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Programs that set-up brings and Debian does not have: kubectl, helm, bpf-linker.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// Everything that belongs to the running cluster.
pub fn up() -> PathBuf {
    target().join("up")
}

/// The admin kubeconfig of the running cluster.
pub fn kubeconfig() -> PathBuf {
    up().join("kubeconfig")
}

/// Where `up` puts the programs it runs.
pub fn up_bin() -> PathBuf {
    up().join("bin")
}

/// Where the programs' output goes.
pub fn logs() -> PathBuf {
    up().join("logs")
}

/// The images that `up` imports on every node.
pub fn images() -> PathBuf {
    target().join("images")
}

/// The compiled kernel programs.
pub fn ebpf_object() -> PathBuf {
    target().join("ebpf").join("knarr-ebpf")
}

/// Results of `bench`.
pub fn bench() -> PathBuf {
    target().join("bench")
}

/// The path for people: relative to the checkout where it lies inside.
pub fn show(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests;
