// SPDX-License-Identifier: Apache-2.0
//! kill -9 of everything during the creation of 100 pods: it converges to exactly what was asked for, and nothing is
//! left over: no sandbox, no address, no cgroup, no link.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, NODES};
use knarr_tests::{Cluster, eventually, manifests};
use serde_json::Value;

const PODS: usize = 100;
const LIMIT: Duration = Duration::from_secs(240);

/// What a node has of pods, as the kernel sees it.
#[derive(Debug, PartialEq, Eq)]
struct Kernel {
    /// Pod uids that have a cgroup in any hierarchy.
    cgroups: BTreeSet<String>,
    /// Links of pods.
    links: usize,
    /// Routes to single pods.
    routes: usize,
    /// Helper processes.
    shims: usize,
}

fn kernel(node: &str) -> Kernel {
    let found = hosts::ok(
        node,
        &[
            "find",
            "/sys/fs/cgroup",
            "-type",
            "d",
            "-name",
            "*pod*-*-*-*-*",
        ],
    );
    let cgroups = found
        .lines()
        .filter_map(|path| uid_in(path.rsplit('/').next().unwrap_or_default()))
        .collect();
    let links = hosts::ok(node, &["ip", "-oneline", "link", "show", "type", "veth"])
        .lines()
        .filter(|line| !line.contains(": eth0"))
        .count();
    let routes = hosts::ok(node, &["ip", "-oneline", "-4", "route"])
        .lines()
        .filter(|line| line.starts_with("10.244.") && !line.contains('/'))
        .count();
    let processes = hosts::ok(node, &["ps", "-e", "-o", "args"]);
    let shims = processes
        .lines()
        .filter(|line| {
            line.contains("knarr-agent shim")
                || line.contains("knarr-agent: shim")
                || line.starts_with("shim ")
        })
        .count();
    Kernel {
        cgroups,
        links,
        routes,
        shims,
    }
}

/// The uid in a cgroup's name, which systemd style writes with underscores.
fn uid_in(name: &str) -> Option<String> {
    let at = name.find("pod")? + 3;
    let uid = name[at..].trim_end_matches(".slice").replace('_', "-");
    (uid.len() == 36 && uid.matches('-').count() == 4).then_some(uid)
}

fn pods_by_node(pods: &[Value]) -> BTreeMap<String, BTreeSet<String>> {
    let mut by_node: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in pods {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        by_node
            .entry(text(&pod["spec"]["nodeName"]))
            .or_default()
            .insert(text(&pod["metadata"]["uid"]));
    }
    by_node
}

/// Waits until each node has exactly these pods besides those that it had before.
fn settles(before: &BTreeMap<&str, Kernel>, wanted: &BTreeMap<String, BTreeSet<String>>) {
    for node in NODES {
        let uids = wanted.get(node).cloned().unwrap_or_default();
        let was = &before[node];
        eventually(
            &format!("{node} has exactly {} more pods than before", uids.len()),
            LIMIT,
            || {
                let now = kernel(node);
                let expected = Kernel {
                    cgroups: was.cgroups.union(&uids).cloned().collect(),
                    links: was.links + uids.len(),
                    routes: was.routes + uids.len(),
                    shims: was.shims + uids.len(),
                };
                if now == expected {
                    return Ok(());
                }
                let extra: Vec<&String> = now.cgroups.difference(&expected.cgroups).collect();
                let missing: Vec<&String> = expected.cgroups.difference(&now.cgroups).collect();
                Err(format!(
                    "cgroups of {extra:?} too many and of {missing:?} missing; links {} of {}, routes {} of {}, shims {} of {}",
                    now.links,
                    expected.links,
                    now.routes,
                    expected.routes,
                    now.shims,
                    expected.shims
                ))
            },
        );
    }
}

#[test]
fn killing_everything_while_100_pods_are_made_converges_without_a_leak() {
    let _whole = Whole;
    let cluster = Cluster::namespace("chaos");
    // Pods of earlier tests are still going; wait until a second changes nothing.
    let mut before: BTreeMap<&str, Kernel> =
        NODES.iter().map(|node| (*node, kernel(node))).collect();
    eventually("the nodes are quiet", Duration::from_secs(60), || {
        thread::sleep(Duration::from_secs(2));
        let now: BTreeMap<&str, Kernel> = NODES.iter().map(|node| (*node, kernel(node))).collect();
        let same = now == before;
        before = now;
        if same {
            Ok(())
        } else {
            Err("pods are still going".to_owned())
        }
    });

    cluster
        .kubectl
        .apply(&manifests::echo_deployment("many", PODS));
    // In the middle of it, not before and not after.
    eventually("some pods run", Duration::from_secs(60), || {
        let running = cluster
            .kubectl
            .run(&[
                "get",
                "pods",
                "--field-selector",
                "status.phase=Running",
                "--output",
                "name",
            ])
            .stdout
            .lines()
            .count();
        if running >= 5 {
            Ok(())
        } else {
            Err(format!("{running} run"))
        }
    });
    for round in 0..2 {
        faults::kill_agent("node-1");
        faults::kill_control();
        faults::kill_agent("node-2");
        thread::sleep(Duration::from_millis(500));
        faults::restart_agent("node-2");
        faults::start_control();
        faults::restart_agent("node-1");
        thread::sleep(Duration::from_millis(1500 + 1000 * round));
    }

    eventually("all pods are ready", LIMIT, || {
        let ready = cluster
            .kubectl
            .run(&[
                "get",
                "deployment",
                "many",
                "--output",
                "jsonpath={.status.readyReplicas}",
            ])
            .stdout;
        if ready == PODS.to_string() {
            Ok(())
        } else {
            Err(format!("{ready} are"))
        }
    });
    let pods = cluster
        .kubectl
        .items(&["get", "pods", "--selector", "app=many"]);
    assert_eq!(pods.len(), PODS, "exactly what was asked for");
    let addresses: BTreeSet<&str> = pods
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    assert_eq!(addresses.len(), PODS, "an address was given twice");
    settles(&before, &pods_by_node(&pods));
    let everywhere = cluster.kubectl.items(&["get", "pods", "--all-namespaces"]);
    let all: BTreeSet<&str> = everywhere
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    let with_address = everywhere
        .iter()
        .filter(|pod| {
            pod["status"]["podIP"].is_string()
                && !matches!(
                    pod["status"]["phase"].as_str(),
                    Some("Succeeded" | "Failed")
                )
        })
        .count();
    assert!(
        all.len() >= with_address,
        "two running pods share an address"
    );

    cluster.kubectl.ok(&["delete", "deployment", "many"]);
    eventually("all pods are gone", LIMIT, || {
        let left = cluster.kubectl.items(&["get", "pods"]).len();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} are left"))
        }
    });
    settles(&before, &BTreeMap::new());
}
