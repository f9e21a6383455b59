// SPDX-License-Identifier: Apache-2.0
//! A host that loses power is replaced; a host that gets it back brings its pods back by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, CLIENT};
use knarr_tests::lab::xtask;
use knarr_tests::load::{self, now_ms};
use knarr_tests::manifests::{self, Addresses};
use knarr_tests::{Cluster, From, Load, Outcome, eventually};
use serde_json::Value;

/// The tiers' grace period and tolerations are seconds, see `xtask/src/test.rs`; a loaded machine gets some more.
const NOTICE_LIMIT: Duration = Duration::from_secs(45);
const REPLACE_LIMIT: Duration = Duration::from_secs(90);
/// So many calls find every one of three pods: by chance one of them is missed in 1 of 60,000 looks, 3 * (2/3)^30.
const CALLS: usize = 30;

fn ready_on(cluster: &Cluster, node: &str) -> usize {
    let pods = cluster.kubectl.items(&[
        "get",
        "pods",
        "--selector",
        "app=web",
        "--field-selector",
        &format!("spec.nodeName={node}"),
    ]);
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .filter(|pod| pod["status"]["containerStatuses"][0]["ready"].as_bool() == Some(true))
        .count()
}

/// Pod uid to its container's id and restart count.
type Containers = BTreeMap<String, (String, u64)>;

fn web_pods(cluster: &Cluster) -> Vec<Value> {
    cluster
        .kubectl
        .items(&["get", "pods", "--selector", "app=web"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn names(cluster: &Cluster) -> BTreeSet<String> {
    let pods = web_pods(cluster);
    pods.iter()
        .map(|pod| text(&pod["metadata"]["name"]))
        .collect()
}

/// What the control plane knows.
fn reported(cluster: &Cluster) -> Containers {
    let pods = web_pods(cluster);
    pods.iter()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            let id = text(&status["containerID"]);
            let id = id.trim_start_matches("knarr://").to_owned();
            let restarts = status["restartCount"].as_u64().unwrap_or(u64::MAX);
            (text(&pod["metadata"]["uid"]), (id, restarts))
        })
        .collect()
}

/// What runs on a node, from its own run state, which is lost with its power: `state.json` of each pod's sandbox.
fn running_on<'a>(
    node: &str,
    uids: impl Iterator<Item = &'a String>,
) -> Result<Containers, String> {
    let mut found = Containers::new();
    for uid in uids {
        let path = format!("/run/knarr/sandboxes/{uid}/state.json");
        let read = hosts::run(node, &["cat", &path]);
        if !read.success {
            return Err(read.stderr);
        }
        let state: Value = serde_json::from_str(&read.stdout).map_err(|e| e.to_string())?;
        let container = &state["snapshot"]["containers"][0];
        if container["phase"]["Running"].is_null() {
            return Err(format!("{uid}: {container}"));
        }
        let attempt = container["attempt"].as_u64().unwrap_or(u64::MAX);
        found.insert(uid.clone(), (text(&container["id"]), attempt));
    }
    Ok(found)
}

/// Makes [`CALLS`] calls, all of which have to be answered, by these pods and by each of them.
fn answered_by(host: &str, target: &str, pods: &BTreeSet<String>) -> Result<(), String> {
    let answers: Result<BTreeSet<String>, String> =
        (0..CALLS).map(|_| hosts::get(host, target)).collect();
    let answers = answers?;
    if answers == *pods {
        Ok(())
    } else {
        Err(format!("only {answers:?} answered {CALLS} calls"))
    }
}

