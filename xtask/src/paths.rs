// SPDX-License-Identifier: Apache-2.0
//! Where things are. Every path that more than one command uses is named here once.

use std::path::{Path, PathBuf};

/// The checkout: the folder that holds the workspace's Cargo.toml.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
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
