// SPDX-License-Identifier: Apache-2.0
//! What cargo says about the workspace: packages, their folders, what they use and where their targets begin.
//!
//! Facts only. What follows from them is `ci`'s, `tidy`'s and `test`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

use crate::{paths, run};

/// What cargo says about the workspace.
#[derive(Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<PathBuf>,
    /// `dev` for what only tests use; none for an ordinary one.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    src_path: PathBuf,
}

/// Asks cargo.
pub fn metadata() -> anyhow::Result<Metadata> {
    let text = run::stdout(run::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    serde_json::from_str(&text).context("cannot read what `cargo metadata` says")
}

impl Metadata {
    /// The file that each library, program and test starts from, below the checkout.
    pub fn target_roots(&self) -> Vec<PathBuf> {
        let root = paths::root();
        self.packages
            .iter()
            .flat_map(|package| &package.targets)
            .map(|target| {
                target
                    .src_path
                    .strip_prefix(&root)
                    .unwrap_or(&target.src_path)
                    .to_path_buf()
            })
            .collect()
    }

    /// Folders and uses, also those of tests.
    pub fn workspace(&self) -> Workspace {
        let root = paths::root();
        let folder = |package: &Package| {
            let folder = package.manifest_path.parent().unwrap_or(&root);
            folder.strip_prefix(&root).unwrap_or(folder).to_path_buf()
        };
        let uses = |package: &Package| {
            let own = package.dependencies.iter();
            let own = own.filter(|dependency| dependency.path.is_some());
            own.map(|dependency| dependency.name.clone()).collect()
        };
        let packages = self.packages.iter();
        let named = packages.map(|package| (package.name.clone(), package));
        let named: Vec<_> = named.collect();
        Workspace {
            folders: named
                .iter()
                .map(|(name, package)| (name.clone(), folder(package)))
                .collect(),
            uses: named
                .iter()
                .map(|(name, package)| (name.clone(), uses(package)))
                .collect(),
        }
    }

    /// What each package uses of the workspace, its tests left out.
    pub fn own_dependencies(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.packages
            .iter()
            .map(|package| {
                let own = package
                    .dependencies
                    .iter()
                    .filter(|dependency| {
                        dependency.path.is_some() && dependency.kind.as_deref() != Some("dev")
                    })
                    .map(|dependency| dependency.name.clone());
                (package.name.clone(), own.collect())
            })
            .collect()
    }
}

/// The workspace as cargo tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workspace {
    /// Each package's folder, below the checkout.
    pub folders: BTreeMap<String, PathBuf>,
    /// What each package uses of the workspace, in its tests too.
    pub uses: BTreeMap<String, BTreeSet<String>>,
}
