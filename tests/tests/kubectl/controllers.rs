// SPDX-License-Identifier: Apache-2.0
//! What follows from what was written: ReplicaSets, pods, endpoints, namespaces and owners.

use std::time::Duration;

use knarr_tests::{Cluster, eventually, manifests};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn a_deployment_keeps_its_number_of_pods() {
    let cluster = Cluster::namespace("replicas");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::echo_deployment("web", 3));
    kubectl.rolled_out("web");
    let pods = kubectl.items(&["get", "pods"]);
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(
        |pod| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
            && pod["metadata"]["labels"]["pod-template-hash"].is_string()
    ));
    let nodes: std::collections::BTreeSet<String> = pods
        .iter()
        .map(|pod| pod["spec"]["nodeName"].to_string())
        .collect();
    assert_eq!(nodes.len(), 2, "pods are spread over the nodes");
    let gone = pods[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    kubectl.ok(&["delete", "pod", &gone, "--wait=false"]);
    eventually("another pod takes its place", LIMIT, || {
        let pods = kubectl.items(&["get", "pods"]);
        let names: Vec<&str> = pods
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        if names.len() == 3 && !names.contains(&gone.as_str()) {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    });
    kubectl.ok(&["scale", "deployment/web", "--replicas=1"]);
    eventually("one is left", LIMIT, || {
        let left = kubectl.items(&["get", "pods"]).len();
        if left == 1 {
            Ok(())
        } else {
            Err(format!("{left} are"))
        }
    });
}

#[test]
fn an_update_makes_a_revision_and_can_be_undone() {
    let cluster = Cluster::namespace("revisions");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::echo_deployment("web", 2));
    kubectl.rolled_out("web");
    kubectl.ok(&["set", "env", "deployment/web", "COLOR=green"]);
    kubectl.rolled_out("web");
    let history = kubectl.ok(&["rollout", "history", "deployment/web"]);
    assert!(
        history
            .lines()
            .filter(|line| line.starts_with(['1', '2']))
            .count()
            == 2,
        "{history}"
    );
    kubectl.ok(&["rollout", "undo", "deployment/web"]);
    kubectl.rolled_out("web");
    assert!(kubectl.json(&["get", "deployment", "web"])["spec"]["template"]["spec"]["containers"][0]["env"].is_null());
    assert_eq!(kubectl.items(&["get", "replicasets"]).len(), 2);
    kubectl.ok(&["rollout", "restart", "deployment/web"]);
    kubectl.rolled_out("web");
    assert_eq!(kubectl.items(&["get", "replicasets"]).len(), 3);
    // Paused: written, and not carried out.
    kubectl.ok(&["rollout", "pause", "deployment/web"]);
    kubectl.ok(&["set", "env", "deployment/web", "COLOR=blue"]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(kubectl.items(&["get", "replicasets"]).len(), 3);
    kubectl.ok(&["rollout", "resume", "deployment/web"]);
    kubectl.rolled_out("web");
    assert_eq!(kubectl.items(&["get", "replicasets"]).len(), 4);
}

#[test]
fn endpoints_follow_ready_pods() {
    let cluster = Cluster::namespace("endpoints");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 2),
        manifests::echo_service("web"),
    ]));
    kubectl.rolled_out("web");
    let ready = || {
        let slices = kubectl.items(&[
            "get",
            "endpointslices",
            "--selector",
            "kubernetes.io/service-name=web",
        ]);
        let mut addresses: Vec<String> = slices
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
            .collect();
        addresses.sort();
        addresses
    };
    let wanted = || {
        let mut ips: Vec<String> = kubectl
            .items(&["get", "pods"])
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
            .collect();
        ips.sort();
        ips
    };
    for replicas in ["2", "4", "1"] {
        kubectl.ok(&["scale", "deployment/web", "--replicas", replicas]);
        kubectl.rolled_out("web");
        eventually(&format!("{replicas} endpoints"), LIMIT, || {
            let (ready, wanted) = (ready(), wanted());
            if ready == wanted && ready.len().to_string() == replicas {
                Ok(())
            } else {
                Err(format!("{ready:?} instead of {wanted:?}"))
            }
        });
    }
    // The older kind says the same.
    eventually(
        "the Endpoints have one address and three ports",
        LIMIT,
        || {
            let endpoints = kubectl.json(&["get", "endpoints", "web"]);
            let subset = &endpoints["subsets"][0];
            let length = |field: &str| subset[field].as_array().map(Vec::len);
            match (length("addresses"), length("ports")) {
                (Some(1), Some(3)) => Ok(()),
                _ => Err(endpoints.to_string()),
            }
        },
    );
    kubectl.ok(&["delete", "service", "web"]);
    eventually("they go with their Service", LIMIT, || {
        let left = kubectl.items(&["get", "endpointslices"]).len()
            + kubectl.items(&["get", "endpoints"]).len();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} are left"))
        }
    });
}

