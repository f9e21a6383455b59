// SPDX-License-Identifier: Apache-2.0
//! An agent as people start it on a machine: with the line that `knarr-control token create` prints and nothing else, so
//! that it finds the node's name, address and uplink by itself.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{self, CLIENT};
use knarr_tests::lab::up_dir;
use knarr_tests::{Cluster, eventually, manifests};

/// A start beside whatever else the cluster does takes seconds.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_printed_line_is_enough_and_the_programs_log_comes_when_asked_for() {
    let _whole = Whole;
    let cluster = Cluster::namespace("own-ways");
    let addresses = |cluster: &Cluster| -> serde_json::Value {
        cluster.kubectl.json(&["get", "node", "node-2"])["status"]["addresses"].clone()
    };
    let before = addresses(&cluster);
    let line = hosts::join_line(&[]);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    assert_eq!(line[..2], ["knarr-agent", "run"], "{line:?}");
    faults::kill_agent("node-2");
    let log = tempfile::NamedTempFile::new().expect("a place for the log");
    let with_log = [&["env", "KNARR_AGENT_BPF_LOG=debug"], &line[..]].concat();
    let mut agent = hosts::command("node-2", &with_log)
        .stdin(Stdio::null())
        .stdout(log.reopen().expect("the same file"))
        .stderr(log.reopen().expect("the same file"))
        .spawn()
        .expect("it starts");
    // Made now, so that only this agent can have programmed it.
    let web = cluster.serve(
        &manifests::echo_deployment_on("web", 1, "node-2"),
        &manifests::echo_service("web"),
    );
    eventually("the NodePort answers through node-2", LIMIT, || {
        hosts::get(CLIENT, &web.node("node-2", 80)).map(drop)
    });
    let connected = format!("connect to {}:80: backend", web.cluster_ip);
    eventually("the programs' lines are in the agent's log", LIMIT, || {
        hosts::get("node-2", &web.cluster(80))?;
        let said = fs::read_to_string(log.path()).expect("the log");
        if said.contains(&connected) {
            Ok(())
        } else {
            Err(said)
        }
    });
    assert_eq!(addresses(&cluster), before, "it took another address");
    hosts::ok("node-2", &["pkill", "-TERM", "-f", "^knarr-agent run"]);
    let status = agent.wait().expect("it is ours");
    assert!(status.success(), "the agent ends well when asked: {status}");
    // Without being asked it writes none of them.
    let quiet = up_dir().join("logs/node-2.log");
    let from = fs::read_to_string(&quiet).expect("the log").len();
    faults::restart_agent("node-2");
    faults::node_ready(&cluster.kubectl, "node-2", "True", LIMIT);
    eventually("the Service answers", LIMIT, || {
        hosts::get("node-2", &web.cluster(80)).map(drop)
    });
    let said = fs::read_to_string(&quiet).expect("the log");
    assert!(!said[from..].contains("connect to "), "{}", &said[from..]);
}
