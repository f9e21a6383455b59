// SPDX-License-Identifier: Apache-2.0
//! A Deployment is updated under load, and no request fails.

use std::time::Duration;

use knarr_tests::hosts::CLIENT;
use knarr_tests::load::{self, PodLoad};
use knarr_tests::manifests;
use knarr_tests::{Cluster, From, Load, stays};
use serde_json::json;

/// The load in a pod runs this long: two updates of four pods and what a busy machine needs beside.
const LOAD_SECONDS: u32 = 60;
/// For so long an update that cannot work is looked at.
const WATCHED: Duration = Duration::from_secs(5);

#[test]
fn a_rolling_update_fails_no_request_from_a_pod_a_node_or_outside() {
    let cluster = Cluster::namespace("rolling");
    let mut deployment = manifests::probed_echo_deployment("web", 4);
    deployment["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let addresses = cluster.serve(&deployment, &manifests::echo_service("web"));
    let loads = [
        Load::start("node-1", From::Requests, &addresses.cluster(80)),
        Load::start(CLIENT, From::Requests, &addresses.node("node-1", 80)),
        Load::start(CLIENT, From::Requests, &addresses.node("node-2", 80)),
    ];
    let pod = PodLoad::start(
        &cluster.kubectl,
        "load",
        "node-2",
        &addresses.cluster(80),
        LOAD_SECONDS,
    );
    let before: Vec<String> = loads[0].so_far().spread().into_keys().collect();

    deployment["spec"]["template"]["metadata"]["annotations"] = json!({"version": "2"});
    let updated = load::around(|| {
        cluster.kubectl.apply(&deployment);
        cluster.kubectl.rolled_out("web");
        // And back again.
        cluster.kubectl.ok(&["rollout", "undo", "deployment/web"]);
        cluster.kubectl.rolled_out("web");
    });

    let sets = cluster.kubectl.items(&["get", "replicasets"]);
    assert_eq!(
        sets.len(),
        2,
        "an update makes one ReplicaSet, and going back takes the first one"
    );
    for load in loads {
        let what = load.what().to_owned();
        let report = load.stop();
        report.assert_unbroken_around(&what, &updated);
        assert!(
            report.spread().keys().any(|pod| !before.contains(pod)),
            "{what}: only old pods answered, so no update was shown"
        );
    }
    pod.wait()
        .assert_unbroken_around("the load in a pod", &updated);
}

#[test]
fn an_update_to_an_image_that_does_not_exist_stops_and_the_old_pods_go_on() {
    let cluster = Cluster::namespace("bad-update");
    let mut deployment = manifests::echo_deployment("web", 3);
    let addresses = cluster.serve(&deployment, &manifests::echo_service("web"));
    let load = Load::start("node-1", From::Requests, &addresses.cluster(80));
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] =
        json!("localhost/nothing:dev");
    let stuck = load::around(|| {
        cluster.kubectl.apply(&deployment);
        let outcome = cluster
            .kubectl
            .run(&["rollout", "status", "deployment/web", "--timeout=5s"]);
        assert!(
            !outcome.success,
            "an update that cannot work was reported as done"
        );
        // maxUnavailable is 25 % of three, rounded down: none may be away, however long the update hangs.
        stays("three old pods are available", WATCHED, || {
            let available = cluster.kubectl.ok(&[
                "get",
                "deployment",
                "web",
                "--output",
                "jsonpath={.status.availableReplicas} {.status.readyReplicas}",
            ]);
            if available == "3 3" {
                Ok(())
            } else {
                Err(available)
            }
        });
    });
    load.stop()
        .assert_unbroken_around("during a broken update", &stuck);
}
