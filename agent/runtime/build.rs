// SPDX-License-Identifier: Apache-2.0
//! Assembles the pause program, which `src/shim/pause.rs` embeds.
//!
//! Uses the C compiler that Rust itself links with. Called by cargo.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=pause/pause.S");
    println!("cargo:rerun-if-env-changed=CC");
    if let Err(message) = assemble() {
        println!("cargo:warning={message}");
        std::process::exit(1);
    }
}

fn assemble() -> Result<(), String> {
    let out = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    let out = PathBuf::from(out).join("pause");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-nostdlib", "-static", "-s", "-Wl,--build-id=none", "-o"])
        .arg(&out)
        .arg("pause/pause.S")
        .status()
        .map_err(|e| format!("{compiler} is needed to assemble pause/pause.S: {e}"))?;
    status.success().then_some(()).ok_or(format!(
        "{compiler} could not assemble pause/pause.S: {status}"
    ))
}
