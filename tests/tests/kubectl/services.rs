// SPDX-License-Identifier: Apache-2.0
//! Addresses and ports of Services as the API gives, keeps and takes them back.

use std::collections::BTreeSet;
use std::thread;

use knarr_tests::{Cluster, manifests};
use serde_json::json;

#[test]
fn addresses_and_ports_are_given_once_also_to_many_at_a_time() {
    let cluster = Cluster::namespace("allocation");
    let makers: Vec<_> = (0..4)
        .map(|maker| {
            let kubectl = cluster.kubectl.clone();
            thread::spawn(move || {
                let services = (0..10)
                    .map(|number| manifests::echo_service(&format!("s-{maker}-{number}")))
                    .collect();
                kubectl.apply(&manifests::list(services));
            })
        })
        .collect();
    for maker in makers {
        maker.join().expect("a maker does not panic");
    }
    let services = cluster.kubectl.items(&["get", "services"]);
    assert_eq!(services.len(), 40);
    let ips: BTreeSet<String> = services
        .iter()
        .map(|service| service["spec"]["clusterIP"].to_string())
        .collect();
    assert_eq!(ips.len(), 40, "an address was given twice");
    let ports: Vec<u64> = services
        .iter()
        .flat_map(|service| {
            service["spec"]["ports"]
                .as_array()
                .cloned()
                .unwrap_or_default()
        })
        .filter_map(|port| port["nodePort"].as_u64())
        .collect();
    assert_eq!(
        (ports.len(), ports.iter().collect::<BTreeSet<_>>().len()),
        (120, 120),
        "a port was given twice"
    );
    assert!(ports.iter().all(|port| (30000..=32767).contains(port)));
}

#[test]
fn headless_and_changed_services_are_what_they_say() {
    let cluster = Cluster::namespace("kinds");
    let kubectl = &cluster.kubectl;
    let mut headless = manifests::echo_service("headless");
    headless["spec"]["type"] = json!("ClusterIP");
    headless["spec"]["clusterIP"] = json!("None");
    kubectl.apply(&headless);
    assert_eq!(
        kubectl.json(&["get", "service", "headless"])["spec"]["clusterIPs"],
        json!(["None"])
    );
    // ClusterIP to NodePort and back: the address stays, the port comes and goes.
    let mut service = manifests::echo_service("web");
    service["spec"]["type"] = json!("ClusterIP");
    kubectl.apply(&service);
    let before = kubectl.json(&["get", "service", "web"]);
    assert!(before["spec"]["ports"][0]["nodePort"].is_null());
    kubectl.ok(&[
        "patch",
        "service",
        "web",
        "--patch",
        r#"{"spec":{"type":"NodePort"}}"#,
    ]);
    let now = kubectl.json(&["get", "service", "web"]);
    assert_eq!(now["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    assert!(now["spec"]["ports"][0]["nodePort"].is_u64());
    kubectl.ok(&[
        "patch",
        "service",
        "web",
        "--patch",
        r#"{"spec":{"type":"ClusterIP"}}"#,
    ]);
    assert!(kubectl.json(&["get", "service", "web"])["spec"]["ports"][0]["nodePort"].is_null());
}

#[test]
fn defaults_are_kubernetes() {
    let cluster = Cluster::namespace("defaults");
    cluster.kubectl.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"selector": {"x": "y"}, "ports": [{"port": 80}]}}));
    let spec = cluster.kubectl.json(&["get", "service", "a"])["spec"].clone();
    assert_eq!(spec["type"], "ClusterIP");
    assert_eq!(spec["sessionAffinity"], "None");
    assert_eq!(spec["internalTrafficPolicy"], "Cluster");
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(
        spec["ports"],
        json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
    );
    cluster.kubectl.ok(&[
        "patch",
        "service",
        "a",
        "--patch",
        r#"{"spec":{"sessionAffinity":"ClientIP"}}"#,
    ]);
    assert_eq!(
        cluster.kubectl.json(&["get", "service", "a"])["spec"]["sessionAffinityConfig"],
        json!({"clientIP": {"timeoutSeconds": 10800}})
    );
    assert_eq!(
        cluster
            .kubectl
            .ok(&["create", "service", "clusterip", "b", "--tcp=81:82"])
            .trim(),
        "service/b created"
    );
}
