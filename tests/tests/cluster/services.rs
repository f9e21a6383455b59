// SPDX-License-Identifier: Apache-2.0
//! A Service from everywhere: pods, nodes and outside; ClusterIP and NodePort; TCP and UDP.

use std::thread;
use std::time::Duration;

use knarr_tests::hosts::{self, CLIENT, NODES};
use knarr_tests::load::{PodLoad, Report};
use knarr_tests::manifests::{self, Addresses};
use knarr_tests::{Cluster, eventually};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);
/// A refusal is an answer; a caller that waits longer than this waits for a timeout.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Three pods behind a NodePort Service, reachable.
fn web(cluster: &Cluster, deployment: &serde_json::Value) -> Addresses {
    let addresses = cluster.serve(deployment, &manifests::echo_service("web"));
    let replicas = deployment["spec"]["replicas"].as_u64().expect("a number");
    let name = format!("{}/web", cluster.namespace);
    hosts::knows_endpoints(&name, replicas as usize, LIMIT);
    addresses
}

fn calls(host: &str, target: &str, seconds: &str) -> Report {
    let outcome = hosts::run(
        host,
        &[
            "knarr-echo",
            "client",
            "load",
            target,
            "--rate",
            "50",
            "--seconds",
            seconds,
        ],
    );
    Report::parse(&outcome.stdout)
}

/// Every call, the first among them, was refused and waited for nothing.
fn assert_refused(what: &str, report: &Report, calls_min: usize) {
    assert!(report.calls.len() >= calls_min, "{what}: {report:?}");
    for call in &report.calls {
        let reason = call.outcome.as_ref().expect_err("no pod is there");
        assert!(reason.contains("refused"), "{what}: {call:?}");
        assert!(
            u128::from(call.micros) < AT_ONCE.as_micros(),
            "{what}: {call:?}"
        );
    }
}

fn pod_names(cluster: &Cluster) -> Vec<String> {
    let pods = cluster
        .kubectl
        .items(&["get", "pods", "--selector", "app=web"]);
    let mut names: Vec<String> = pods
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}

#[test]
fn a_cluster_ip_is_answered_by_every_pod_evenly_from_nodes_and_pods() {
    let cluster = Cluster::namespace("cluster-ip");
    let addresses = web(&cluster, &manifests::echo_deployment("web", 3));
    let pods = pod_names(&cluster);
    for node in NODES {
        let report = calls(node, &addresses.cluster(80), "2");
        report.assert_unbroken(node, 40);
        let spread = report.spread();
        assert_eq!(
            spread.keys().cloned().collect::<Vec<_>>(),
            pods,
            "each pod has to answer on {node}"
        );
        let (least, most) = (
            spread.values().min().expect("three"),
            spread.values().max().expect("three"),
        );
        assert!(
            most - least <= spread.values().sum::<usize>() / 4,
            "uneven on {node}: {spread:?}"
        );

        let name = format!("from-{node}");
        cluster
            .kubectl
            .apply(&manifests::load_pod(&name, node, &addresses.cluster(80), 2));
        cluster
            .kubectl
            .until(&format!("pod/{name}"), "/status/phase", "Succeeded", LIMIT);
        let report = Report::parse(&cluster.kubectl.ok(&["logs", &name]));
        report.assert_unbroken(&name, 40);
        assert_eq!(
            report.spread().keys().cloned().collect::<Vec<_>>(),
            pods,
            "each pod has to answer a pod on {node}"
        );
    }
}

#[test]
fn a_node_port_is_answered_from_outside_through_any_node_wherever_the_pods_are() {
    let cluster = Cluster::namespace("node-port");
    // Only node-1 runs pods: through node-1 it is the node's own, through node-2 the other's.
    let addresses = web(&cluster, &manifests::echo_deployment_on("web", 3, "node-1"));
    for entry in NODES {
        let target = addresses.node(entry, 80);
        eventually("the NodePort answers", LIMIT, || {
            hosts::get(CLIENT, &target).map(drop)
        });
        let report = calls(CLIENT, &target, "3");
        report.assert_unbroken(&format!("through {entry}"), 100);
        assert_eq!(
            report.spread().len(),
            3,
            "through {entry}: {:?}",
            report.spread()
        );
        // From inside: the own node, the other node.
        for from in NODES {
            calls(from, &target, "1").assert_unbroken(&format!("from {from} through {entry}"), 15);
        }
        let pod = format!("call-{entry}");
        cluster
            .kubectl
            .apply(&manifests::load_pod(&pod, "node-2", &target, 1));
        cluster
            .kubectl
            .until(&format!("pod/{pod}"), "/status/phase", "Succeeded", LIMIT);
    }
}

