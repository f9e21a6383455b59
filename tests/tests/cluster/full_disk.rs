// SPDX-License-Identifier: Apache-2.0
//! A full disk under the control plane's data, under a node's data and under an image store: it is said, nothing that
//! was acknowledged is lost, and everything goes on when there is room again. The disk is a small tmpfs in the host's
//! own mount namespace, so no other host and not the machine has less room.

use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, CLIENT, CONTROL};
use knarr_tests::lab::target_dir;
use knarr_tests::{Cluster, Kubectl, Outcome, eventually, manifests, stays};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
/// A pod that could not be started is tried again with a growing pause.
const RETRIED_LIMIT: Duration = Duration::from_secs(180);
/// Room beside twice what the data needs now: the store's file doubles when it grows.
const ROOM_MB: u64 = 24;
/// With values of this size the store soon needs more of the disk than it has reserved.
const VALUE_BYTES: usize = 768 * 1024;
/// The store cannot take so many without growing.
const WRITES_MAX: usize = 400;

/// A host's data directory on a small disk. What was written there is copied back at the end. Nothing may be using the
/// directory when it is made and when it is dropped.
struct SmallDisk {
    host: &'static str,
    at: &'static str,
}

impl SmallDisk {
    fn under(host: &'static str, at: &'static str) -> Self {
        let script = format!(
            "set -e; room=$((2 * $(du -sm {at} | cut -f1) + {ROOM_MB}))\n\
             mkdir -p /run/small-disk\n\
             mount -t tmpfs -o mode=700,size=${{room}}m small /run/small-disk\n\
             cp -a {at}/. /run/small-disk/\n\
             mount --bind /run/small-disk {at}"
        );
        hosts::ok(host, &["sh", "-c", &script]);
        Self { host, at }
    }

    /// Takes all room that is left, to the last page.
    fn fill(&self) {
        let script = format!("cat /dev/zero > {}/filler", self.at);
        let outcome = hosts::run(self.host, &["sh", "-c", &script]);
        assert!(
            !outcome.success && outcome.stderr.contains("No space left on device"),
            "the disk did not fill up: {}",
            outcome.stderr
        );
    }

    fn make_room(&self) {
        hosts::ok(self.host, &["rm", &format!("{}/filler", self.at)]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let at = self.at;
        let script = format!(
            "rm -f {at}/filler; umount {at} || umount --lazy {at}\n\
             cp -a /run/small-disk/. {at}/\n\
             umount /run/small-disk || umount --lazy /run/small-disk"
        );
        hosts::run(self.host, &["sh", "-c", &script]);
    }
}

/// Ends the control plane before its disk is changed back, also when the test has failed.
struct ControlEnded;

impl Drop for ControlEnded {
    fn drop(&mut self) {
        faults::quietly(&["control", "--kill"]);
    }
}

/// The same for an agent.
struct AgentEnded(&'static str);

impl Drop for AgentEnded {
    fn drop(&mut self) {
        faults::quietly(&["node", self.0, "--kill-agent"]);
    }
}

fn write(kubectl: &Kubectl, name: &str) -> Outcome {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"value": "x".repeat(VALUE_BYTES)},
    });
    kubectl.run_with(&["create", "--filename", "-"], &object.to_string())
}

