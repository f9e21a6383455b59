// SPDX-License-Identifier: Apache-2.0
//! kill -9 of the control plane: nothing acknowledged is lost, and traffic goes on while it is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{CLIENT, NODES};
use knarr_tests::load;
use knarr_tests::manifests::{self, Addresses};
use knarr_tests::{Cluster, From, Load};

#[test]
fn killing_the_control_plane_loses_nothing_acknowledged_and_no_request() {
    let _whole = Whole;
    let cluster = Cluster::namespace("control-kill");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 4),
        manifests::echo_service("web"),
    ]));
    cluster.kubectl.rolled_out("web");
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
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
    let pods = uids(&cluster);
    let mut loads = Vec::new();
    for node in NODES {
        loads.push(Load::start(node, From::Requests, &addresses.cluster(80)));
        loads.push(Load::start(
            CLIENT,
            From::Requests,
            &addresses.node(node, 80),
        ));
    }
    loads.push(Load::start("node-2", From::KeptTcp, &addresses.cluster(81)));

    let killed = load::around(|| {
        for round in 0..3 {
            // Writers that note what was acknowledged, until the kill cuts them off.
            let stop = Arc::new(AtomicBool::new(false));
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let kubectl = cluster.kubectl.clone();
                    let stop = Arc::clone(&stop);
                    thread::spawn(move || {
                        let mut acknowledged = Vec::new();
                        for number in 0.. {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                            let name = format!("written-{round}-{writer}-{number}");
                            if kubectl
                                .run(&[
                                    "create",
                                    "configmap",
                                    &name,
                                    "--from-literal=number=1",
                                    "--request-timeout=5s",
                                ])
                                .success
                            {
                                acknowledged.push(name);
                            }
                        }
                        acknowledged
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(1500 + 300 * round));
            faults::kill_control();
            thread::sleep(Duration::from_secs(2));
            stop.store(true, Ordering::Relaxed);
            let acknowledged: Vec<String> = writers
                .into_iter()
                .flat_map(|writer| writer.join().expect("a writer does not panic"))
                .collect();
            assert!(
                !acknowledged.is_empty(),
                "nothing was written before the kill, so nothing was shown"
            );
            faults::start_control();
            let listed = cluster
                .kubectl
                .ok(&["get", "configmaps", "--output", "name"]);
            for name in &acknowledged {
                assert!(
                    listed
                        .lines()
                        .any(|line| line == format!("configmap/{name}")),
                    "{name} was acknowledged and is gone; {} were written",
                    acknowledged.len()
                );
            }
        }
    });

    faults::all_ready();
    assert_eq!(
        uids(&cluster),
        pods,
        "pods were replaced although nothing happened to them"
    );
    // And it works: a change is carried out.
    cluster
        .kubectl
        .ok(&["scale", "deployment/web", "--replicas=6"]);
    cluster.kubectl.rolled_out("web");
    for load in loads {
        let what = load.what().to_owned();
        load.stop().assert_unbroken_around(&what, &killed);
    }
}

#[test]
fn a_node_reconnects_and_reports_what_happened_meanwhile() {
    let _whole = Whole;
    let cluster = Cluster::namespace("control-away");
    cluster.kubectl.apply(&manifests::script_pod(
        "ends",
        "node-2",
        "echo started; sleep 4; exit 3",
    ));
    cluster.kubectl.until(
        "pod/ends",
        "/status/phase",
        "Running",
        Duration::from_secs(30),
    );
    faults::kill_control();
    thread::sleep(Duration::from_secs(6));
    faults::start_control();
    cluster.kubectl.until(
        "pod/ends",
        "/status/containerStatuses/0/state/terminated/exitCode",
        "3",
        Duration::from_secs(30),
    );
    assert!(cluster.kubectl.ok(&["logs", "ends"]).contains("started"));
}