#[test]
fn the_pods_of_a_stopped_host_leave_the_service_and_are_replaced() {
    let _whole = Whole;
    let cluster = Cluster::namespace("host-stop");
    let addresses = cluster.serve(
        &manifests::probed_echo_deployment("web", 4),
        &manifests::echo_service("web"),
    );
    assert!(
        ready_on(&cluster, "node-2") > 0,
        "spread puts pods on both nodes"
    );
    let loads = [
        Load::start("node-1", From::Requests, &addresses.cluster(80)),
        Load::start(CLIENT, From::Requests, &addresses.node("node-1", 80)),
    ];

    faults::stop_host("node-2");
    faults::node_ready(&cluster.kubectl, "node-2", "Unknown", NOTICE_LIMIT);
    // From the moment that the node counts as gone, calls go to the others only; a second for the way to the maps.
    let gone = now_ms() + 1500;
    eventually("four pods are ready on node-1", REPLACE_LIMIT, || {
        let ready = ready_on(&cluster, "node-1");
        if ready == 4 {
            Ok(())
        } else {
            Err(format!("{ready} are"))
        }
    });
    thread::sleep(Duration::from_secs(2));
    for load in loads {
        let what = load.what().to_owned();
        load.stop().assert_unbroken_after(&what, gone);
    }

    faults::start_host("node-2");
    faults::node_ready(&cluster.kubectl, "node-2", "True", NOTICE_LIMIT);
    // What was replaced does not come back, and the old objects go.
    eventually("exactly four pods exist", REPLACE_LIMIT, || {
        let pods = cluster
            .kubectl
            .items(&["get", "pods", "--selector", "app=web"]);
        if pods.len() == 4 {
            Ok(())
        } else {
            Err(format!("{} exist", pods.len()))
        }
    });
    // The node takes pods again, and its Service entries work.
    cluster
        .kubectl
        .ok(&["scale", "deployment/web", "--replicas=8"]);
    cluster.kubectl.rolled_out("web");
    assert!(
        ready_on(&cluster, "node-2") > 0,
        "the node that came back gets no pods"
    );
    eventually("the Service answers on node-2", NOTICE_LIMIT, || {
        hosts::get("node-2", &addresses.cluster(80)).map(drop)
    });
    eventually("the NodePort answers on node-2", NOTICE_LIMIT, || {
        hosts::get(CLIENT, &addresses.node("node-2", 80)).map(drop)
    });
}

#[test]
fn a_host_that_starts_with_the_control_plane_away_brings_its_pods_back_by_itself() {
    let _whole = Whole;
    let cluster = Cluster::namespace("host-alone");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment_on("web", 3, "node-2"),
        manifests::echo_service("web"),
        // What a host's loss must not touch: a Service that is called and served on the other one.
        manifests::echo_deployment_on("stays", 2, "node-1"),
        manifests::echo_service("stays"),
    ]));
    cluster.kubectl.rolled_out("web");
    cluster.kubectl.rolled_out("stays");
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
    let elsewhere = Addresses::of(&cluster.kubectl.json(&["get", "service", "stays"]));
    eventually("the Service answers", NOTICE_LIMIT, || {
        hosts::get("node-2", &addresses.cluster(80)).map(drop)
    });
    let names = names(&cluster);
    let before = reported(&cluster);
    assert_eq!((names.len(), before.len()), (3, 3));
    let loads = [
        Load::start("node-1", From::Requests, &elsewhere.cluster(80)),
        Load::start("node-1", From::KeptTcp, &elsewhere.cluster(81)),
        Load::start(CLIENT, From::Requests, &elsewhere.node("node-1", 80)),
    ];

    let fault = load::around(|| {
        faults::kill_control();
        faults::stop_host("node-2");
        assert!(
            hosts::get(CLIENT, &addresses.node("node-2", 80)).is_err(),
            "a host without power answers"
        );
        faults::start_host("node-2");
        // It has no control plane: what it knows is on its disk.
        let after = eventually(
            "node-2 runs a container for each of its pods with the control plane away",
            REPLACE_LIMIT,
            || running_on("node-2", before.keys()),
        );
        for (uid, (id, restarts)) in &before {
            let (id_after, restarts_after) = &after[uid];
            assert_ne!(id_after, id, "{uid}: a container outlived its host");
            assert_eq!(
                *restarts_after,
                restarts + 1,
                "{uid}: it was to be started once, from what was noted of it"
            );
        }
        for (host, target) in [
            ("node-2", addresses.cluster(80)),
            (CLIENT, addresses.node("node-2", 80)),
            ("node-1", addresses.cluster(80)),
        ] {
            eventually(
                &format!("all of {names:?} answer {host} at {target}, and no call fails"),
                REPLACE_LIMIT,
                || answered_by(host, &target, &names),
            );
        }
        assert!(
            !cluster.kubectl.run(&["get", "--raw", "/readyz"]).success,
            "the control plane was not away, so nothing was shown"
        );

        faults::start_control();
        faults::node_ready(&cluster.kubectl, "node-2", "True", NOTICE_LIMIT);
        // The same pods with the containers that the host started by itself: nothing was replaced or started again.
        eventually(
            "the control plane knows what the host did",
            NOTICE_LIMIT,
            || {
                let reported = reported(&cluster);
                if reported == after {
                    Ok(())
                } else {
                    Err(format!("{reported:?} of {after:?}"))
                }
            },
        );
        cluster.kubectl.rolled_out("web");
    });
    for load in loads {
        let what = load.what().to_owned();
        load.stop().assert_unbroken_around(&what, &fault);
    }
}