#[test]
fn tcp_streams_and_udp_work_on_both_kinds_of_address() {
    let cluster = Cluster::namespace("tcp-udp");
    let addresses = web(&cluster, &manifests::echo_deployment("web", 2));
    for (protocol, port) in [("tcp", 81), ("udp", 82)] {
        for (host, target) in [
            ("node-1", addresses.cluster(port)),
            ("node-2", addresses.cluster(port)),
            ("node-1", addresses.node("node-2", port)),
            (CLIENT, addresses.node("node-1", port)),
            (CLIENT, addresses.node("node-2", port)),
        ] {
            let what = format!("{protocol} from {host} to {target}");
            let outcome = hosts::run(
                host,
                &["knarr-echo", "client", protocol, &target, "--seconds", "1"],
            );
            assert!(
                outcome.success,
                "{what}: {}{}",
                outcome.stdout, outcome.stderr
            );
            let report = Report::parse(&outcome.stdout);
            report.assert_unbroken(&what, 20);
            assert_eq!(
                report.spread().len(),
                1,
                "{what}: one socket has one backend"
            );
            // getpeername shows what was called.
            assert!(
                outcome.stdout.contains(&format!("peer {target}")),
                "{what}: the client sees another peer:\n{}",
                outcome.stdout.lines().next().unwrap_or_default()
            );
        }
    }
}

#[test]
fn a_client_outside_keeps_its_connection_while_other_pods_come_and_go() {
    let cluster = Cluster::namespace("flows");
    let addresses = web(&cluster, &manifests::echo_deployment("web", 2));
    let target = addresses.node("node-2", 81);
    let load = knarr_tests::Load::start(CLIENT, knarr_tests::From::KeptTcp, &target);
    cluster
        .kubectl
        .ok(&["scale", "deployment/web", "--replicas=6"]);
    cluster.kubectl.rolled_out("web");
    // Of pods of about the same age any may go.
    let kept = load.so_far().spread();
    let kept = kept.keys().next().expect("it has answers");
    cluster.kubectl.ok(&[
        "annotate",
        "pod",
        kept,
        "controller.kubernetes.io/pod-deletion-cost=100",
    ]);
    cluster
        .kubectl
        .ok(&["scale", "deployment/web", "--replicas=4"]);
    thread::sleep(Duration::from_secs(1));
    let report = load.stop();
    report.assert_unbroken("a kept connection", 20);
    assert_eq!(report.spread().len(), 1);
}

#[test]
fn a_service_without_pods_refuses_at_once() {
    let cluster = Cluster::namespace("refuse");
    let addresses = web(&cluster, &manifests::echo_deployment("web", 1));
    cluster
        .kubectl
        .ok(&["scale", "deployment/web", "--replicas=0"]);
    hosts::knows_endpoints(&format!("{}/web", cluster.namespace), 0, LIMIT);
    // From now on the first call of every caller is refused.
    for (host, target) in [
        ("node-1", addresses.cluster(80)),
        ("node-2", addresses.node("node-1", 80)),
        (CLIENT, addresses.node("node-1", 80)),
        (CLIENT, addresses.node("node-2", 80)),
    ] {
        let report = calls(host, &target, "0.1");
        assert_refused(&format!("{host}, {target}"), &report, 1);
    }
    for (pod, target) in [
        ("by-cluster-ip", addresses.cluster(80)),
        ("by-node-port", addresses.node("node-1", 80)),
    ] {
        let report = PodLoad::start(&cluster.kubectl, pod, "node-2", &target, 1).wait();
        assert_refused(pod, &report, 10);
    }
    // Pods come back, and so do answers.
    cluster
        .kubectl
        .ok(&["scale", "deployment/web", "--replicas=2"]);
    cluster.kubectl.rolled_out("web");
    for (host, target) in [
        ("node-1", addresses.cluster(80)),
        (CLIENT, addresses.node("node-2", 80)),
    ] {
        eventually("it answers again", LIMIT, || {
            hosts::get(host, &target).map(drop)
        });
    }
}

