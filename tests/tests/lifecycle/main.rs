// SPDX-License-Identifier: Apache-2.0
//! `down` leaves nothing, whatever state it finds. It takes the cluster away, so it is the last thing that
//! `cargo xtask test cluster` runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use knarr_tests::Outcome;
use knarr_tests::cluster::{up_dir, xtask};

/// What the machine has of things that a lab could leave.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    /// Processes that run a program of the lab.
    processes: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    pins: usize,
}

/// How this checkout's lab is called; another checkout's may run beside it. Its processes are known by its cgroups.
fn lab() -> String {
    let state = fs::read_to_string(up_dir().join("state.json"))
        .expect("no cluster is up: run `cargo xtask test cluster`");
    let state: serde_json::Value = serde_json::from_str(&state).expect("the lab's book is JSON");
    state["cgroup"]
        .as_str()
        .expect("it names the lab's cgroup")
        .to_owned()
}

fn look(lab: &str) -> Machine {
    let up = up_dir().display().to_string();
    let mut processes = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("a /proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // One that only waits to be reaped by the machine's first process is gone.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status
            .lines()
            .any(|line| line.starts_with("State:") && line.contains('Z'))
        {
            continue;
        }
        // Every process of a lab is in the lab's cgroups.
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroups.contains(lab) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            processes.insert(format!(
                "{pid} {}",
                String::from_utf8_lossy(&line).replace('\0', " ")
            ));
        }
    }
    let text = |program: &str, args: &[&str]| {
        String::from_utf8_lossy(
            &Command::new(program)
                .args(args)
                .output()
                .expect("it runs")
                .stdout,
        )
        .into_owned()
    };
    Machine {
        processes,
        cgroups: find(Path::new("/sys/fs/cgroup"), lab),
        mounts: fs::read_to_string("/proc/self/mountinfo")
            .expect("mounts")
            .lines()
            .filter(|line| line.contains(&up))
            .map(str::to_owned)
            .collect(),
        links: text("ip", &["-oneline", "link"])
            .lines()
            .filter_map(|line| line.split(": ").nth(1).map(str::to_owned))
            .collect(),
        pins: find(Path::new("/sys/fs/bpf"), "knarr").len(),
    }
}

fn find(dir: &Path, word: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
            if entry.file_name().to_string_lossy().contains(word) {
                found.insert(entry.path());
            }
        }
    }
    found
}

fn down() {
    let outcome = Outcome::of(Command::new(xtask()).arg("down"), "");
    assert!(outcome.success, "{}", outcome.stderr);
}

fn assert_nothing_left(lab: &str, when: &str) {
    let machine = look(lab);
    assert_eq!(machine.processes, BTreeSet::new(), "{when}");
    assert_eq!(machine.cgroups, BTreeSet::new(), "{when}");
    assert_eq!(machine.mounts, BTreeSet::new(), "{when}");
    assert_eq!(machine.pins, 0, "{when}");
    assert!(
        machine
            .links
            .iter()
            .all(|link| !link.contains("veth") && !link.contains("node-")),
        "{when}: {:?}",
        machine.links
    );
    let left: Vec<String> = fs::read_dir(up_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !["logs", "lock"].contains(&name.as_str()))
        .collect();
    assert_eq!(left, Vec::<String>::new(), "{when}");
}

#[test]
fn down_leaves_nothing_also_of_an_up_that_was_killed_half_way() {
    let lab = lab();
    down();
    assert_nothing_left(&lab, "after a whole cluster");
    let before = look(&lab);
    down();
    assert_nothing_left(&lab, "after nothing");

    // Killed at many moments: while hosts are made, while programs start, while images are imported.
    for after_ms in [150, 300, 450, 600, 900, 1500, 2500, 4000] {
        let mut up = Command::new(xtask())
            .args(["up", "--nodes", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("up starts");
        thread::sleep(Duration::from_millis(after_ms));
        up.kill().expect("it is ours");
        up.wait().expect("it is ours");
        down();
        assert_nothing_left(
            &lab,
            &format!("after an up that was killed after {after_ms} ms"),
        );
    }
    let after = look(&lab);
    assert_eq!(after.links, before.links);

    // What a killed `up` left does not hinder the next one either.
    let mut up = Command::new(xtask())
        .args(["up", "--nodes", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("up starts");
    thread::sleep(Duration::from_millis(700));
    up.kill().expect("it is ours");
    up.wait().expect("it is ours");
    let again = Outcome::of(Command::new(xtask()).args(["up", "--nodes", "1"]), "");
    assert!(again.success, "{}", again.stderr);
    down();
    assert_nothing_left(&lab, "at the end");
}
