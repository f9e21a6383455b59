// SPDX-License-Identifier: Apache-2.0
//! `down` leaves nothing, whatever state it finds.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use knarr_tests::lab::{up_dir, xtask};
use knarr_tests::{eventually, faults, hosts};
use serde_json::Value;

use crate::machine::{Held, held, lab, look, still_there};

/// The kernel frees an object a moment after its last holder is gone.
const KERNEL_LIMIT: Duration = Duration::from_secs(20);

/// Far more than a whole `up` takes that builds nothing.
const UP_LIMIT: Duration = Duration::from_secs(120);
/// Shorter than any step of `up`, so that it is killed in the step that is meant.
const POLL: Duration = Duration::from_millis(5);
/// The switch, the control plane, the client, and the nodes.
const HOSTS: usize = 3 + hosts::NODES.len();

/// A moment of `up`, told by what exists: how long a step takes differs from machine to machine.
struct Moment {
    what: &'static str,
    /// Whether it has come, by the lab's name and its book.
    reached: fn(&str, &Value) -> bool,
}

/// Some in each part of `up`. What is there stays there, so none of them can be missed.
const MOMENTS: [Moment; 10] = [
    Moment {
        what: "the book was begun",
        reached: |_, book| book.is_object(),
    },
    // The host itself is only being made.
    Moment {
        what: "the first host was in the book",
        reached: |_, book| hosts_of(book).count() > 0,
    },
    Moment {
        what: "one host ran",
        reached: |_, book| hosts_running(book) > 0,
    },
    Moment {
        what: "three hosts ran",
        reached: |_, book| hosts_running(book) >= 3,
    },
    Moment {
        what: "all hosts ran",
        reached: |_, book| hosts_running(book) == HOSTS,
    },
    CONTROL_STARTED,
    Moment {
        what: "the control plane had made the kubeconfig",
        reached: |_, _| up_dir().join("kubeconfig").is_file(),
    },
    Moment {
        what: "the first agent was started",
        reached: |_, book| serves(book, hosts::NODES[0]),
    },
    Moment {
        what: "the first node had an image",
        reached: |_, _| {
            let names = format!("{}/data/images/names.json", hosts::NODES[0]);
            up_dir().join(names).is_file()
        },
    },
    Moment {
        what: "kernel programs were loaded",
        reached: |lab, book| serves(book, hosts::NODES[0]) && !held(lab).programs.is_empty(),
    },
];
const CONTROL_STARTED: Moment = Moment {
    what: "the control plane was started",
    reached: |_, book| serves(book, hosts::CONTROL),
};
/// From the first host that runs on, a killed `up` leaves namespaces at least; in the two moments before it need not.
const ROUNDS_HOLDING_MIN: usize = MOMENTS.len() - 2;

/// What `up` has written down so far; null before that.
fn book() -> Value {
    fs::read_to_string(up_dir().join("state.json"))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

fn hosts_of(book: &Value) -> impl Iterator<Item = &Value> {
    book["hosts"]
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::values)
}

/// Those whose first process runs.
fn hosts_running(book: &Value) -> usize {
    hosts_of(book)
        .filter(|host| host["init"].is_object())
        .count()
}

/// Whether the program that the host is for was started.
fn serves(book: &Value, host: &str) -> bool {
    book["hosts"][host]["service"].is_object()
}

/// Starts `up` and kills it when that moment has come.
fn kill_up_when(lab: &str, nodes: &str, moment: &Moment) {
    let Moment { what, reached } = moment;
    let mut up = xtask(&["up", "--nodes", nodes])
        // What runs in this tier was just built, and a build is nothing that `down` takes away.
        .env("KNARR_XTASK_NO_BUILD", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("up starts");
    let end = Instant::now() + UP_LIMIT;
    while !reached(lab, &book()) && Instant::now() < end {
        let ended = up.try_wait().expect("it is ours");
        assert!(
            ended.is_none(),
            "`up` ended ({ended:?}) and it was not seen that {what}"
        );
        thread::sleep(POLL);
    }
    let ended = up.try_wait().expect("it is ours");
    up.kill().expect("it is ours");
    up.wait().expect("it is ours");
    let book = book();
    assert!(
        reached(lab, &book),
        "after {} s it was not so that {what}: {book}",
        UP_LIMIT.as_secs()
    );
    assert!(
        ended.is_none() && book["complete"] != true,
        "`up` had come to its end ({ended:?}) when {what}, so nothing was half-way"
    );
}

/// Takes everything away, and looks for whatever the lab had. Returns what that was.
pub fn down(lab: &str, when: &str) -> Held {
    let was = held(lab);
    faults::lab(&["down"]);
    assert_nothing_left(lab, when);
    eventually(
        &format!("{when}, the kernel has nothing left"),
        KERNEL_LIMIT,
        || {
            let left = still_there(&was);
            if left == Held::default() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        },
    );
    was
}

fn assert_nothing_left(lab: &str, when: &str) {
    let machine = look(lab);
    assert_eq!(machine.processes, BTreeSet::new(), "{when}");
    assert_eq!(machine.cgroups, BTreeSet::new(), "{when}");
    assert_eq!(machine.mounts, BTreeSet::new(), "{when}");
    assert_eq!(machine.pins, 0, "{when}");
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
    faults::lab(&["up", "--nodes", "2"]);
    let lab = lab();
    // What is looked for is there before.
    let whole = held(&lab);
    for node in hosts::NODES {
        let own = hosts::ok(node, &["readlink", "/proc/1/ns/net"]);
        assert!(
            whole.namespaces.contains(own.trim()),
            "{node} is in {own}, which is not among {:?}",
            whole.namespaces
        );
    }
    assert!(
        !whole.programs.is_empty() && !whole.maps.is_empty() && !whole.bpf_links.is_empty(),
        "no kernel programs were seen: {whole:?}"
    );
    assert_eq!(
        still_there(&whole),
        Held {
            namespaces: BTreeSet::new(),
            ..whole.clone()
        }
    );
    let with_cluster = look(&lab);
    down(&lab, "after a whole cluster");
    let before = look(&lab);
    assert!(!before.network.is_empty());
    assert_eq!(
        with_cluster.network, before.network,
        "a running cluster is to be seen in the machine's own network"
    );
    down(&lab, "after nothing");

    let mut holding = Vec::new();
    for moment in &MOMENTS {
        kill_up_when(&lab, &hosts::NODES.len().to_string(), moment);
        let when = format!("after an up that was killed when {}", moment.what);
        if down(&lab, &when) != Held::default() {
            holding.push(moment.what);
        }
    }
    assert!(
        holding.len() >= ROUNDS_HOLDING_MIN,
        "only {} of {} killed `up`s left anything in the kernel, so `down` had nothing to do: those when {holding:?}",
        holding.len(),
        MOMENTS.len()
    );
    let after = look(&lab);
    assert_eq!(after.network, before.network);

    // What a killed `up` left does not hinder the next one either.
    kill_up_when(&lab, "1", &CONTROL_STARTED);
    assert_ne!(held(&lab), Held::default());
    faults::lab(&["up", "--nodes", "1"]);
    down(&lab, "at the end");
}