#[test]
fn a_host_whose_cable_is_out_is_noticed_and_taken_back() {
    let _whole = Whole;
    let cluster = Cluster::namespace("cable");
    let addresses = cluster.serve(
        &manifests::echo_deployment("web", 2),
        &manifests::echo_service("web"),
    );
    faults::lab(&["node", "node-2", "--unplug"]);
    faults::node_ready(&cluster.kubectl, "node-2", "Unknown", NOTICE_LIMIT);
    faults::lab(&["node", "node-2", "--plug"]);
    faults::node_ready(&cluster.kubectl, "node-2", "True", NOTICE_LIMIT);
    cluster.kubectl.rolled_out("web");
    eventually("the Service answers everywhere", NOTICE_LIMIT, || {
        hosts::get("node-2", &addresses.cluster(80)).map(drop)
    });
}

#[test]
fn a_fault_that_changes_nothing_says_so() {
    let _whole = Whole;
    let node = |fault: &str| faults::lab(&["node", "node-2", fault]);
    for (fault, said) in [
        (
            "--start-host",
            "the host and its agent were running already",
        ),
        ("--plug", "the cable was in already"),
        ("--unplug", "the cable is out"),
        ("--unplug", "the cable was out already"),
        ("--plug", "the cable is in"),
        ("--kill-agent", "the agent was killed"),
        ("--kill-agent", "no agent was running"),
        (
            "--start-host",
            "the host was running already; its agent was started",
        ),
        ("--stop-host", "the host was stopped"),
        ("--stop-host", "the host was stopped already"),
        (
            "--kill-agent",
            "the host is stopped, and no agent was running",
        ),
    ] {
        let output = node(fault);
        assert!(output.contains(said), "{fault}: {output}");
    }
    for fault in ["--plug", "--unplug", "--restart-agent"] {
        let refused = Outcome::of(&mut xtask(&["node", "node-2", fault]), "");
        assert_eq!(refused.code, Some(1), "{fault}: {}", refused.stdout);
        assert!(
            refused.stderr.trim_end().ends_with(
                "node-2 is stopped: start it with `cargo xtask node node-2 --start-host`"
            ),
            "{fault}: {}",
            refused.stderr
        );
    }
    let output = node("--start-host");
    assert!(
        output.contains("the host and its agent were started"),
        "{output}"
    );
    for (fault, said) in [
        ("--start", "the control plane was running already"),
        ("--kill", "the control plane was killed"),
        ("--kill", "no control plane was running"),
        ("--start", "the control plane was started"),
    ] {
        let output = faults::lab(&["control", fault]);
        assert!(output.contains(said), "{fault}: {output}");
    }
    faults::all_ready();
}

/// Far below the minute after which the agent looks at everything though nothing was told.
const TOLD_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn addresses_that_come_and_routes_that_went_with_their_link_are_seen_at_once() {
    /// On the lab's network, and no host's.
    const LATER: &str = "198.18.4.200";
    let cluster = Cluster::namespace("own-network");
    let addresses = cluster.serve(
        &manifests::echo_deployment("web", 2),
        &manifests::echo_service("web"),
    );
    let through = addresses.node("node-1", 80);
    let (_, port) = through.rsplit_once(':').expect("an address and a port");
    let with_len = format!("{LATER}/32");
    hosts::ok(
        "node-1",
        &["ip", "address", "add", &with_len, "dev", "eth0"],
    );
    eventually("the NodePort holds on the new address", TOLD_LIMIT, || {
        hosts::get(CLIENT, &format!("{LATER}:{port}")).map(drop)
    });
    hosts::ok(
        "node-1",
        &["ip", "address", "del", &with_len, "dev", "eth0"],
    );

    // Those to other nodes: routes to pods come and go with the pods of other tests.
    let routes = || {
        let all = hosts::ok("node-1", &["ip", "route", "show", "proto", "107"]);
        let lines = all.lines().filter(|line| line.contains(" via "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = routes();
    assert!(!before.is_empty());
    hosts::ok("node-1", &["ip", "link", "set", "eth0", "down"]);
    hosts::ok("node-1", &["ip", "link", "set", "eth0", "up"]);
    eventually("the routes are there again", TOLD_LIMIT, || {
        let now = routes();
        if now == before {
            Ok(())
        } else {
            Err(format!("{now:?} in place of {before:?}"))
        }
    });
}
