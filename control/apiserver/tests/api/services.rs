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
async fn a_health_check_port_is_a_node_port_of_those_that_need_one() {
    let (server, _directory) = server().await;
    let post =
        async |name: &str, spec: Value| server.send("POST", SERVICES, &service(name, spec)).await;
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    assert_eq!(post("a", node_port).await.code, 201);
    // Who does not need one gets none, so none can be given back that is another's.
    for spec in [
        json!({"type": "ClusterIP", "healthCheckNodePort": 30080}),
        json!({"type": "NodePort", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30080}),
        json!({"type": "LoadBalancer", "healthCheckNodePort": 30080}),
    ] {
        let refused = post("b", spec).await;
        assert_eq!(refused.code, 422, "{}", refused.text());
        assert_eq!(
            refused.message(),
            "Service \"b\" is invalid: spec.healthCheckNodePort: Invalid value: 30080: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        );
    }
    let local = |more: Value| {
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
        json_merge(&mut spec, more);
        spec
    };
    for (port, why) in [
        (30080, "provided port is already allocated"),
        (
            80,
            "provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        (70000, "must be between 1 and 65535, inclusive"),
    ] {
        let refused = post("b", local(json!({"healthCheckNodePort": port}))).await;
        assert_eq!(refused.code, 422, "{}", refused.text());
        assert_eq!(
            refused.message(),
            format!(
                "Service \"b\" is invalid: spec.healthCheckNodePort: Invalid value: {port}: {why}"
            )
        );
    }
    let both = json!({"healthCheckNodePort": 30085, "ports": [{"port": 80, "nodePort": 30085}]});
    let refused = post("b", local(both)).await;
    assert_eq!(
        refused.code,
        422,
        "one port for two things: {}",
        refused.text()
    );

    let named = post("named", local(json!({"healthCheckNodePort": 30090}))).await;
    assert_eq!(named.code, 201, "{}", named.text());
    let given = post("given", local(json!({}))).await.json();
    let number = given["spec"]["healthCheckNodePort"].as_u64().expect("one");
    assert_ne!(given["spec"]["ports"][0]["nodePort"].as_u64(), Some(number));
    let taken = |port: u64| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    for port in [number, 30090] {
        assert_eq!(post("c", taken(port)).await.code, 422, "{port} is taken");
    }
}

#[tokio::test]
async fn a_health_check_port_stays_until_it_is_not_needed_any_more() {
    let (server, _directory) = server().await;
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let made = server
        .send("POST", SERVICES, &service("lb", spec.clone()))
        .await;
    let number = made.json()["spec"]["healthCheckNodePort"].clone();
    let path = format!("{SERVICES}/lb");
    // A client that never read the object sends only what it knows.
    let put = server.send("PUT", &path, &service("lb", spec)).await;
    assert_eq!(put.code, 200, "{}", put.text());
    assert_eq!(put.json()["spec"]["healthCheckNodePort"], number);
    let patch = async |spec: Value| server.patch("merge", &path, &json!({"spec": spec})).await;
    let changed = patch(json!({"healthCheckNodePort": 32000})).await;
    assert_eq!(
        changed.message(),
        "Service \"lb\" is invalid: spec.healthCheckNodePort: Forbidden: field is immutable"
    );
    // Its own node port is none either, although the Service has it already.
    let own = made.json()["spec"]["ports"][0]["nodePort"].clone();
    let without = patch(json!({"externalTrafficPolicy": "Cluster"})).await;
    assert_eq!(without.code, 200, "{}", without.text());
    assert!(without.json()["spec"].get("healthCheckNodePort").is_none());
    let twice = patch(json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": own})).await;
    assert_eq!(twice.code, 422, "{}", twice.text());
    let freed = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]});
    let other = server
        .send("POST", SERVICES, &service("other", freed))
        .await;
    assert_eq!(other.code, 201, "{}", other.text());
    let again = patch(json!({"externalTrafficPolicy": "Local"})).await;
    assert_eq!(again.code, 200, "{}", again.text());
    let second = again.json()["spec"]["healthCheckNodePort"].clone();
    assert!(second.is_number() && second != number, "{second}");
    let plain = patch(json!({"type": "ClusterIP"})).await;
    assert_eq!(plain.code, 200, "{}", plain.text());
    assert!(plain.json()["spec"].get("healthCheckNodePort").is_none());
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