fn assert_all_there(kubectl: &Kubectl, acknowledged: &[String], when: &str) {
    let listed = kubectl.ok(&["get", "configmaps", "--output", "name"]);
    let missing: Vec<&String> = acknowledged
        .iter()
        .filter(|name| {
            !listed
                .lines()
                .any(|line| line == format!("configmap/{name}"))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "{when}: {missing:?} of {} were acknowledged and are gone",
        acknowledged.len()
    );
}

#[test]
fn a_full_disk_of_the_control_plane_is_said_and_loses_nothing_acknowledged() {
    // Undone from below: the control plane ends, its data goes back, everything starts again, the namespace goes.
    let cluster = Cluster::namespace("full-control");
    let _whole = Whole;
    faults::kill_control();
    let disk = SmallDisk::under(CONTROL, "/var/lib/knarr-control");
    let _ended = ControlEnded;
    faults::start_control();
    faults::all_ready();

    disk.fill();
    let mut acknowledged = Vec::new();
    let refused = loop {
        let name = format!("written-{}", acknowledged.len());
        let outcome = write(&cluster.kubectl, &name);
        if !outcome.success {
            break outcome.stderr;
        }
        acknowledged.push(name);
        assert!(
            acknowledged.len() < WRITES_MAX,
            "a full disk took {WRITES_MAX} objects"
        );
    };
    assert!(
        refused.contains("the disk that holds the store is full")
            && refused.contains("nothing acknowledged is lost"),
        "after {} objects: {refused}",
        acknowledged.len()
    );
    // Reading goes on, and what was refused is not half there.
    assert_all_there(&cluster.kubectl, &acknowledged, "with a full disk");
    let name = format!("written-{}", acknowledged.len());
    let missing = cluster.kubectl.refused(&["get", "configmap", &name], "");
    assert!(missing.contains("NotFound"), "{missing}");
    // Also from a start on the full disk.
    faults::kill_control();
    faults::start_control();
    assert_all_there(
        &cluster.kubectl,
        &acknowledged,
        "after a start with a full disk",
    );

    disk.make_room();
    eventually("there is room, so it writes", LIMIT, || {
        let outcome = write(&cluster.kubectl, &name);
        if outcome.success {
            Ok(())
        } else {
            Err(outcome.stderr)
        }
    });
    acknowledged.push(name);
    faults::kill_control();
    faults::start_control();
    assert_all_there(&cluster.kubectl, &acknowledged, "after another start");
    faults::all_ready();
    // And what is asked for is carried out.
    cluster
        .kubectl
        .apply(&manifests::echo_deployment("after", 2));
    cluster.kubectl.rolled_out("after");
}

fn pods_on(node: &str) -> Vec<String> {
    Kubectl::new("default")
        .items(&[
            "get",
            "pods",
            "--all-namespaces",
            "--field-selector",
            &format!("spec.nodeName={node}"),
        ])
        .iter()
        .map(|pod| pod["metadata"]["name"].to_string())
        .collect()
}

fn none_on(node: &str) {
    eventually(&format!("{node} has no pods"), LIMIT, || {
        let left = pods_on(node);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}

#[test]
fn a_full_disk_of_a_node_is_said_and_its_pods_go_on_and_start_when_there_is_room() {
    const NODE: &str = "node-2";
    let _whole = Whole;
    none_on(NODE);
    faults::kill_agent(NODE);
    let disk = SmallDisk::under(NODE, "/var/lib/knarr");
    let _ended = AgentEnded(NODE);
    faults::restart_agent(NODE);
    faults::node_ready(&Kubectl::new("default"), NODE, "True", LIMIT);

    let cluster = Cluster::namespace("full-node");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::echo_deployment_on("web", 1, NODE));
    kubectl.apply(&manifests::echo_service("web"));
    kubectl.rolled_out("web");
    let addresses = manifests::Addresses::of(&kubectl.json(&["get", "service", "web"]));
    eventually("the Service answers", LIMIT, || {
        hosts::get(NODE, &addresses.cluster(80)).map(drop)
    });

    disk.fill();
    kubectl.apply(&manifests::script_pod("late", NODE, "echo late; sleep 600"));
    eventually("the disk is named as the reason", LIMIT, || {
        let described = kubectl.run(&["describe", "pod", "late"]).stdout;
        if described.to_lowercase().contains("no space left") {
            Ok(())
        } else {
            Err(described)
        }
    });
    stays("the running pod answers", Duration::from_secs(5), || {
        hosts::get(NODE, &addresses.cluster(80)).map(drop)
    });
    // An agent that starts on the full disk carries on as well, and the node knows why it takes no pods.
    faults::restart_agent(NODE);
    eventually("the node says that its disk is full", RETRIED_LIMIT, || {
        let path = r#"jsonpath={.status.conditions[?(@.type=="DiskPressure")].status}"#;
        let status = kubectl.run(&["get", "node", NODE, "--output", path]).stdout;
        if status == "True" {
            Ok(())
        } else {
            Err(status)
        }
    });
    hosts::get(NODE, &addresses.cluster(80)).expect("the running pod answers");

    disk.make_room();
    kubectl.until("pod/late", "/status/phase", "Running", RETRIED_LIMIT);
    let restarts = kubectl.ok(&[
        "get",
        "pods",
        "--selector",
        "app=web",
        "--output",
        "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
    ]);
    assert_eq!(restarts, "0", "the running pod was restarted");

    kubectl.ok(&["delete", "deployment/web", "pod/late", "--timeout=60s"]);
    none_on(NODE);
}

#[test]
fn an_image_that_does_not_fit_is_refused_and_leaves_nothing() {
    let store = "/run/knarr/small-images";
    let image = |args: &[&str]| {
        let mut all = vec!["knarr-agent", "image", "--data-dir", store];
        all.extend_from_slice(args);
        hosts::run(CLIENT, &all)
    };
    let mount = format!("mkdir -p {store} && mount -t tmpfs -o size=1m small {store}");
    hosts::ok(CLIENT, &["sh", "-c", &mount]);
    let archive = target_dir().join("images/knarr-shell.tar");
    let archive = archive.to_string_lossy();
    let outcome = image(&["import", &archive]);
    assert_eq!(
        outcome.code,
        Some(1),
        "{}{}",
        outcome.stdout,
        outcome.stderr
    );
    assert!(
        outcome.stderr.contains("no space left while unpacking"),
        "{}",
        outcome.stderr
    );
    assert!(!image(&["ls"]).stdout.contains("knarr-shell"));
    // More room, and the same command does it.
    hosts::ok(CLIENT, &["mount", "-o", "remount,size=64m", store]);
    let outcome = image(&["import", &archive]);
    assert!(outcome.success, "{}", outcome.stderr);
    assert!(image(&["ls"]).stdout.contains("knarr-shell"));
    hosts::ok(
        CLIENT,
        &["sh", "-c", &format!("umount {store} && rmdir {store}")],
    );
}