#[test]
fn what_is_owned_goes_with_its_owner_unless_it_is_orphaned() {
    let cluster = Cluster::namespace("owners");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::echo_deployment("web", 1));
    kubectl.rolled_out("web");
    kubectl.ok(&["delete", "deployment", "web", "--cascade=orphan"]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        (
            kubectl.items(&["get", "replicasets"]).len(),
            kubectl.items(&["get", "pods"]).len()
        ),
        (1, 1)
    );
    // The next Deployment with that selector takes them in.
    let uid = kubectl.items(&["get", "pods"])[0]["metadata"]["uid"].clone();
    kubectl.apply(&manifests::echo_deployment("web", 1));
    kubectl.rolled_out("web");
    assert_eq!(kubectl.items(&["get", "pods"])[0]["metadata"]["uid"], uid);
    kubectl.ok(&[
        "delete",
        "deployment",
        "web",
        "--cascade=foreground",
        "--timeout=60s",
    ]);
    assert!(
        kubectl.items(&["get", "replicasets"]).is_empty()
            && kubectl.items(&["get", "pods"]).is_empty(),
        "foreground means: those first"
    );
    // By hand: an owner that is gone takes its objects with it.
    kubectl.ok(&["create", "configmap", "owner"]);
    let owner = kubectl.json(&["get", "configmap", "owner"])["metadata"]["uid"].clone();
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "owned", "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner}]}}));
    kubectl.ok(&["delete", "configmap", "owner"]);
    kubectl.ok(&["wait", "--for=delete", "secret/owned", "--timeout=30s"]);
}

#[test]
fn a_namespace_takes_everything_in_it_along() {
    let cluster = Cluster::namespace("namespace");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 2),
        manifests::echo_service("web"),
    ]));
    kubectl.ok(&["create", "configmap", "a"]);
    // It holds the namespace, so that what is asked of a namespace on its way out finds one.
    kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["tests.knarr.dev/hold"]},
    }));
    kubectl.rolled_out("web");
    let ip = kubectl.json(&["get", "service", "web"])["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    kubectl.ok(&["delete", "namespace", &cluster.namespace, "--wait=false"]);
    let said = kubectl.refused(&["create", "configmap", "late"], "");
    let wanted = format!(
        "configmaps \"late\" is forbidden: unable to create new content in namespace {} because it is being terminated",
        cluster.namespace
    );
    assert!(said.contains(&wanted), "{said}");
    kubectl.ok(&[
        "wait",
        "--for=delete",
        "configmap/a",
        "deployment/web",
        "--timeout=60s",
    ]);
    assert_eq!(
        kubectl.json(&["get", "configmap", "held"])["metadata"]["finalizers"],
        json!(["tests.knarr.dev/hold"]),
        "a finalizer was passed over"
    );
    assert_eq!(
        kubectl.json(&["get", "namespace", &cluster.namespace])["status"]["phase"],
        "Terminating"
    );
    kubectl.let_go("configmap", "held");
    kubectl.ok(&[
        "wait",
        "--for=delete",
        &format!("namespace/{}", cluster.namespace),
        "--timeout=90s",
    ]);
    for kind in [
        "configmaps",
        "pods",
        "services",
        "deployments",
        "replicasets",
        "endpointslices",
    ] {
        let left: Vec<_> = kubectl.items(&["get", kind]);
        assert!(left.is_empty(), "{kind} are left: {left:?}");
    }
    // Its addresses are free again.
    let other = Cluster::namespace("after");
    let mut service = manifests::echo_service("web");
    service["spec"]["clusterIP"] = json!(ip);
    other.kubectl.apply(&service);
}

#[test]
fn every_namespace_has_a_service_account_and_the_cluster_its_namespaces() {
    let cluster = Cluster::namespace("defaults");
    cluster
        .kubectl
        .until("serviceaccount/default", "/metadata/name", "default", LIMIT);
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        cluster.kubectl.until(
            &format!("namespace/{namespace}"),
            "/status/phase",
            "Active",
            LIMIT,
        );
    }
    let kubernetes =
        cluster
            .kubectl
            .json(&["get", "service", "kubernetes", "--namespace", "default"]);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
}
