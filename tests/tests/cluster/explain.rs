// SPDX-License-Identifier: Apache-2.0
//! `knarr-agent service ls|get|trace`: what the maps are said to do is what then happens.

use std::time::Duration;

use knarr_tests::hosts::{self, CLIENT};
use knarr_tests::manifests::{self, Addresses};
use knarr_tests::{Cluster, Outcome, eventually};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
/// With so many pods a trace that only guesses is right for all callers once in hundreds of runs.
const REPLICAS: usize = 5;
/// Source addresses of the host outside, each a client of its own.
const OUTSIDE: [&str; 3] = ["198.18.4.1", "198.18.4.2", "198.18.4.3"];
/// Pods that call when they are asked to.
const CALLERS: [&str; 2] = ["caller-a", "caller-b"];
/// Where a calling pod is asked.
const ASK_PORT: u16 = 9000;

fn service(args: &[&str]) -> Outcome {
    let mut all = vec!["knarr-agent", "service"];
    all.extend_from_slice(args);
    hosts::run("node-1", &all)
}

fn said(args: &[&str]) -> String {
    let outcome = service(args);
    assert!(
        outcome.success,
        "service {}: {}{}",
        args.join(" "),
        outcome.stdout,
        outcome.stderr
    );
    outcome.stdout
}

/// What a wrong question is answered with.
fn refused(args: &[&str]) -> String {
    let outcome = service(args);
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (Some(1), ""),
        "service {}: {}",
        args.join(" "),
        outcome.stderr
    );
    outcome.stderr
}

/// The one pod, by its name alone, that a trace says the client gets.
fn named(trace: &str, namespace: &str) -> String {
    // The last choice that the story tells: kept by the map, or made by the hash.
    let step = trace
        .lines()
        .find(|line| line.contains("AFFINITY["))
        .unwrap_or_else(|| panic!("no step about affinity in:\n{trace}"));
    let (_, pod) = step
        .rsplit_once(&format!(" {namespace}/"))
        .unwrap_or_else(|| panic!("no pod is named in: {step}"));
    pod.split_whitespace().next().unwrap_or_default().to_owned()
}

/// One call from outside with this source address, through node-1.
fn call_as(source: &str, target: &str) -> String {
    let route = format!("{}/32", hosts::address("node-1"));
    let address = format!("{source}/32");
    hosts::ok(
        CLIENT,
        &["ip", "address", "replace", &address, "dev", "eth0"],
    );
    hosts::ok(
        CLIENT,
        &[
            "ip", "route", "replace", &route, "dev", "eth0", "src", source,
        ],
    );
    let answer = hosts::get(CLIENT, target);
    hosts::ok(CLIENT, &["ip", "route", "delete", &route, "dev", "eth0"]);
    hosts::ok(
        CLIENT,
        &["ip", "address", "delete", &address, "dev", "eth0"],
    );
    answer.expect("the NodePort answers")
}

/// Asks a calling pod to call now, and says who answered it.
fn call_from(pod_ip: &str) -> String {
    let read = format!("exec 3<>/dev/tcp/{pod_ip}/{ASK_PORT} && cat <&3");
    eventually("the calling pod has been answered", LIMIT, || {
        let outcome = hosts::run("node-1", &["timeout", "10", "bash", "-c", &read]);
        let who = outcome.stdout.trim().to_owned();
        if outcome.success && !who.is_empty() {
            Ok(who)
        } else {
            Err(outcome.stderr)
        }
    })
}

#[test]
fn the_pod_that_trace_names_is_the_one_that_answers() {
    let cluster = Cluster::namespace("trace");
    let namespace = cluster.namespace.as_str();
    let addresses = cluster.serve(
        &manifests::echo_deployment("web", REPLICAS),
        &manifests::sticky_service("web", 600),
    );
    let target = addresses.cluster(80);
    for caller in CALLERS {
        let call = format!("nc -ll -p {ASK_PORT} -e wget -qO- http://{target}/");
        cluster
            .kubectl
            .apply(&manifests::script_pod(caller, "node-1", &call));
    }
    let name = format!("{namespace}/web:80");
    eventually("node-1 knows all pods", LIMIT, || {
        let trace = said(&["trace", &name]);
        if trace.contains(&format!("{REPLICAS} ready")) {
            Ok(())
        } else {
            Err(trace)
        }
    });

    for caller in CALLERS {
        cluster
            .kubectl
            .until(&format!("pod/{caller}"), "/status/phase", "Running", LIMIT);
        let ip =
            cluster
                .kubectl
                .ok(&["get", "pod", caller, "--output", "jsonpath={.status.podIP}"]);
        let from = format!("{namespace}/{caller}");
        let before = said(&["trace", &name, "--from", &from]);
        assert!(before.contains("has no entry"), "{before}");
        let answered = call_from(&ip);
        assert_eq!(named(&before, namespace), answered, "{caller}: {before}");
        // And it says the same of what it remembers, by the pod's name and by its address.
        for from in [&from, &ip] {
            let after = said(&["trace", &name, "--from", from]);
            assert!(after.contains("remembers backend"), "{after}");
            assert_eq!(named(&after, namespace), answered, "{caller}: {after}");
        }
        assert_eq!(call_from(&ip), answered);
    }

    let before = said(&["trace", &name]);
    let answered = hosts::get("node-1", &target).expect("the Service answers");
    assert_eq!(named(&before, namespace), answered, "the node: {before}");

    for source in OUTSIDE {
        let before = said(&["trace", &name, "--from-outside", source]);
        assert!(before.contains("has no entry"), "{before}");
        let answered = call_as(source, &addresses.node("node-1", 80));
        assert_eq!(named(&before, namespace), answered, "{source}: {before}");
        let after = said(&["trace", &name, "--from-outside", source]);
        assert!(after.contains("remembers backend"), "{after}");
        assert_eq!(named(&after, namespace), answered, "{source}: {after}");
    }
}

