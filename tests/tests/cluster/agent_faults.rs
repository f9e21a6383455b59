// SPDX-License-Identifier: Apache-2.0
//! kill -9 of an agent under load: no request is lost, no container restarts, and the next agent adopts them.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{CLIENT, NODES};
use knarr_tests::load::{self, PodLoad};
use knarr_tests::manifests;
use knarr_tests::{Cluster, From, Load, eventually};

/// The load in a pod runs this long: the kills of the test and what a busy machine needs beside.
const LOAD_SECONDS: u32 = 40;

/// Container id and restart count of every container, by pod.
fn containers(cluster: &Cluster) -> BTreeMap<String, (String, u64)> {
    let pods = cluster
        .kubectl
        .items(&["get", "pods", "--selector", "app=web"]);
    pods.iter()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (
                text(&pod["metadata"]["name"]),
                (
                    text(&status["containerID"]),
                    status["restartCount"].as_u64().unwrap_or(u64::MAX),
                ),
            )
        })
        .collect()
}

#[test]
fn killing_an_agent_loses_no_request_and_restarts_no_container() {
    let _whole = Whole;
    let cluster = Cluster::namespace("agent-kill");
    let addresses = cluster.serve(
        &manifests::probed_echo_deployment("web", 4),
        &manifests::echo_service("web"),
    );
    let before = containers(&cluster);
    assert_eq!(before.len(), 4);

    let mut loads = Vec::new();
    for node in NODES {
        loads.push(Load::start(node, From::Requests, &addresses.cluster(80)));
        loads.push(Load::start(
            CLIENT,
            From::Requests,
            &addresses.node(node, 80),
        ));
    }
    loads.push(Load::start("node-1", From::KeptTcp, &addresses.cluster(81)));
    loads.push(Load::start("node-1", From::KeptUdp, &addresses.cluster(82)));
    loads.push(Load::start(
        CLIENT,
        From::KeptTcp,
        &addresses.node("node-1", 81),
    ));
    let pod = PodLoad::start(
        &cluster.kubectl,
        "load",
        "node-1",
        &addresses.cluster(80),
        LOAD_SECONDS,
    );

    let killed = load::around(|| {
        faults::kill_agent("node-1");
        thread::sleep(Duration::from_secs(4));
        faults::restart_agent("node-1");
        thread::sleep(Duration::from_secs(4));
        // The other way round: a fresh one takes over from one that is running.
        faults::restart_agent("node-1");
        thread::sleep(Duration::from_secs(3));
    });

    for load in loads {
        let what = load.what().to_owned();
        load.stop().assert_unbroken_around(&what, &killed);
    }
    pod.wait()
        .assert_unbroken_around("the load in a pod", &killed);
    assert_eq!(
        containers(&cluster),
        before,
        "containers were restarted or replaced"
    );

    // Adopted, not only left alone: the new agent ends old pods and starts new ones.
    faults::node_ready(&cluster.kubectl, "node-1", "True", Duration::from_secs(30));
    let old = cluster.kubectl.items(&[
        "get",
        "pods",
        "--selector",
        "app=web",
        "--field-selector",
        "spec.nodeName=node-1",
    ]);
    let old = old
        .first()
        .and_then(|pod| pod["metadata"]["name"].as_str())
        .expect("spread puts pods on node-1")
        .to_owned();
    cluster
        .kubectl
        .ok(&["delete", "pod", &old, "--timeout=60s"]);
    cluster.kubectl.rolled_out("web");
}

#[test]
fn what_ends_while_the_agent_is_away_is_known_afterwards() {
    let _whole = Whole;
    let cluster = Cluster::namespace("agent-away");
    cluster.kubectl.apply(&manifests::script_pod(
        "ends",
        "node-1",
        "for i in 1 2 3 4 5 6; do echo line $i; sleep 1; done; exit 7",
    ));
    eventually("the pod runs", Duration::from_secs(30), || {
        let log = cluster.kubectl.run(&["logs", "ends"]).stdout;
        if log.contains("line 1") {
            Ok(())
        } else {
            Err(log)
        }
    });
    faults::kill_agent("node-1");
    thread::sleep(Duration::from_secs(8));
    faults::restart_agent("node-1");
    cluster.kubectl.until(
        "pod/ends",
        "/status/phase",
        "Failed",
        Duration::from_secs(30),
    );
    cluster.kubectl.until(
        "pod/ends",
        "/status/containerStatuses/0/state/terminated/exitCode",
        "7",
        Duration::from_secs(5),
    );
    let log = cluster.kubectl.ok(&["logs", "ends"]);
    assert_eq!(
        log.lines().count(),
        6,
        "the log went on while the agent was away:\n{log}"
    );
}

#[test]
fn endpoints_that_change_while_the_agent_is_away_are_caught_up_with() {
    let _whole = Whole;
    let cluster = Cluster::namespace("agent-catch-up");
    let addresses = cluster.serve(
        &manifests::echo_deployment_on("web", 2, "node-2"),
        &manifests::echo_service("web"),
    );
    let load = Load::start("node-1", From::Requests, &addresses.cluster(80));
    let old: Vec<String> = load.so_far().spread().into_keys().collect();
    let away = load::around(|| {
        faults::kill_agent("node-1");
        cluster
            .kubectl
            .ok(&["scale", "deployment/web", "--replicas=5"]);
        cluster.kubectl.rolled_out("web");
        faults::restart_agent("node-1");
        eventually("new pods answer on node-1", Duration::from_secs(60), || {
            let spread = load.so_far().spread();
            if spread.len() == 5 {
                Ok(())
            } else {
                Err(format!("{old:?} before, now {spread:?}"))
            }
        });
    });
    load.stop()
        .assert_unbroken_around("while the agent was away and after", &away);
}
