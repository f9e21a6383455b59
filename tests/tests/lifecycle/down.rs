// SPDX-License-Identifier: Apache-2.0
//! `down` leaves nothing, whatever state it finds.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use knarr_tests::cluster::{up_dir, xtask};
use knarr_tests::{eventually, faults, hosts};

use crate::machine::{Held, held, lab, look, still_there};

/// The kernel takes apart what nobody holds any more a moment later.
const KERNEL_LIMIT: Duration = Duration::from_secs(20);

/// Takes everything away, and looks for whatever the lab had.
pub fn down(lab: &str, when: &str) {
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
    down(&lab, "after a whole cluster");
    let before = look(&lab);
    down(&lab, "after nothing");

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
        down(
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
    faults::lab(&["up", "--nodes", "1"]);
    down(&lab, "at the end");
}
