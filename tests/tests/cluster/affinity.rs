// SPDX-License-Identifier: Apache-2.0
//! `sessionAffinity: ClientIP`: a client keeps its pod for the timeout after its last call, and no longer.
//!
//! The first choice follows from the client's address and the set of pods. So clients hold the only pod there is, more
//! are added, and a second Service, which remembers no client, shows what each client would choose now: as long as the
//! first Service answers differently it remembers. After the timeout a client gets another pod than the one it had.

use std::thread;
use std::time::{Duration, Instant};

use knarr_tests::hosts::{self, CLIENT, NODES};
use knarr_tests::manifests::{self, Addresses};
use knarr_tests::{Cluster, eventually};

/// Shorter than Kubernetes' three hours, long enough that a slow machine's calls, of all clients in turn, are well within.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Silence that a client may allow itself.
const SHORT_SILENCE: Duration = Duration::from_secs(15);
/// Silence that is too long.
const LONG_SILENCE: Duration = Duration::from_secs(61);
const LIMIT: Duration = Duration::from_secs(60);
/// Source addresses of the host outside, each a client of its own.
const OUTSIDE: [&str; 4] = ["198.18.3.1", "198.18.3.2", "198.18.3.3", "198.18.3.4"];
/// Pods that call, in turn on each node.
const CALLERS: usize = 4;
/// Pods added at a time: among so many a new choice is seldom the old one.
const MORE: usize = 9;
/// How often pods are added until some client of each kind would choose another one.
const ADDITIONS_MAX: usize = 4;

/// Answers `GET /cgi-bin/call?ADDR:PORT` with what that address answers to this pod. (`-T` of Debian's static wget
/// crashes.)
const CALLER: &str = r#"mkdir -p /tmp/www/cgi-bin
cat > /tmp/www/cgi-bin/call <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
exec timeout 5 wget -q -O - "http://$QUERY_STRING/"
END
chmod 755 /tmp/www/cgi-bin/call
exec httpd -f -p 8080 -h /tmp/www"#;

