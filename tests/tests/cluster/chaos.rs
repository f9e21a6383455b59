// SPDX-License-Identifier: Apache-2.0
//! kill -9 during the creation of 100 pods, of the programs alone and of every process on the hosts: it converges to
//! exactly what was asked for, and nothing is left over: no sandbox, no address, no cgroup, no link, no mount, no
//! namespace, no file. Where only the programs are killed, containers live on and calls to them go on.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, CLIENT, CONTROL, NODES};
use knarr_tests::load;
use knarr_tests::manifests;
use knarr_tests::{Cluster, From, Load, eventually};
use serde_json::Value;

const PODS: usize = 100;
const LIMIT: Duration = Duration::from_secs(240);
/// How long the nodes may take to come to rest, and then to begin with the pods.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// With so many pods on a node it is in the middle of making its half of them.
const SOME_PODS: usize = 5;
/// The second time hits pods that are being started again. After it those that ran twice wait for the back-off of 10 s;
/// each further round would double that and show nothing else.
const KILL_ALL_ROUNDS: usize = 2;
/// Pods of the Service that is called meanwhile.
const WEB_PODS: usize = 4;
/// So many calls find every one of them: by chance one is missed in 1 of 25,000 looks, 4 * (3/4)^40.
const CALLS: usize = 40;
/// How long the clients go on when everything is whole again.
const AFTER: Duration = Duration::from_secs(3);

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

