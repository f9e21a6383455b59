// SPDX-License-Identifier: Apache-2.0
//! `test --changed`: which tiers and packages a change can affect. The plan is a plain function over file names and what
//! cargo says of the workspace; it knows nothing of what is inside a file. Called by `test`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{BPF_PACKAGE, CLUSTER_PACKAGE, NODE_PACKAGE, OTHER_TIERS, Tier};
use crate::metadata::Workspace;
use crate::{build, paths, run};

/// The programs that clusters and machines run.
const PROGRAMS: [&str; 2] = ["knarr-control", "knarr-agent"];
/// The server that pods of the tests run, and the lab itself.
const LAB: [&str; 2] = ["knarr-echo", "xtask"];
/// Compiled into the agent as bytes, which no manifest says.
const EMBEDDED: (&str, &str) = (build::NOT_FOR_THE_HOST, BPF_PACKAGE);
/// Files that every compilation or test run reads.
const READ_BY_ALL: [&str; 5] = [
    "Cargo.toml",
    "Cargo.lock",
    ".cargo/",
    ".config/",
    "rust-toolchain.toml",
];
/// A test of it looks up the names of tests in all packages.
const READS_TEST_NAMES: &str = "knarr-apiserver";
/// A test of it reads the README.
const READS_README: &str = "xtask";
/// Files that people and the tier `vm` install from.
const READ_BY_INSTALLATION: [&str; 2] = ["README.md", "deploy/"];

/// What has to be tested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// In order.
    pub tiers: BTreeSet<Tier>,
    /// Those whose unit tests can end differently.
    pub packages: BTreeSet<String>,
}

/// The files that differ from a revision of git, those that git does not know yet among them.
///
/// # Errors
/// When there is no such revision.
pub fn fetch_changed_files(revision: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let git = |args: &[&str]| run::stdout(run::command("git", args).current_dir(paths::root()));
    // What others added to the revision since is not this change.
    let base = git(&["merge-base", revision, "HEAD"])
        .with_context(|| format!("cannot compare with {revision}"))?;
    let mut files = git(&["diff", "--no-renames", "--name-only", "-z", base.trim()])?;
    files += &git(&["ls-files", "--others", "--exclude-standard", "-z"])?;
    Ok(files
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .collect())
}

/// Works out what these files can affect.
pub fn plan_affected(files: &BTreeSet<PathBuf>, workspace: &Workspace) -> Affected {
    let below = |file: &Path, places: &[&str]| {
        places
            .iter()
            .any(|place| file.starts_with(place.trim_end_matches('/')))
    };
    if files.iter().any(|file| below(file, &READ_BY_ALL)) {
        return Affected {
            tiers: super::ALL.into(),
            packages: workspace.folders.keys().cloned().collect(),
        };
    }
    let mut packages: BTreeSet<String> = files
        .iter()
        .filter(|file| file.extension().is_none_or(|ending| ending != "md"))
        .filter_map(|file| owner(file, workspace))
        .collect();
    loop {
        let more: Vec<String> = workspace
            .uses
            .iter()
            .filter(|(user, used)| {
                let embeds = user.as_str() == EMBEDDED.1 && packages.contains(EMBEDDED.0);
                embeds || !used.is_disjoint(&packages)
            })
            .map(|(user, _)| user.clone())
            .filter(|user| !packages.contains(user))
            .collect();
        if more.is_empty() {
            break;
        }
        packages.extend(more);
    }
    if files
        .iter()
        .any(|file| file.extension().is_some_and(|ending| ending == "rs"))
    {
        packages.insert(READS_TEST_NAMES.to_owned());
    }
    let any = |names: &[&str]| names.iter().any(|name| packages.contains(*name));
    let programs = any(&PROGRAMS);
    let clusters = programs || any(&LAB) || any(&[CLUSTER_PACKAGE]);
    let unit = packages.iter().any(|name| {
        name != build::NOT_FOR_THE_HOST
            && (!OTHER_TIERS.contains(&name.as_str()) || name == CLUSTER_PACKAGE)
    });
    let installed = files.iter().any(|file| below(file, &READ_BY_INSTALLATION));
    let tiers = [
        (Tier::Unit, unit || installed),
        (Tier::Bpf, any(&[BPF_PACKAGE])),
        // The agent's own refusals are tested there too.
        (Tier::Node, any(&[NODE_PACKAGE, "knarr-agent"])),
        (Tier::Cluster, clusters),
        (Tier::Kubectl, clusters),
        (Tier::Vm, programs || any(&["xtask"]) || installed),
    ];
    if installed {
        packages.insert(READS_README.to_owned());
    }
    Affected {
        tiers: tiers
            .into_iter()
            .filter_map(|(tier, is)| is.then_some(tier))
            .collect(),
        packages,
    }
}

/// The package that a file is in: the one with the longest folder, for some packages lie in the folder of another.
fn owner(file: &Path, workspace: &Workspace) -> Option<String> {
    workspace
        .folders
        .iter()
        .filter(|(_, folder)| file.starts_with(folder))
        .max_by_key(|(_, folder)| folder.components().count())
        .map(|(name, _)| name.clone())
}

#[cfg(test)]
mod tests;