#[test]
fn one_port_number_may_carry_two_protocols() {
    let cluster = Cluster::namespace("two-protocols");
    let mut service = manifests::echo_service("web");
    service["spec"]["ports"] = json!([
        {"name": "tcp", "port": 53, "targetPort": "tcp"},
        {"name": "udp", "port": 53, "targetPort": "udp", "protocol": "UDP"},
    ]);
    let addresses = cluster.serve(&manifests::echo_deployment("web", 1), &service);
    for protocol in ["tcp", "udp"] {
        eventually(protocol, LIMIT, || {
            let outcome = hosts::run(
                "node-1",
                &[
                    "knarr-echo",
                    "client",
                    protocol,
                    &addresses.cluster(53),
                    "--seconds",
                    "0.1",
                ],
            );
            if outcome.success {
                Ok(())
            } else {
                Err(outcome.stderr)
            }
        });
    }
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    let cluster = Cluster::namespace("hairpin");
    let mut pod = manifests::script_pod("self", "node-1", "");
    pod["metadata"]["labels"] = json!({"app": "self"});
    let mut service = manifests::echo_service("self");
    service["spec"]["ports"] = json!([{"name": "nc", "port": 90, "targetPort": 8080}]);
    cluster.kubectl.apply(&service);
    let own = Addresses::of(&cluster.kubectl.json(&["get", "service", "self"]));
    let script = format!(
        "nc -ll -p 8080 -e echo self & for i in $(seq 100); do nc -w 1 {} 90 </dev/null | grep -q self && echo reached && exit 0; sleep 0.2; done; exit 1",
        own.cluster_ip
    );
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    cluster.kubectl.apply(&pod);
    cluster
        .kubectl
        .until("pod/self", "/status/phase", "Succeeded", LIMIT);
    assert!(cluster.kubectl.ok(&["logs", "self"]).contains("reached"));
}

#[test]
fn a_changed_target_port_is_followed() {
    let cluster = Cluster::namespace("target-port");
    let mut service = manifests::echo_service("web");
    service["spec"]["ports"] = json!([{"name": "x", "port": 80, "targetPort": 8079}]);
    let addresses = cluster.serve(&manifests::echo_deployment("web", 2), &service);
    // Nothing listens there.
    eventually("the pod refuses", LIMIT, || {
        match hosts::get("node-1", &addresses.cluster(80)) {
            Err(reason) if reason.contains("refused") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    service["spec"]["ports"] = json!([{"name": "x", "port": 80, "targetPort": 8080}]);
    cluster.kubectl.apply(&service);
    eventually("the new port answers", LIMIT, || {
        hosts::get("node-1", &addresses.cluster(80)).map(drop)
    });
    // The address of a deleted Service belongs to no Service.
    cluster.kubectl.ok(&["delete", "service", "web"]);
    eventually("the address is gone", LIMIT, || {
        match hosts::get("node-1", &addresses.cluster(80)) {
            Err(_) => Ok(()),
            Ok(who) => Err(who),
        }
    });
}

#[test]
fn no_iptables_or_nftables_rule_exists_on_a_node_or_in_a_pod() {
    let cluster = Cluster::namespace("no-rules");
    let deployments = NODES.map(|node| {
        let mut deployment = manifests::echo_deployment_on(&format!("web-{node}"), 1, node);
        deployment["spec"]["selector"]["matchLabels"]["app"] = json!("web");
        deployment["spec"]["template"]["metadata"]["labels"]["app"] = json!("web");
        deployment["spec"]["selector"]["matchLabels"]["node"] = json!(node);
        deployment["spec"]["template"]["metadata"]["labels"]["node"] = json!(node);
        deployment
    });
    cluster
        .kubectl
        .apply(&manifests::list(deployments.to_vec()));
    cluster.kubectl.apply(&manifests::echo_service("web"));
    for node in NODES {
        cluster.kubectl.rolled_out(&format!("web-{node}"));
    }
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "web"]));
    for node in NODES {
        // Every kind of traffic has passed before anybody looks.
        for (host, target) in [
            (node, addresses.cluster(80)),
            (CLIENT, addresses.node(node, 80)),
        ] {
            eventually("the Service answers", LIMIT, || {
                hosts::get(host, &target).map(drop)
            });
        }
        let own = hosts::ok(node, &["readlink", "/proc/1/ns/net"]);
        let listed = hosts::ok(
            node,
            &[
                "lsns",
                "--noheadings",
                "--raw",
                "--type",
                "net",
                "--output",
                "NS,PID",
            ],
        );
        let namespaces: Vec<(&str, &str)> = listed
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        let pods = namespaces
            .iter()
            .filter(|(inode, _)| !own.contains(*inode))
            .count();
        assert!(
            pods >= 1 && pods + 1 == namespaces.len(),
            "the node's own namespace {} and at least one pod's: {namespaces:?}",
            own.trim()
        );
        let mut seen = 0;
        for (_, pid) in namespaces {
            let namespace = format!("/proc/{pid}/ns/net");
            let inside = format!("--net={namespace}");
            let list = |command: &[&str]| {
                let outcome = hosts::run(node, &[&["nsenter", &inside], command].concat());
                // A pod of another test may go meanwhile.
                let gone = || !hosts::run(node, &["test", "-e", &namespace]).success;
                assert!(
                    outcome.success || gone(),
                    "{command:?} for process {pid} on {node}: {}",
                    outcome.stderr
                );
                outcome.success.then_some(outcome.stdout)
            };
            let Some(nft) = list(&["nft", "list", "ruleset"]) else {
                continue;
            };
            assert_eq!(nft.trim(), "", "nftables rules of process {pid} on {node}");
            for save in ["iptables-legacy-save", "ip6tables-legacy-save"] {
                let rules = list(&[save]).unwrap_or_default();
                assert!(
                    !rules.lines().any(|line| line.starts_with("-A")),
                    "iptables rules of process {pid} on {node}:\n{rules}"
                );
            }
            seen += 1;
        }
        assert!(
            seen >= 2,
            "only {seen} namespaces could be looked into on {node}"
        );
    }
}

