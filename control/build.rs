// SPDX-License-Identifier: Apache-2.0
//! Says which source the program is built from: what `GET /version` and `knarr-control version` show.
//!
//! `KNARR_GIT_COMMIT`, `KNARR_GIT_TREE_STATE` and `SOURCE_DATE_EPOCH` go first: `cargo xtask dist` and packagers set
//! them. Without them an optimized build asks git. A debug build does not, since it would have to be built again at
//! every commit; neither can a source archive. These say forty zeros, which are hexadecimal as clients expect. Nothing
//! of the machine or of the time of day gets in, so the same source gives the same bytes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let asks_git = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let git = given("KNARR_GIT_COMMIT").is_none() && asks_git;
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = root.parent().unwrap_or(&root).to_owned();
    let (commit, seconds) = match git.then(|| from_git(&root)).flatten() {
        Some((commit, seconds)) => (Some(commit), Some(seconds)),
        None => (given("KNARR_GIT_COMMIT"), None),
    };
    let commit = commit.unwrap_or_else(|| NO_COMMIT.to_owned());
    assert!(
        !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_hexdigit()),
        "KNARR_GIT_COMMIT is {commit:?}; a commit is written in hexadecimal digits"
    );
    let seconds = given("SOURCE_DATE_EPOCH")
        .or(seconds)
        .unwrap_or_else(|| "0".to_owned());
    assert!(
        seconds.parse::<i64>().is_ok(),
        "SOURCE_DATE_EPOCH is {seconds:?}; it is a number of seconds since 1970"
    );
    let state = given("KNARR_GIT_TREE_STATE").unwrap_or_default();
    println!("cargo::rustc-env=KNARR_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=KNARR_BUILD_TREE_STATE={state}");
    println!("cargo::rustc-env=KNARR_BUILD_TIME_S={seconds}");
}

/// A variable that somebody set.
fn given(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Commit and its time, if the source is a checkout of its own: an archive that was unpacked inside another checkout
/// must not take that one's commit.
fn from_git(root: &Path) -> Option<(String, String)> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        let done = command.arg("-C").arg(root).args(arguments).output().ok()?;
        let text = String::from_utf8(done.stdout).ok()?;
        done.status.success().then(|| text.trim().to_owned())
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // What changes with the commit: HEAD, the branch that it names, and where git packs branches.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    let watched = ["HEAD", "packed-refs"].into_iter().map(str::to_owned);
    for name in watched.chain(branch) {
        let path = git(&["rev-parse", "--git-path", &name])?;
        let path = root.join(path);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let seconds = git(&["show", "--no-patch", "--format=%ct", "HEAD"])?;
    Some((commit, seconds))
}
