// SPDX-License-Identifier: Apache-2.0
//! kill -9 of everything during the creation of 100 pods: it converges to exactly what was asked for, and nothing is
//! left over: no sandbox, no address, no cgroup, no link, no mount, no namespace, no file.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, NODES};
use knarr_tests::{Cluster, eventually, manifests};
use serde_json::Value;

const PODS: usize = 100;
const LIMIT: Duration = Duration::from_secs(240);

/// What a node has of pods, in the kernel and on its disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    /// Pod uids that have a cgroup in any hierarchy.
    cgroups: BTreeSet<String>,
    /// Pod uids that have a directory of run state.
    run_dirs: BTreeSet<String>,
    /// Pod uids that have a directory of files.
    pod_dirs: BTreeSet<String>,
    /// Addresses that are given out, each with the uid of its pod; also what is no address and should not be there.
    addresses: BTreeMap<String, String>,
    /// Addresses that have a route of their own.
    routes: BTreeSet<String>,
    /// Links of pods.
    links: usize,
    /// Network namespaces.
    namespaces: usize,
    /// Root file systems of containers, by the overlay's number, wherever they are mounted.
    overlays: usize,
    /// Helper processes.
    shims: usize,
}

/// Lists files of the agent as `NAME CONTENT`, content only where it is a file.
const ADDRESSES: &str =
    r#"cd /var/lib/knarr/addresses && for f in $(ls -A); do echo "$f $(cat "$f")"; done"#;
/// The same overlay is seen from many namespaces; its device number is one.
const OVERLAYS: &str =
    r#"cat /proc/[0-9]*/mountinfo 2>/dev/null | awk '/ - overlay /{print $3}' | sort -u"#;

fn node(node: &str) -> Node {
    let lines = |command: &[&str]| -> BTreeSet<String> {
        hosts::ok(node, command)
            .lines()
            .map(|line| line.trim().to_owned())
            .collect()
    };
    let cgroups = lines(&[
        "find",
        "/sys/fs/cgroup",
        "-type",
        "d",
        "-name",
        "*pod*-*-*-*-*",
    ])
    .iter()
    .filter_map(|path| uid_in(path.rsplit('/').next().unwrap_or_default()))
    .collect();
    let addresses = lines(&["sh", "-c", ADDRESSES])
        .iter()
        .map(|line| match line.split_once(' ') {
            Some((file, uid)) => (file.to_owned(), uid.to_owned()),
            None => (line.clone(), String::new()),
        })
        .collect();
    let links = hosts::ok(node, &["ip", "-oneline", "link", "show", "type", "veth"])
        .lines()
        .filter(|line| !line.contains(": eth0"))
        .count();
    let routes = lines(&["ip", "-oneline", "-4", "route"])
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|to| to.starts_with("10.244.") && !to.contains('/'))
        .map(str::to_owned)
        .collect();
    let namespaces = lines(&[
        "lsns",
        "--noheadings",
        "--raw",
        "--type",
        "net",
        "--output",
        "NS",
    ])
    .len();
    let processes = hosts::ok(node, &["ps", "-e", "-o", "args"]);
    let shims = processes
        .lines()
        .filter(|line| {
            line.contains("knarr-agent shim")
                || line.contains("knarr-agent: shim")
                || line.starts_with("shim ")
        })
        .count();
    Node {
        cgroups,
        run_dirs: lines(&["ls", "-A", "/run/knarr/sandboxes"]),
        pod_dirs: lines(&["ls", "-A", "/var/lib/knarr/pods"]),
        addresses,
        routes,
        links,
        namespaces,
        overlays: lines(&["sh", "-c", OVERLAYS]).len(),
        shims,
    }
}

/// What the node has to have with these pods, given as uid and address, besides those that it had before.
fn with_pods(before: &Node, pods: &BTreeMap<String, String>) -> Node {
    let uids = |before: &BTreeSet<String>| before.iter().chain(pods.keys()).cloned().collect();
    let mut addresses = before.addresses.clone();
    addresses.extend(pods.iter().map(|(uid, ip)| (ip.clone(), uid.clone())));
    Node {
        cgroups: uids(&before.cgroups),
        run_dirs: uids(&before.run_dirs),
        pod_dirs: uids(&before.pod_dirs),
        addresses,
        routes: before.routes.iter().chain(pods.values()).cloned().collect(),
        links: before.links + pods.len(),
        namespaces: before.namespaces + pods.len(),
        overlays: before.overlays + pods.len(),
        shims: before.shims + pods.len(),
    }
}

