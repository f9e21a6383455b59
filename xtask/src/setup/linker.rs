// SPDX-License-Identifier: Apache-2.0
//! bpf-linker, built against Debian's LLVM, which is the one that Debian's `rustc-web` uses.

use std::path::PathBuf;

use crate::{paths, run};

/// The newest that works with the compiler in use.
const VERSION: &str = "0.13.0";
/// Where Debian puts LLVM 22.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// Where it is: our own, or one that was installed by hand.
pub fn find() -> Option<PathBuf> {
    let own = paths::tools().join("bin").join("bpf-linker");
    if own.is_file() {
        Some(own)
    } else {
        run::find("bpf-linker")
    }
}

/// Whether it is missing or of another version.
pub fn missing() -> anyhow::Result<Vec<String>> {
    let present = find().and_then(|path| run::stdout(&mut run::command(path, ["--version"])).ok());
    let fits =
        present.is_some_and(|version| version.split_whitespace().any(|word| word == VERSION));
    Ok(if fits {
        Vec::new()
    } else {
        vec![format!("bpf-linker {VERSION}")]
    })
}

/// Compiles it.
pub fn install(_what: &[String]) -> anyhow::Result<()> {
    let mut cargo = run::cargo();
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--no-default-features",
        "--features",
        "llvm-22",
        "--root",
    ]);
    // The first is what bpf-linker's own build looks at, the second what its bindings to LLVM do. Left to themselves
    // they take the `llvm-config` of the search path, which may belong to an older LLVM.
    cargo
        .arg(paths::tools())
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .env("LLVM_SYS_221_PREFIX", LLVM_PREFIX);
    run::quiet(&mut cargo)
}
