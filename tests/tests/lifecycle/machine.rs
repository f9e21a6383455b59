// SPDX-License-Identifier: Apache-2.0
//! What the machine has of things that a lab could leave: looked at from the machine's own namespaces, where `down` has
//! to have left nothing. Used by the tests beside this file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aya::maps::{MapInfo, loaded_maps};
use aya::programs::links::PinnedLink;
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};
use knarr_tests::lab::up_dir;

/// What can be told to be a lab's by its name or place.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processes that run a program of the lab.
    pub processes: BTreeSet<String>,
    pub cgroups: BTreeSet<PathBuf>,
    pub mounts: BTreeSet<String>,
    /// Links, routes of all tables, and rules of iptables and nftables: the lab has its own elsewhere and never touches
    /// these.
    pub network: BTreeSet<String>,
    /// In the machine's own BPF file system; those of hosts are among [`Held`].
    pub pins: usize,
}

/// How this checkout's lab is called; another checkout's may run beside it. Its processes are known by its cgroups.
pub fn lab() -> String {
    let state = fs::read_to_string(up_dir().join("state.json"))
        .expect("no cluster is up: run `cargo xtask test cluster`");
    let state: serde_json::Value = serde_json::from_str(&state).expect("the lab's book is JSON");
    state["cgroup"]
        .as_str()
        .expect("it names the lab's cgroup")
        .to_owned()
}

pub fn look(lab: &str) -> Machine {
    let up = up_dir().display().to_string();
    let processes = processes(lab)
        .into_iter()
        .map(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!(
                "{pid} {}",
                String::from_utf8_lossy(&line).replace('\0', " ")
            )
        })
        .collect();
    let links = lines("ip", &["-oneline", "link"])
        .filter_map(|line| line.split(": ").nth(1).map(str::to_owned));
    Machine {
        processes,
        cgroups: find(Path::new("/sys/fs/cgroup"), lab),
        mounts: fs::read_to_string("/proc/self/mountinfo")
            .expect("mounts")
            .lines()
            .filter(|line| line.contains(&up))
            .map(str::to_owned)
            .collect(),
        network: links
            .chain(lines("ip", &["route", "show", "table", "all"]).map(without_age))
            .chain(lines("ip", &["rule"]))
            .chain(lines("nft", &["list", "ruleset"]))
            // The counters and the time in the comments are not rules.
            .chain(lines("iptables-legacy-save", &[]).filter(|line| line.starts_with("-A")))
            .collect(),
        pins: find(Path::new("/sys/fs/bpf"), "knarr").len(),
    }
}

/// A route that a router announced says how long it has still to live.
fn without_age(route: String) -> String {
    let lasting = route.split(" expires ").next();
    lasting.map(str::to_owned).unwrap_or(route)
}

fn lines(program: &str, args: &[&str]) -> impl Iterator<Item = String> + use<> {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    assert!(output.status.success(), "{program}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.into_iter()
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

/// The pids of all processes of the machine.
fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("a /proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn cgroups(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// The pids of a lab's processes, all of which are in the lab's cgroups. One that only waits to be reaped by the
/// machine's first process is gone.
fn processes(lab: &str) -> Vec<u32> {
    pids()
        .filter(|pid| cgroups(*pid).contains(lab))
        .filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name: &str| {
                let value = status.lines().find_map(|line| line.strip_prefix(name));
                value.unwrap_or_default().trim()
            };
            // The state is that of the first thread alone.
            !(field("State:").starts_with('Z') && field("Threads:") == "1")
        })
        .collect()
}

/// What a lab holds in the kernel under numbers only, so it has to be noted down while the lab is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// As `net:[4026532008]`.
    pub namespaces: BTreeSet<String>,
    /// Ids of eBPF programs. The kernel gives none out twice.
    pub programs: BTreeSet<u32>,
    /// Ids of eBPF maps.
    pub maps: BTreeSet<u32>,
    /// Ids of eBPF links.
    pub bpf_links: BTreeSet<u32>,
}

/// Notes down what a lab's processes hold and what is pinned on its hosts, each of which has a BPF file system of its
/// own.
pub fn held(lab: &str) -> Held {
    let own: BTreeSet<String> = namespaces(std::process::id()).collect();
    let mut held = Held::default();
    let mut mount_namespaces = BTreeSet::new();
    for pid in processes(lab) {
        for namespace in namespaces(pid).filter(|namespace| !own.contains(namespace)) {
            if namespace.starts_with("mnt:") && mount_namespaces.insert(namespace.clone()) {
                pinned(
                    &PathBuf::from(format!("/proc/{pid}/root/sys/fs/bpf")),
                    &mut held,
                );
            }
            held.namespaces.insert(namespace);
        }
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let number = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim().parse::<u32>().ok()
            };
            held.programs.extend(number("prog_id:"));
            held.maps.extend(number("map_id:"));
            held.bpf_links.extend(number("link_id:"));
        }
    }
    held
}

fn pinned(dir: &Path, held: &mut Held) {
    for path in find(dir, "") {
        if path.is_dir() {
            continue;
        }
        // The kernel opens any kind of object for any question, so the kind is told by the folder.
        let kind = path.parent().and_then(Path::file_name);
        match kind.and_then(|kind| kind.to_str()) {
            Some("links") => held
                .bpf_links
                .extend(PinnedLink::from_pin(&path).ok().and_then(|link| {
                    let info = aya::programs::links::FdLink::from(link).info();
                    info.ok().map(|info| info.id())
                })),
            Some("programs") => held.programs.extend(
                ProgramInfo::from_pin(&path)
                    .ok()
                    .map(|program| program.id()),
            ),
            _ => held
                .maps
                .extend(MapInfo::from_pin(&path).ok().map(|map| map.id())),
        }
    }
}

fn namespaces(pid: u32) -> impl Iterator<Item = String> {
    links_in(&format!("/proc/{pid}/ns"))
}

/// Where the links in a folder of /proc lead.
fn links_in(dir: &str) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let to = fs::read_link(entry.path()).ok()?;
            Some(to.to_string_lossy().into_owned())
        })
}

/// Of what was held, what is still there: objects of the kernel, and namespaces that a process is in, has open or has
/// mounted somewhere.
pub fn still_there(was: &Held) -> Held {
    let mut namespaces_now = BTreeSet::new();
    for pid in pids() {
        // Numbers of namespaces are given out again; another checkout's lab may have got one.
        if cgroups(pid).contains("knarr-lab-") {
            continue;
        }
        namespaces_now.extend(namespaces(pid));
        namespaces_now.extend(links_in(&format!("/proc/{pid}/fd")));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    namespaces_now.extend(
        mounts
            .lines()
            .filter(|line| line.contains(" - nsfs "))
            .filter_map(|line| line.split(' ').nth(3).map(str::to_owned)),
    );
    let among = |was: &BTreeSet<u32>, now: BTreeSet<u32>| was.intersection(&now).copied().collect();
    Held {
        namespaces: was
            .namespaces
            .intersection(&namespaces_now)
            .cloned()
            .collect(),
        // One that goes while it is being listed is an error here, and gone.
        programs: among(
            &was.programs,
            loaded_programs().flatten().map(|info| info.id()).collect(),
        ),
        maps: among(
            &was.maps,
            loaded_maps().flatten().map(|info| info.id()).collect(),
        ),
        bpf_links: among(
            &was.bpf_links,
            loaded_links().flatten().map(|info| info.id()).collect(),
        ),
    }
}