/// How two looks at a node differ, in words.
fn difference(now: &Node, expected: &Node) -> String {
    let mut found = Vec::new();
    for (what, now, expected) in [
        ("cgroups", &now.cgroups, &expected.cgroups),
        ("run directories", &now.run_dirs, &expected.run_dirs),
        ("pod directories", &now.pod_dirs, &expected.pod_dirs),
        ("routes", &now.routes, &expected.routes),
    ] {
        let extra: Vec<&String> = now.difference(expected).collect();
        let missing: Vec<&String> = expected.difference(now).collect();
        if !extra.is_empty() || !missing.is_empty() {
            found.push(format!(
                "{what} of {extra:?} too many, of {missing:?} missing"
            ));
        }
    }
    let extra: Vec<_> = now
        .addresses
        .iter()
        .filter(|(ip, uid)| expected.addresses.get(*ip) != Some(uid))
        .collect();
    let missing: Vec<_> = expected
        .addresses
        .iter()
        .filter(|(ip, uid)| now.addresses.get(*ip) != Some(uid))
        .collect();
    if !extra.is_empty() || !missing.is_empty() {
        found.push(format!("addresses {extra:?} too many, {missing:?} missing"));
    }
    for (what, now, expected) in [
        ("links", now.links, expected.links),
        ("network namespaces", now.namespaces, expected.namespaces),
        ("overlays", now.overlays, expected.overlays),
        ("shims", now.shims, expected.shims),
    ] {
        if now != expected {
            found.push(format!("{now} {what} of {expected}"));
        }
    }
    found.join("; ")
}

/// The uid in a cgroup's name, which systemd style writes with underscores.
fn uid_in(name: &str) -> Option<String> {
    let at = name.find("pod")? + 3;
    let uid = name[at..].trim_end_matches(".slice").replace('_', "-");
    (uid.len() == 36 && uid.matches('-').count() == 4).then_some(uid)
}

/// By node: the pods' uids with their addresses.
fn pods_by_node(pods: &[Value]) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut by_node: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for pod in pods {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        by_node
            .entry(text(&pod["spec"]["nodeName"]))
            .or_default()
            .insert(text(&pod["metadata"]["uid"]), text(&pod["status"]["podIP"]));
    }
    by_node
}

fn nodes() -> BTreeMap<&'static str, Node> {
    NODES.iter().map(|name| (*name, node(name))).collect()
}

/// Waits until each node has exactly these pods besides those that it had before.
fn settles(before: &BTreeMap<&str, Node>, wanted: &BTreeMap<String, BTreeMap<String, String>>) {
    for name in NODES {
        let pods = wanted.get(name).cloned().unwrap_or_default();
        let expected = with_pods(&before[name], &pods);
        eventually(
            &format!("{name} has exactly {} more pods than before", pods.len()),
            LIMIT,
            || {
                let now = node(name);
                if now == expected {
                    Ok(())
                } else {
                    Err(difference(&now, &expected))
                }
            },
        );
    }
}

#[test]
fn killing_everything_while_100_pods_are_made_converges_without_a_leak() {
    let _whole = Whole;
    let cluster = Cluster::namespace("chaos");
    // Pods of earlier tests are still going; wait until a second changes nothing.
    let mut before = nodes();
    eventually("the nodes are quiet", Duration::from_secs(60), || {
        thread::sleep(Duration::from_secs(2));
        let now = nodes();
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
    settles(&before, &pods_by_node(&pods));
    let everywhere = cluster.kubectl.items(&["get", "pods", "--all-namespaces"]);
    // An ended pod's address may be another's by now.
    let held: Vec<&str> = everywhere
        .iter()
        .filter(|pod| {
            !matches!(
                pod["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            )
        })
        .filter_map(|pod| pod["status"]["podIP"].as_str())
        .collect();
    assert!(held.len() >= PODS, "every pod that runs has an address");
    assert_eq!(
        held.iter().collect::<BTreeSet<_>>().len(),
        held.len(),
        "two running pods share an address: {held:?}"
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