/// Longer than the agent keeps what it has given up.
const SWEPT: &str = "9";

#[test]
fn a_service_serves_on_after_its_policy_or_its_node_port_went_there_and_back() {
    let cluster = Cluster::namespace("there-and-back");
    let mut inside = manifests::echo_service("web");
    inside["spec"]["type"] = json!("ClusterIP");
    let addresses = cluster.serve(&manifests::echo_deployment("web", 3), &inside);
    // NodePorts use all backends, whatever the ClusterIP's policy is.
    let mut ports = manifests::echo_service("ports");
    ports["spec"]["selector"] = json!({"app": "web"});
    ports["spec"]["internalTrafficPolicy"] = json!("Local");
    cluster.kubectl.apply(&ports);
    hosts::knows_endpoints(&format!("{}/web", cluster.namespace), 3, LIMIT);
    let patch = |name: &str, spec: serde_json::Value| {
        let patch = json!({"spec": spec}).to_string();
        cluster
            .kubectl
            .ok(&["patch", "service", name, "--type=merge", "--patch", &patch]);
        thread::sleep(Duration::from_secs(1));
    };
    patch("web", json!({"internalTrafficPolicy": "Local"}));
    patch("web", json!({"internalTrafficPolicy": "Cluster"}));
    patch("ports", json!({"type": "ClusterIP"}));
    patch("ports", json!({"type": "NodePort"}));
    let ports = Addresses::of(&cluster.kubectl.json(&["get", "service", "ports"]));
    let (on_node, on_port) = (addresses.cluster(80), ports.node("node-2", 80));
    let (one, two) = thread::scope(|scope| {
        let one = scope.spawn(|| calls("node-1", &on_node, SWEPT));
        let two = scope.spawn(|| calls("node-2", &on_port, SWEPT));
        (one.join().expect("calls"), two.join().expect("calls"))
    });
    one.assert_unbroken("node-1 to the ClusterIP", 200);
    two.assert_unbroken("node-2 to the NodePort", 200);
    for node in NODES {
        let said = hosts::ok(node, &["knarr-agent", "datapath", "check"]);
        assert!(said.contains("Nothing is missing."), "{node}: {said}");
    }
}
