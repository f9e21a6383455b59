// SPDX-License-Identifier: Apache-2.0
//! A Node is cordoned, and deleted while its machine goes on: it joins again with its token, its pods stay, and people are
//! told of all of it.

use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, CLIENT};
use knarr_tests::{Cluster, Kubectl, eventually, manifests};

/// The agent hears of the deletion at once, and joins again within seconds.
const LIMIT: Duration = Duration::from_secs(60);
const NODE: &str = "node-2";

fn uid(kubectl: &Kubectl) -> Result<String, String> {
    let found = kubectl.run(&["get", "node", NODE, "--output", "jsonpath={.metadata.uid}"]);
    match found.code {
        Some(0) => Ok(found.stdout),
        _ => Err(found.stderr),
    }
}

/// Waits for an event with this reason about a Node of this uid; kubelet's events have its name there.
fn told(reason: &str, uid: &str) {
    let selector = format!("involvedObject.kind=Node,involvedObject.uid={uid},reason={reason}");
    let kubectl = Kubectl::new("default");
    eventually(reason, LIMIT, || {
        match kubectl.items(&["get", "events", "--field-selector", &selector]) {
            events if events.is_empty() => Err("no event".to_owned()),
            _ => Ok(()),
        }
    });
}

#[test]
fn a_deleted_node_joins_again_with_its_token_and_keeps_its_pods() {
    let _whole = Whole;
    let cluster = Cluster::namespace("deleted-node");
    let kubectl = &cluster.kubectl;
    let web = cluster.serve(
        &manifests::echo_deployment_on("web", 1, NODE),
        &manifests::echo_service("web"),
    );
    let pod = || -> Vec<serde_json::Value> {
        let pods = kubectl.items(&["get", "pods"]);
        let seen = |pod: &serde_json::Value| {
            serde_json::json!([
                pod["metadata"]["uid"],
                pod["status"]["containerStatuses"][0]["containerID"]
            ])
        };
        pods.iter().map(seen).collect()
    };
    let before = pod();
    let first = uid(kubectl).expect("a Node");
    kubectl.ok(&["cordon", NODE]);
    told("NodeNotSchedulable", NODE);
    kubectl.ok(&["uncordon", NODE]);
    told("NodeSchedulable", NODE);
    kubectl.ok(&["delete", "node", NODE]);
    let mut second = String::new();
    eventually("another Node of the same name", LIMIT, || {
        second = uid(kubectl)?;
        if second == first {
            Err("the same Node".to_owned())
        } else {
            Ok(())
        }
    });
    faults::node_ready(kubectl, NODE, "True", LIMIT);
    told("RemovingNode", &first);
    told("RegisteredNode", &second);
    assert_eq!(
        pod(),
        before,
        "the pod was replaced or its container started again"
    );
    eventually("the Service answers through the node", LIMIT, || {
        hosts::get(CLIENT, &web.node(NODE, 80)).map(drop)
    });
}
