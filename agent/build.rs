// SPDX-License-Identifier: Apache-2.0
//! Embeds the eBPF object: `$KNARR_EBPF_OBJECT`, or what `cargo xtask build-ebpf` left under
//! `target/ebpf`. Without one the program is built all the same, with an empty object, and says so when
//! it has to load it. `src/object.rs` includes what this copies.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=KNARR_EBPF_OBJECT");
    let directory = |name: &str| PathBuf::from(std::env::var_os(name).unwrap_or_default());
    let named = std::env::var_os("KNARR_EBPF_OBJECT").map(PathBuf::from);
    let object = named
        .clone()
        .unwrap_or_else(|| directory("CARGO_MANIFEST_DIR").join("../target/ebpf/knarr-ebpf"));
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match std::fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) if named.is_some() => {
            println!(
                "cargo::error=KNARR_EBPF_OBJECT {}: {error}",
                object.display()
            );
            return ExitCode::FAILURE;
        }
        Err(_) => Vec::new(),
    };
    let copy = directory("OUT_DIR").join("knarr-ebpf");
    if let Err(error) = std::fs::write(&copy, bytes) {
        println!("cargo::error=cannot write {}: {error}", copy.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
