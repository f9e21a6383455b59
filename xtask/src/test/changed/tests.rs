// SPDX-License-Identifier: Apache-2.0
//! Tests of what a change affects, over a small workspace and over this one.

use super::*;

/// `(package, folder, what it uses)`.
fn workspace(packages: &[(&str, &str, &[&str])]) -> Workspace {
    let mut workspace = Workspace::default();
    for (name, folder, uses) in packages {
        let name = (*name).to_owned();
        workspace.folders.insert(name.clone(), folder.into());
        let uses = uses.iter().map(|used| (*used).to_owned()).collect();
        workspace.uses.insert(name, uses);
    }
    workspace
}

fn small() -> Workspace {
    workspace(&[
        ("knarr-api", "control/api", &[]),
        ("knarr-control-plan", "control/plan", &["knarr-api"]),
        ("knarr-apiserver", "control/apiserver", &["knarr-api"]),
        (
            "knarr-control",
            "control",
            &["knarr-apiserver", "knarr-control-plan"],
        ),
        ("knarr-ebpf", "ebpf", &[]),
        ("knarr-datapath", "agent/datapath", &[]),
        ("knarr-runtime", "agent/runtime", &[]),
        (
            "knarr-agent",
            "agent",
            &["knarr-datapath", "knarr-runtime", "knarr-api"],
        ),
        ("knarr-tests", "tests", &["knarr-echo"]),
        ("knarr-echo", "tests/echo", &[]),
        ("xtask", "xtask", &[]),
    ])
}

fn affected(file: &str) -> (Vec<Tier>, Vec<String>) {
    let Affected { tiers, packages } = plan_affected(&BTreeSet::from([file.into()]), &small());
    (tiers.into_iter().collect(), packages.into_iter().collect())
}

const PROGRAM_TIERS: [Tier; 3] = [Tier::Kubectl, Tier::Cluster, Tier::Vm];

fn sorted(tiers: &[&[Tier]]) -> Vec<Tier> {
    let set: BTreeSet<Tier> = tiers.concat().into_iter().collect();
    set.into_iter().collect()
}

#[test]
fn a_plan_affects_those_that_use_it_and_no_kernel_program() {
    let (tiers, packages) = affected("control/plan/src/scheduler.rs");
    assert_eq!(
        packages,
        ["knarr-apiserver", "knarr-control", "knarr-control-plan"]
    );
    assert_eq!(tiers, sorted(&[&[Tier::Unit], &PROGRAM_TIERS]));
}

#[test]
fn a_file_belongs_to_the_package_with_the_longest_folder() {
    let (_, packages) = affected("control/src/main.rs");
    assert_eq!(packages, ["knarr-apiserver", "knarr-control"]);
    let (_, packages) = affected("tests/echo/src/main.rs");
    assert_eq!(packages, ["knarr-apiserver", "knarr-echo", "knarr-tests"]);
}

#[test]
fn a_kernel_program_affects_the_crate_that_embeds_it() {
    let (tiers, packages) = affected("ebpf/src/packet.rs");
    assert_eq!(
        packages,
        [
            "knarr-agent",
            "knarr-apiserver",
            "knarr-datapath",
            "knarr-ebpf"
        ]
    );
    assert_eq!(
        tiers,
        sorted(&[&[Tier::Unit, Tier::Bpf, Tier::Node], &PROGRAM_TIERS])
    );
}

#[test]
fn documents_affect_no_tier_but_what_is_installed_from() {
    assert_eq!(affected("docs/roadmap.md"), (vec![], vec![]));
    assert_eq!(affected("agent/runtime/README.md"), (vec![], vec![]));
    let read = || (vec![Tier::Unit, Tier::Vm], vec!["xtask".to_owned()]);
    assert_eq!(affected("README.md"), read());
    assert_eq!(affected("deploy/knarr-agent.service"), read());
}

#[test]
fn what_every_compilation_reads_affects_everything() {
    for file in ["Cargo.lock", ".cargo/config.toml", ".config/nextest.toml"] {
        let (tiers, packages) = affected(file);
        assert_eq!(tiers, sorted(&[&super::super::ALL]), "{file}");
        assert_eq!(packages.len(), small().folders.len(), "{file}");
    }
}

#[test]
fn the_packages_that_tiers_are_named_after_are_in_this_workspace() {
    let workspace = crate::metadata::metadata().unwrap().workspace();
    let named = OTHER_TIERS.iter().chain(&PROGRAMS).chain(&LAB);
    for name in named.chain([&EMBEDDED.0, &EMBEDDED.1]) {
        assert!(workspace.folders.contains_key(*name), "{name}");
    }
    let files = BTreeSet::from(["control/plan/src/lib.rs".into()]);
    let affected = plan_affected(&files, &workspace);
    assert!(affected.packages.contains("knarr-control"), "{affected:?}");
    assert!(
        !affected.packages.contains("knarr-datapath"),
        "{affected:?}"
    );
}