/// Who calls.
#[derive(Clone, Debug)]
enum Client {
    /// A pod, at this address on this node: a socket of its own network namespace.
    Pod { ip: String, node: &'static str },
    /// A process of the node.
    Node(&'static str),
    /// A host outside, with this address, through this node.
    Outside(&'static str, &'static str),
}

impl Client {
    /// One call; who answered.
    fn call(&self, service: &Addresses) -> Result<String, String> {
        match self {
            Self::Pod { .. } => self.call_from_pod(&service.cluster(80)),
            Self::Node(node) => hosts::get(node, &service.cluster(80)),
            Self::Outside(source, node) => call_as(source, node, &service.node(node, 80)),
        }
    }

    /// The call of a pod to any address.
    fn call_from_pod(&self, target: &str) -> Result<String, String> {
        let Self::Pod { ip, node } = self else {
            panic!("{self:?} is no pod");
        };
        let url = format!("http://{ip}:8080/cgi-bin/call?{target}");
        let outcome = hosts::run(
            node,
            &["timeout", "8", "busybox", "wget", "-q", "-O", "-", &url],
        );
        let answer = outcome.stdout.trim().to_owned();
        if outcome.success && !answer.is_empty() {
            Ok(answer)
        } else {
            Err(outcome.stderr)
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Pod { .. } => "pod",
            Self::Node(_) => "node",
            Self::Outside(..) => "outside",
        }
    }
}

/// One call from outside with this source address.
fn call_as(source: &str, node: &str, target: &str) -> Result<String, String> {
    let route = format!("{}/32", hosts::address(node));
    hosts::ok(
        CLIENT,
        &[
            "ip",
            "address",
            "replace",
            &format!("{source}/32"),
            "dev",
            "eth0",
        ],
    );
    hosts::ok(
        CLIENT,
        &[
            "ip", "route", "replace", &route, "dev", "eth0", "src", source,
        ],
    );
    let answer = hosts::get(CLIENT, target);
    hosts::ok(CLIENT, &["ip", "route", "delete", &route, "dev", "eth0"]);
    answer
}

/// A client, the pod it holds, and when it called last.
struct Held {
    client: Client,
    pod: String,
    called: Instant,
}

impl Held {
    /// Calls again: within the timeout it has to be the same pod.
    fn keeps(&mut self, service: &Addresses) {
        let before = self.called;
        // The moment from which the timeout counts lies between these two.
        let answer = self.client.call(service).expect("it answers");
        let now = Instant::now();
        assert!(
            now - before < TIMEOUT,
            "the machine is too slow to tell: {:?} called only every {} s",
            self.client,
            (now - before).as_secs()
        );
        assert_eq!(answer, self.pod, "{:?} lost its pod", self.client);
        self.called = now;
    }
}

fn callers(cluster: &Cluster) -> Vec<Client> {
    let names: Vec<(String, &'static str)> = (0..CALLERS)
        .map(|number| (format!("caller-{number}"), NODES[number % NODES.len()]))
        .collect();
    for (name, node) in &names {
        cluster
            .kubectl
            .apply(&manifests::script_pod(name, node, CALLER));
    }
    names
        .into_iter()
        .map(|(name, node)| {
            let ip = eventually(&format!("{name} has an address"), LIMIT, || {
                let pod = cluster.kubectl.json(&["get", "pod", &name]);
                let running = pod["status"]["phase"] == "Running";
                match pod["status"]["podIP"].as_str() {
                    Some(ip) if running => Ok(ip.to_owned()),
                    _ => Err(pod["status"].to_string()),
                }
            });
            Client::Pod { ip, node }
        })
        .collect()
}

/// Waits until every way to a Service has an answer. The calls are the first choices.
fn answers(clients: &[Client], service: &Addresses) -> Vec<String> {
    clients
        .iter()
        .map(|client| {
            eventually(&format!("{client:?} has an answer"), LIMIT, || {
                client.call(service)
            })
        })
        .collect()
}

#[test]
fn clients_keep_their_pod_until_the_timeout_has_passed_and_no_longer() {
    let cluster = Cluster::namespace("affinity");
    let sticky = |name: &str, seconds: u64| {
        let mut service = manifests::sticky_service(name, seconds as u32);
        service["spec"]["selector"] = serde_json::json!({"app": "web"});
        service
    };
    let mut replicas = 1;
    let web = cluster.serve(
        &manifests::echo_deployment("web", replicas),
        &sticky("web", TIMEOUT.as_secs()),
    );
    let mut clients = callers(&cluster);
    clients.extend(NODES.map(Client::Node));
    clients.extend(OUTSIDE.map(|source| Client::Outside(source, "node-2")));
    let first = answers(&clients, &web);
    let called = Instant::now();
    let mut held: Vec<Held> = clients
        .iter()
        .zip(first)
        .map(|(client, pod)| Held {
            client: client.clone(),
            pod,
            called,
        })
        .collect();

    // Kept while the set of pods changes under them; each call renews. Pods are added until for each kind of client
    // there is one whose new choice would be another pod.
    let mut additions = 0;
    loop {
        additions += 1;
        assert!(
            additions <= ADDITIONS_MAX,
            "every client of some kind would choose its old pod among {replicas}"
        );
        replicas += MORE;
        let name = format!("fresh-{additions}");
        cluster.kubectl.apply(&sticky(&name, 3600));
        cluster
            .kubectl
            .ok(&["scale", "deployment/web", &format!("--replicas={replicas}")]);
        eventually("the added pods are ready", LIMIT, || {
            for client in &mut held {
                client.keeps(&web);
            }
            let ready = cluster.kubectl.ok(&[
                "get",
                "deployment/web",
                "--output",
                "jsonpath={.status.readyReplicas}",
            ]);
            if ready == replicas.to_string() {
                Ok(())
            } else {
                Err(ready)
            }
        });
        // A choice among a part of the pods would be remembered.
        for service in ["web", &name] {
            hosts::knows_endpoints(&format!("{}/{service}", cluster.namespace), replicas, LIMIT);
        }
        let service = Addresses::of(&cluster.kubectl.json(&["get", "service", &name]));
        let choices = answers(&clients, &service);
        for client in &mut held {
            client.keeps(&web);
        }
        let moves = |kind: &str| {
            held.iter()
                .zip(&choices)
                .any(|(client, choice)| client.client.kind() == kind && *choice != client.pod)
        };
        if ["pod", "node", "outside"].into_iter().all(moves) {
            // Both paths agree: a pod's packets to another node's NodePort get the pod that its sockets get.
            for (client, choice) in clients.iter().zip(&choices) {
                if let Client::Pod { node, .. } = client {
                    let other = NODES.iter().find(|name| *name != node).expect("two nodes");
                    let answer = client.call_from_pod(&service.node(other, 80));
                    assert_eq!(answer.as_ref(), Ok(choice), "{client:?} through {other}");
                }
            }
            break;
        }
    }

    // Silent for less than the timeout: still the same.
    for client in &mut held {
        client.keeps(&web);
    }
    thread::sleep(SHORT_SILENCE);
    for client in &mut held {
        client.keeps(&web);
    }

    // Silent for longer than the timeout: another pod than before, which is kept again.
    thread::sleep(LONG_SILENCE);
    for client in &mut held {
        let answer = client.client.call(&web).expect("it answers");
        assert_ne!(
            answer, client.pod,
            "{:?} was not let go after the timeout",
            client.client
        );
        client.pod = answer;
        client.called = Instant::now();
        client.keeps(&web);
    }
}

#[test]
fn a_client_whose_pod_goes_gets_another_one_at_once() {
    let cluster = Cluster::namespace("affinity-gone");
    let addresses = cluster.serve(
        &manifests::echo_deployment("web", 3),
        &manifests::sticky_service("web", 600),
    );
    let target = addresses.cluster(80);
    let held = eventually("the Service answers", LIMIT, || {
        hosts::get("node-1", &target)
    });
    for _ in 0..10 {
        assert_eq!(hosts::get("node-1", &target).expect("it answers"), held);
    }
    cluster.kubectl.ok(&["delete", "pod", &held]);
    let other =
        hosts::get("node-1", &target).expect("another pod answers as soon as the first is gone");
    assert_ne!(other, held);
    for _ in 0..10 {
        assert_eq!(hosts::get("node-1", &target).expect("it answers"), other);
    }
}
