// SPDX-License-Identifier: Apache-2.0
//! Where things are. Every path that more than one command uses is named here once.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, bail};

/// The checkout that xtask acts on, once it was looked for.
static ROOT: OnceLock<PathBuf> = OnceLock::new();
/// The lab that xtask acts on, once another one than people's own was asked for.
static CHOSEN_LAB: OnceLock<String> = OnceLock::new();

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

/// Names a lab of this checkout other than the one that people use. Processes that xtask starts inherit it, so that they
/// act on the same lab.
pub const LAB: &str = "KNARR_LAB";
/// Host names, cgroups and sockets below a lab's folder are made of it, and those are short.
const LAB_NAME_LENGTH_MAX: usize = 20;
/// The lab of the tier `vm`.
pub const MACHINES: &str = "vm";

/// Reads which lab is meant. Called once by every command, before [`up`] is asked.
///
/// # Errors
/// When the name could not be that of a folder.
pub fn choose_lab() -> anyhow::Result<()> {
    let Some(name) = std::env::var_os(LAB) else {
        return Ok(());
    };
    let name = name.to_string_lossy();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > LAB_NAME_LENGTH_MAX || !name.chars().all(fits) {
        bail!(
            "{LAB}={name} names no lab: use up to {LAB_NAME_LENGTH_MAX} lower-case letters, digits and dashes"
        );
    }
    CHOSEN_LAB.get_or_init(|| name.into_owned());
    Ok(())
}

/// Acts on the lab of the virtual machines, unless another one was asked for.
pub fn choose_machines() {
    CHOSEN_LAB.get_or_init(|| MACHINES.to_owned());
}

/// The name of the lab that was asked for; none for the one that people use.
pub fn chosen_lab() -> Option<&'static str> {
    CHOSEN_LAB.get().map(String::as_str)
}

/// Everything that belongs to the lab that is acted on, with the cluster that runs in it.
pub fn up() -> PathBuf {
    match CHOSEN_LAB.get() {
        Some(name) => labs().join(name),
        None => target().join("up"),
    }
}

/// The labs of the tests, by name.
pub fn labs() -> PathBuf {
    target().join("labs")
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
