// SPDX-License-Identifier: Apache-2.0
//! `sessionAffinity: ClientIP`: a client keeps its pod for the timeout after its last call, and no longer.
//!
//! The first choice follows from the client's address and the set of pods. So pods are added while clients hold theirs:
//! a held pod is kept although a new choice would often be another one, and after the timeout new choices are made.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use knarr_tests::hosts::{self, CLIENT, NODES};
use knarr_tests::manifests::{self, Addresses};
use knarr_tests::{Cluster, eventually};

/// Shorter than Kubernetes' three hours, long enough that a slow machine's calls are well within.
const TIMEOUT: u32 = 6;
const LIMIT: Duration = Duration::from_secs(60);
/// Source addresses of the host outside, each a client of its own.
const OUTSIDE: [&str; 6] = [
    "198.18.3.1",
    "198.18.3.2",
    "198.18.3.3",
    "198.18.3.4",
    "198.18.3.5",
    "198.18.3.6",
];
/// Pods that call.
const CALLERS: usize = 4;
/// From few pods to many: a new choice among so many is seldom the old one.
const REPLICAS: (usize, usize) = (2, 10);

/// One call from outside with this source address.
fn call_as(source: &str, node: &str, target: &str) -> Result<String, String> {
    let route = format!("{}/32", hosts::address(node));
    hosts::ok(
        CLIENT,
        &[
            "ip",
            "address",
            "replace",
            &format!("{source}/32"),
            "dev",
            "eth0",
        ],
    );
    hosts::ok(
        CLIENT,
        &[
            "ip", "route", "replace", &route, "dev", "eth0", "src", source,
        ],
    );
    let answer = hosts::get(CLIENT, target);
    hosts::ok(CLIENT, &["ip", "route", "delete", &route, "dev", "eth0"]);
    answer
}

/// What a calling pod has said: by phase, who answered.
fn said(cluster: &Cluster, pod: &str) -> BTreeMap<String, Vec<String>> {
    let mut phases: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in cluster.kubectl.run(&["logs", pod]).stdout.lines() {
        if let Some((phase, who)) = line.split_once(' ') {
            phases
                .entry(phase.to_owned())
                .or_default()
                .push(who.trim().to_owned());
        }
    }
    phases
}

#[test]
fn clients_keep_their_pod_until_the_timeout_has_passed_and_no_longer() {
    let cluster = Cluster::namespace("affinity");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", REPLICAS.0),
        manifests::sticky_service("web", TIMEOUT),
    ]));
    cluster.kubectl.rolled_out("web");
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
    for node in NODES {
        eventually("the Service answers", LIMIT, || {
            hosts::get(node, &addresses.cluster(80)).map(drop)
        });
        eventually("the NodePort answers", LIMIT, || {
            hosts::get(CLIENT, &addresses.node(node, 80)).map(drop)
        });
    }

    // Pods: they call every second until all pods are there, then are silent for longer than the timeout.
    let script = format!(
        "for i in $(seq 40); do echo held $(wget -qO- http://{0}/); sleep 0.5; done; sleep {1}; echo later $(wget -qO- http://{0}/)",
        addresses.cluster_ip,
        TIMEOUT + 4
    );
    let callers: Vec<String> = (0..CALLERS)
        .map(|number| format!("caller-{number}"))
        .collect();
    for (number, caller) in callers.iter().enumerate() {
        cluster.kubectl.apply(&manifests::script_pod(
            caller,
            NODES[number % NODES.len()],
            &script,
        ));
    }
    for caller in &callers {
        eventually(&format!("{caller} calls"), LIMIT, || {
            if said(&cluster, caller).contains_key("held") {
                Ok(())
            } else {
                Err("no call".to_owned())
            }
        });
    }
    // Nodes and outside hold a pod, too. Through node-2 on the way in.
    let from_nodes: Vec<String> = NODES
        .map(|node| hosts::get(node, &addresses.cluster(80)).expect("it answers"))
        .to_vec();
    let entry = addresses.node("node-2", 80);
    let from_outside: Vec<String> = OUTSIDE
        .map(|source| call_as(source, "node-2", &entry).expect("it answers"))
        .to_vec();

    cluster.kubectl.ok(&[
        "scale",
        "deployment/web",
        &format!("--replicas={}", REPLICAS.1),
    ]);
    // Kept while the set of pods changes under them; each call renews.
    let end = std::time::Instant::now() + Duration::from_secs(12);
    while std::time::Instant::now() < end {
        for (node, held) in NODES.iter().zip(&from_nodes) {
            assert_eq!(
                &hosts::get(node, &addresses.cluster(80)).expect("it answers"),
                held,
                "{node} lost its pod"
            );
        }
        for (source, held) in OUTSIDE.iter().zip(&from_outside) {
            assert_eq!(
                &call_as(source, "node-2", &entry).expect("it answers"),
                held,
                "{source} lost its pod"
            );
        }
    }
    cluster.kubectl.rolled_out("web");

    // Silent for longer than the timeout: new choices, from the new set.
    thread::sleep(Duration::from_secs(u64::from(TIMEOUT) + 2));
    let later: Vec<String> = OUTSIDE
        .map(|source| call_as(source, "node-2", &entry).expect("it answers"))
        .to_vec();
    assert_ne!(
        later,
        from_outside,
        "of {} clients outside, none was let go after the timeout",
        OUTSIDE.len()
    );

    let mut moved = 0;
    for caller in &callers {
        cluster.kubectl.until(
            &format!("pod/{caller}"),
            "/status/phase",
            "Succeeded",
            LIMIT,
        );
        let phases = said(&cluster, caller);
        let held = &phases["held"];
        assert!(
            held.len() >= 40 && held.iter().all(|who| who == &held[0]),
            "{caller} did not keep its pod: {held:?}"
        );
        moved += usize::from(phases["later"] != [held[0].clone()]);
    }
    assert!(
        moved > 0,
        "of {CALLERS} calling pods, none was let go after the timeout"
    );
}

#[test]
fn a_client_whose_pod_goes_gets_another_one_at_once() {
    let cluster = Cluster::namespace("affinity-gone");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 3),
        manifests::sticky_service("web", 600),
    ]));
    cluster.kubectl.rolled_out("web");
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
    let target = addresses.cluster(80);
    let held = eventually("the Service answers", LIMIT, || {
        hosts::get("node-1", &target)
    });
    for _ in 0..10 {
        assert_eq!(hosts::get("node-1", &target).expect("it answers"), held);
    }
    cluster.kubectl.ok(&["delete", "pod", &held]);
    let other =
        hosts::get("node-1", &target).expect("another pod answers as soon as the first is gone");
    assert_ne!(other, held);
    for _ in 0..10 {
        assert_eq!(hosts::get("node-1", &target).expect("it answers"), other);
    }
}