#[test]
fn the_maps_are_explained_by_ls_get_and_trace() {
    let cluster = Cluster::namespace("explain");
    let addresses = cluster.serve(
        &manifests::echo_deployment("web", 2),
        &manifests::echo_service("web"),
    );
    let name = format!("{}/web", cluster.namespace);
    let port = format!("{name}:80");
    eventually("node-1 knows both pods", LIMIT, || {
        let trace = service(&["trace", &port]);
        if trace.stdout.contains("2 ready and 0 terminating") {
            Ok(())
        } else {
            Err(trace.stdout + &trace.stderr)
        }
    });
    let listed = said(&["ls"]);
    let line = listed
        .lines()
        .find(|line| line.contains(&name) && line.contains(&addresses.cluster(80)))
        .unwrap_or_else(|| panic!("no line for {name} at {}:\n{listed}", addresses.cluster(80)));
    assert!(line.contains("TCP"), "{line}");

    let pods = cluster
        .kubectl
        .items(&["get", "pods", "--selector", "app=web"]);
    let backends: Vec<String> = pods
        .iter()
        .map(|pod| {
            let text = |pointer: &str| {
                let value = pod.pointer(pointer).and_then(serde_json::Value::as_str);
                value.expect("a pod that runs has it").to_owned()
            };
            format!(
                "{}/{} at {}:8080",
                cluster.namespace,
                text("/metadata/name"),
                text("/status/podIP")
            )
        })
        .collect();
    let got = said(&["get", &name]);
    let traced = said(&["trace", &port]);
    let outside = said(&["trace", &port, "--from-outside", "198.18.0.20"]);
    for (what, text) in [
        ("get", &got),
        ("trace", &traced),
        ("trace from outside", &outside),
    ] {
        assert!(
            backends.iter().all(|backend| text.contains(backend)),
            "`service {what}` does not name the backends {backends:?}:\n{text}"
        );
    }
    assert!(traced.contains("knarr_connect4"), "{traced}");
    assert!(outside.contains("knarr_ingress"), "{outside}");
}

#[test]
fn a_service_without_endpoints_is_traced_to_its_refusal() {
    let cluster = Cluster::namespace("trace-empty");
    let mut empty = manifests::echo_service("empty");
    empty["spec"]["ports"] = json!([{"name": "http", "port": 80}]);
    cluster.kubectl.apply(&empty);
    let addresses = Addresses::of(&cluster.kubectl.json(&["get", "service", "empty"]));
    let name = format!("{}/empty", cluster.namespace);
    let inside = eventually("node-1 carries the Service", LIMIT, || {
        let trace = service(&["trace", &name]);
        if trace.success {
            Ok(trace.stdout)
        } else {
            Err(trace.stderr)
        }
    });
    assert!(
        inside.contains("0 ready and 0 terminating backends")
            && inside.contains("connect() fails at once with ECONNREFUSED"),
        "{inside}"
    );
    let outside = said(&["trace", &name, "--from-outside", "198.18.0.20"]);
    assert!(
        outside.contains("There is no backend: the program answers a SYN with a reset"),
        "{outside}"
    );
    // As it says, so it is.
    for (host, target) in [
        ("node-1", addresses.cluster(80)),
        (CLIENT, addresses.node("node-1", 80)),
    ] {
        let answer = hosts::get(host, &target);
        assert!(
            answer
                .as_ref()
                .is_err_and(|reason| reason.contains("refused")),
            "{host} to {target}: {answer:?}"
        );
    }
}

#[test]
fn a_wrong_question_is_answered_with_what_there_is() {
    let cluster = Cluster::namespace("trace-wrong");
    cluster.kubectl.apply(&manifests::echo_service("web"));
    let name = format!("{}/web", cluster.namespace);
    eventually("node-1 carries the Service", LIMIT, || {
        let got = service(&["get", &name]);
        if got.success { Ok(()) } else { Err(got.stderr) }
    });
    let none = format!("{}/none", cluster.namespace);
    for verb in ["get", "trace"] {
        let said = refused(&[verb, &none]);
        assert!(
            said.contains(&format!(
                "this node carries no Service {none}; `knarr-agent service ls` shows those it does"
            )),
            "{said}"
        );
    }
    let several = refused(&["trace", &name]);
    assert!(
        several.contains("has several ports, name one: ")
            && ["80 (http)", "81 (tcp)", "82 (udp)"]
                .iter()
                .all(|port| several.contains(port)),
        "{several}"
    );
    let port = refused(&["trace", &format!("{name}:99")]);
    assert!(port.contains("has no port 99, but "), "{port}");
    let pod = refused(&["trace", &format!("{name}:80"), "--from", "nobody"]);
    assert!(
        pod.contains("no pod default/nobody is known on this node"),
        "{pod}"
    );
    let address = refused(&["trace", &format!("{name}:80"), "--from-outside", "nowhere"]);
    assert!(
        address.contains("\"nowhere\" is no IPv4 address"),
        "{address}"
    );
}