/// Waits until each node has exactly the pods of these Deployments besides those that it had before. A pod whose sandbox is
/// made again may get another address, so the pods are asked for each time.
fn settles(cluster: &Cluster, before: &BTreeMap<&str, Node>, asked: &[Asked]) {
    for name in NODES {
        eventually(
            &format!("{name} has exactly the pods that were asked for"),
            LIMIT,
            || {
                let pods = pods_by_node(&pods_of_all(cluster, asked));
                let pods = pods.get(name).cloned().unwrap_or_default();
                let expected = with_pods(&before[name], &pods);
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

fn uids(pods: &[Value]) -> BTreeSet<&str> {
    let uids = pods.iter().map(|pod| pod["metadata"]["uid"].as_str());
    uids.map(|uid| uid.expect("every pod has one")).collect()
}

/// Pods of earlier tests are still going; waits until a second changes nothing.
fn quiet_nodes() -> BTreeMap<&'static str, Node> {
    let mut before = nodes();
    eventually("the nodes are quiet", BEGIN_LIMIT, || {
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
    before
}

fn overlays(node: &str) -> usize {
    let listed = hosts::ok(node, &["sh", "-c", OVERLAYS]);
    listed.lines().count()
}

/// Waits until the pods are being made: not before, when nothing is there to be killed, and not after.
fn await_the_middle(before: &BTreeMap<&str, Node>) {
    let made = eventually("each node runs some of the pods", BEGIN_LIMIT, || {
        let made = NODES.map(|name| overlays(name).saturating_sub(before[name].overlays));
        if made.iter().all(|made| *made >= SOME_PODS) {
            Ok(made)
        } else {
            Err(format!("{made:?} by node"))
        }
    });
    assert!(
        made.iter().sum::<usize>() < PODS,
        "all pods were made before anything was killed, so nothing was shown: {made:?}"
    );
}

/// Starts what was killed.
fn start_again() {
    faults::restart_agent("node-2");
    faults::start_control();
    faults::restart_agent("node-1");
}

/// A Deployment and how many pods it asks for.
type Asked = (&'static str, usize);

fn await_all_ready(cluster: &Cluster, asked: &[Asked]) {
    for (deployment, pods) in asked {
        eventually(
            &format!("all pods of {deployment} are ready"),
            LIMIT,
            || {
                let ready = cluster
                    .kubectl
                    .run(&[
                        "get",
                        "deployment",
                        deployment,
                        "--output",
                        "jsonpath={.status.readyReplicas}",
                    ])
                    .stdout;
                if ready == pods.to_string() {
                    Ok(())
                } else {
                    Err(format!("{ready} are"))
                }
            },
        );
    }
}

fn pods_of_all(cluster: &Cluster, asked: &[Asked]) -> Vec<Value> {
    let pods = asked.iter().flat_map(|(app, _)| pods_of(cluster, app));
    pods.collect()
}

fn pods_of(cluster: &Cluster, app: &str) -> Vec<Value> {
    let selector = format!("app={app}");
    cluster
        .kubectl
        .items(&["get", "pods", "--selector", &selector])
}

/// By pod name: container id and restart count.
fn containers(cluster: &Cluster, app: &str) -> BTreeMap<String, (String, u64)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    pods_of(cluster, app)
        .iter()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            let restarts = status["restartCount"].as_u64();
            let restarts = restarts.expect("a container that was started has a restart count");
            (
                text(&pod["metadata"]["name"]),
                (text(&status["containerID"]), restarts),
            )
        })
        .collect()
}

/// Waits until there is exactly what was asked for: the pods, all of them running, and nothing besides on the nodes.
fn converges(cluster: &Cluster, before: &BTreeMap<&str, Node>, asked: &[Asked]) {
    await_all_ready(cluster, asked);
    let pods = pods_of_all(cluster, asked);
    let wanted: usize = asked.iter().map(|(_, pods)| pods).sum();
    assert_eq!(pods.len(), wanted, "exactly what was asked for");
    settles(cluster, before, asked);
    // A pod that ran when everything was killed counts as ready until its agent has said otherwise. On the nodes all
    // run by now, so this time it is meant.
    await_all_ready(cluster, asked);
    let after = pods_of_all(cluster, asked);
    assert_eq!(uids(&after), uids(&pods), "pods were replaced");
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
    assert!(held.len() >= wanted, "every pod that runs has an address");
    assert_eq!(
        held.iter().collect::<BTreeSet<_>>().len(),
        held.len(),
        "two running pods share an address: {held:?}"
    );
}

/// Deletes the pods and waits until nothing is left of them.
fn goes_without_a_trace(cluster: &Cluster, before: &BTreeMap<&str, Node>) {
    cluster.kubectl.ok(&["delete", "deployment", "many"]);
    eventually("all pods are gone", LIMIT, || {
        let left = pods_of(cluster, "many").len();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} are left"))
        }
    });
    settles(cluster, before, &[]);
}

#[test]
fn killing_agents_and_control_plane_while_100_pods_are_made_loses_no_request_and_leaks_nothing() {
    let _whole = Whole;
    let cluster = Cluster::namespace("chaos");
    // Settled before it begins: containers go on without agents and control plane, and so do calls to them.
    let addresses = cluster.serve(
        &manifests::echo_deployment("web", 4),
        &manifests::echo_service("web"),
    );
    let settled = containers(&cluster, "web");
    assert_eq!(settled.len(), 4);
    let before = quiet_nodes();
    let loads = [
        Load::start("node-1", From::Requests, &addresses.cluster(80)),
        Load::start("node-1", From::KeptTcp, &addresses.cluster(81)),
        Load::start(CLIENT, From::Requests, &addresses.node("node-2", 80)),
    ];

    let killed = load::around(|| {
        cluster
            .kubectl
            .apply(&manifests::echo_deployment("many", PODS));
        await_the_middle(&before);
        for round in 0..2 {
            faults::kill_agent("node-1");
            faults::kill_control();
            faults::kill_agent("node-2");
            thread::sleep(Duration::from_millis(500));
            start_again();
            thread::sleep(Duration::from_millis(1500 + 1000 * round));
        }
    });
    for load in loads {
        let what = load.what().to_owned();
        load.stop().assert_unbroken_around(&what, &killed);
    }

    converges(&cluster, &before, &[("many", PODS)]);
    assert_eq!(
        containers(&cluster, "web"),
        settled,
        "containers of the settled Service were restarted or replaced"
    );
    goes_without_a_trace(&cluster, &before);
}

#[test]
fn killing_every_process_of_all_hosts_while_100_pods_are_made_converges_without_a_leak() {
    let _whole = Whole;
    let cluster = Cluster::namespace("chaos-all");
    let empty = quiet_nodes();
    let addresses = cluster.serve(
        &manifests::echo_deployment("web", WEB_PODS),
        &manifests::echo_service("web"),
    );
    let before = quiet_nodes();
    // The host outside is the only one whose clients live on.
    let loads = NODES.map(|node| Load::start(CLIENT, From::Requests, &addresses.node(node, 80)));
    cluster
        .kubectl
        .apply(&manifests::echo_deployment("many", PODS));
    for _ in 0..KILL_ALL_ROUNDS {
        await_the_middle(&before);
        faults::kill_all_processes(&[CONTROL, NODES[0], NODES[1]]);
        start_again();
    }
    converges(&cluster, &empty, &[("many", PODS), ("web", WEB_PODS)]);
    let containers = containers(&cluster, "many");
    let restarted = containers.values().filter(|(_, restarts)| *restarts > 0);
    assert!(
        restarted.count() >= SOME_PODS,
        "containers were killed, but none was started again: {containers:?}"
    );
    let whole_again = load::now_ms();
    thread::sleep(AFTER);
    for load in loads {
        let what = load.what().to_owned();
        let report = load.stop();
        assert!(
            !report.failures().is_empty(),
            "{what}: no call failed, so nothing was killed under load"
        );
        report.assert_unbroken_after(&what, whole_again);
    }
    for node in NODES {
        let answered: BTreeSet<String> = (0..CALLS)
            .map(|_| hosts::get(node, &addresses.cluster(80)).expect("the Service answers"))
            .collect();
        assert_eq!(answered.len(), WEB_PODS, "from {node}: {answered:?}");
    }
    cluster.kubectl.ok(&["delete", "deployment", "web"]);
    goes_without_a_trace(&cluster, &empty);
}
