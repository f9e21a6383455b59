// SPDX-License-Identifier: Apache-2.0
//! Cluster IPs and node ports: given, asked for, refused, given back, and never given twice.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::Server;
use crate::server;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}},
    });
    json_merge(&mut service["spec"], spec);
    service
}

fn json_merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key.as_str()] = value.clone();
    }
}

#[tokio::test]
async fn a_service_gets_an_address_and_a_node_port_and_its_defaults() {
    let (server, _directory) = server().await;
    let sent = service(
        "web",
        json!({"type": "NodePort", "sessionAffinity": "ClientIP"}),
    );
    let made = server.send("POST", SERVICES, &sent).await;
    assert_eq!(made.code, 201, "{}", made.text());
    let made = made.json();
    let ip = made["spec"]["clusterIP"].clone();
    assert!(ip.as_str().is_some_and(|ip| ip.starts_with("10.96.")));
    assert_eq!(
        made["spec"],
        json!({
            "type": "NodePort",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            "selector": {"app": "x"},
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP", "nodePort": 30000}],
        })
    );
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
}

#[tokio::test]
async fn addresses_and_ports_that_are_taken_or_outside_are_refused_as_kubernetes_does() {
    let (server, _directory) = server().await;
    let first = service("a", json!({"clusterIP": "10.96.0.50"}));
    assert_eq!(server.send("POST", SERVICES, &first).await.code, 201);
    let post = async |spec: Value| {
        let answer = server.send("POST", SERVICES, &service("b", spec)).await;
        assert_eq!(answer.code, 422, "{}", answer.text());
        answer.message()
    };
    assert_eq!(
        post(json!({"clusterIP": "10.96.0.50"})).await,
        r#"Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.50"]: failed to allocate IP 10.96.0.50: provided IP is already allocated"#
    );
    assert_eq!(
        post(json!({"clusterIP": "1.2.3.4"})).await,
        r#"Service "b" is invalid: spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided IP (1.2.3.4) is not in the valid range. The range of valid IPs is 10.96.0.0/12"#
    );
    assert_eq!(
        post(json!({"clusterIP": "nonsense"})).await,
        r#"Service "b" is invalid: spec.clusterIPs[0]: Invalid value: "nonsense": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#
    );
    let port =
        |number: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    assert_eq!(
        post(port(80)).await,
        r#"Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"#
    );
    let taken = service("c", port(31000));
    assert_eq!(server.send("POST", SERVICES, &taken).await.code, 201);
    assert_eq!(
        post(port(31000)).await,
        r#"Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 31000: provided port is already allocated"#
    );
    // Nothing that was refused stays reserved, and what is deleted is free again.
    server
        .send("DELETE", &format!("{SERVICES}/c"), &json!({}))
        .await;
    let again = service("b", port(31000));
    assert_eq!(server.send("POST", SERVICES, &again).await.code, 201);
}

#[tokio::test]
async fn what_a_service_was_given_survives_updates_and_changes_of_type() {
    let (server, _directory) = server().await;
    let made = server
        .send(
            "POST",
            SERVICES,
            &service("web", json!({"type": "NodePort"})),
        )
        .await
        .json();
    let web = format!("{SERVICES}/web");
    // A client that never read the object sends only what it knows.
    let put = server
        .send(
            "PUT",
            &web,
            &service(
                "web",
                json!({"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}),
            ),
        )
        .await;
    assert_eq!(put.code, 200, "{}", put.text());
    let put = put.json();
    assert_eq!(put["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(
        put["spec"]["ports"][0]["nodePort"],
        made["spec"]["ports"][0]["nodePort"]
    );
    let moved = server
        .patch(
            "merge",
            &web,
            &json!({"spec": {"clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"]}}),
        )
        .await;
    assert_eq!(moved.code, 422);
    assert!(moved.message().contains("may not change once set"));
    let plain = server
        .patch("merge", &web, &json!({"spec": {"type": "ClusterIP"}}))
        .await;
    assert_eq!(plain.code, 200, "{}", plain.text());
    let plain = plain.json();
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    assert!(plain["spec"].get("externalTrafficPolicy").is_none());
    assert_eq!(plain["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}

#[tokio::test]
async fn headless_external_and_balanced_services_are_stored() {
    let (server, _directory) = server().await;
    let headless = server
        .send(
            "POST",
            SERVICES,
            &service("headless", json!({"clusterIP": "None"})),
        )
        .await
        .json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external = json!({
        "metadata": {"name": "ext"},
        "spec": {"type": "ExternalName", "externalName": "example.com"},
    });
    let external = server.send("POST", SERVICES, &external).await;
    assert_eq!(external.code, 201, "{}", external.text());
    assert!(external.json()["spec"].get("clusterIP").is_none());
    let balanced = server
        .send(
            "POST",
            SERVICES,
            &service("lb", json!({"type": "LoadBalancer"})),
        )
        .await
        .json();
    assert_eq!(balanced["status"], json!({"loadBalancer": {}}));
    assert!(balanced["spec"]["ports"][0]["nodePort"].is_number());
}

#[tokio::test]
async fn a_hundred_creations_at_once_and_a_restart_never_share_an_address() {
    let (server, directory) = server().await;
    let server = Arc::new(server);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let server = Arc::clone(&server);
        tasks.spawn(async move {
            let sent = service(&format!("s{n}"), json!({"type": "NodePort"}));
            server.send("POST", SERVICES, &sent).await
        });
    }
    let mut addresses = HashSet::new();
    let mut ports = HashSet::new();
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.expect("the task ends");
        assert_eq!(answer.code, 201, "{}", answer.text());
        let made = answer.json();
        assert!(addresses.insert(made["spec"]["clusterIP"].to_string()));
        assert!(ports.insert(made["spec"]["ports"][0]["nodePort"].to_string()));
    }
    let server = Arc::into_inner(server).expect("every task has ended");
    server.stop().await;
    let server = Server::start_in(directory.path(), 0).await;
    for n in 0..20 {
        let sent = service(&format!("t{n}"), json!({"type": "NodePort"}));
        let made = server.send("POST", SERVICES, &sent).await.json();
        assert!(addresses.insert(made["spec"]["clusterIP"].to_string()));
        assert!(ports.insert(made["spec"]["ports"][0]["nodePort"].to_string()));
    }
}
