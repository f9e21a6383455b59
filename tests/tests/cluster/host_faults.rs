// SPDX-License-Identifier: Apache-2.0
//! A host that loses power is replaced; a host that gets it back brings its pods back by itself.

use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, CLIENT};
use knarr_tests::load::now_ms;
use knarr_tests::manifests::{self, Addresses};
use knarr_tests::{Cluster, From, Load, eventually};

/// The tiers' grace period and tolerations are seconds, see `xtask/src/test.rs`; a loaded machine gets some more.
const NOTICE_LIMIT: Duration = Duration::from_secs(45);
const REPLACE_LIMIT: Duration = Duration::from_secs(90);

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

#[test]
fn the_pods_of_a_stopped_host_leave_the_service_and_are_replaced() {
    let _whole = Whole;
    let cluster = Cluster::namespace("host-stop");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 4),
        manifests::echo_service("web"),
    ]));
    cluster.kubectl.rolled_out("web");
    assert!(
        ready_on(&cluster, "node-2") > 0,
        "spread puts pods on both nodes"
    );
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
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
    ]));
    cluster.kubectl.rolled_out("web");
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
    eventually("the Service answers", NOTICE_LIMIT, || {
        hosts::get("node-2", &addresses.cluster(80)).map(drop)
    });
    let uids = |cluster: &Cluster| {
        let mut uids: Vec<String> = cluster
            .kubectl
            .items(&["get", "pods", "--selector", "app=web"])
            .iter()
            .map(|pod| pod["metadata"]["uid"].to_string())
            .collect();
        uids.sort();
        uids
    };
    let before = uids(&cluster);

    faults::kill_control();
    faults::stop_host("node-2");
    assert!(
        hosts::get(CLIENT, &addresses.node("node-2", 80)).is_err(),
        "a host without power answers"
    );
    faults::start_host("node-2");
    // Nobody tells it anything: what it knows is on its disk.
    for (host, target) in [
        ("node-2", addresses.cluster(80)),
        (CLIENT, addresses.node("node-2", 80)),
        ("node-1", addresses.cluster(80)),
    ] {
        eventually(
            &format!("{target} answers {host} with the control plane away"),
            REPLACE_LIMIT,
            || hosts::get(host, &target).map(drop),
        );
    }

    faults::start_control();
    faults::node_ready(&cluster.kubectl, "node-2", "True", NOTICE_LIMIT);
    cluster.kubectl.rolled_out("web");
    assert_eq!(uids(&cluster), before, "the pods are the same ones");
}

#[test]
fn a_host_whose_cable_is_out_is_noticed_and_taken_back() {
    let _whole = Whole;
    let cluster = Cluster::namespace("cable");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 2),
        manifests::echo_service("web"),
    ]));
    cluster.kubectl.rolled_out("web");
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
    faults::lab(&["node", "node-2", "--unplug"]);
    faults::node_ready(&cluster.kubectl, "node-2", "Unknown", NOTICE_LIMIT);
    faults::lab(&["node", "node-2", "--plug"]);
    faults::node_ready(&cluster.kubectl, "node-2", "True", NOTICE_LIMIT);
    cluster.kubectl.rolled_out("web");
    eventually("the Service answers everywhere", NOTICE_LIMIT, || {
        hosts::get("node-2", &addresses.cluster(80)).map(drop)
    });
}
