// SPDX-License-Identifier: Apache-2.0
//! Joining: only with a token that holds and to the control plane whose CA was promised; and what a node may then do.

use std::thread;
use std::time::Duration;

use knarr_tests::hosts::{self, CLIENT, CONTROL};
use knarr_tests::{Cluster, Kubectl, Outcome};

/// A join attempt from a host that is no node; it is ended when it does not end by itself.
fn join(token: &str, ca_hash: &str) -> Outcome {
    let server = format!("https://{}:6443", hosts::address(CONTROL));
    let outcome = hosts::run(
        CLIENT,
        &[
            "timeout",
            "20",
            "knarr-agent",
            "run",
            "--server",
            &server,
            "--token",
            token,
            "--ca-hash",
            ca_hash,
            "--node-name",
            "stranger",
            "--node-ip",
            "198.18.0.20",
            "--uplink",
            "eth0",
            "--data-dir",
            "/run/knarr/join-data",
            "--run-dir",
            "/run/knarr/join-run",
        ],
    );
    hosts::run(
        CLIENT,
        &["rm", "-rf", "/run/knarr/join-data", "/run/knarr/join-run"],
    );
    outcome
}

/// A fresh token and the CA's hash, as the control plane prints them.
fn fresh(extra: &[&str]) -> (String, String) {
    let mut command = vec![
        "knarr-control",
        "token",
        "create",
        "--data-dir",
        "/var/lib/knarr-control",
    ];
    command.extend_from_slice(extra);
    let line = hosts::ok(CONTROL, &command);
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |flag: &str| {
        let at = words
            .iter()
            .position(|word| *word == flag)
            .unwrap_or_else(|| panic!("no {flag} in {line}"));
        words[at + 1].to_owned()
    };
    (after("--token"), after("--ca-hash"))
}

fn no_node_was_made() {
    let nodes = Kubectl::new("default").ok(&["get", "nodes", "--output", "name"]);
    assert!(
        !nodes.contains("stranger"),
        "a node joined that must not have: {nodes}"
    );
}

#[test]
fn a_wrong_token_is_refused_with_what_to_do() {
    let (_, ca_hash) = fresh(&[]);
    let outcome = join("abcdef.0123456789abcdef", &ca_hash);
    let said = outcome.stdout + &outcome.stderr;
    assert!(!outcome.success && said.contains("token"), "{said}");
    assert!(
        said.contains("token create"),
        "it does not say how to get a token that works:\n{said}"
    );
    no_node_was_made();
}

#[test]
fn an_expired_token_is_refused() {
    let (token, ca_hash) = fresh(&["--ttl", "1s"]);
    thread::sleep(Duration::from_secs(3));
    let outcome = join(&token, &ca_hash);
    let said = outcome.stdout + &outcome.stderr;
    assert!(!outcome.success && said.contains("token"), "{said}");
    no_node_was_made();
}

#[test]
fn another_ca_than_the_promised_one_is_not_trusted() {
    let (token, _) = fresh(&[]);
    let outcome = join(&token, &format!("sha256:{}", "0".repeat(64)));
    let said = outcome.stdout + &outcome.stderr;
    assert!(
        !outcome.success && said.to_lowercase().contains("ca"),
        "{said}"
    );
    no_node_was_made();
}

#[test]
fn a_token_that_is_none_is_refused_before_anything_is_sent() {
    let (_, ca_hash) = fresh(&[]);
    let outcome = join("secret", &ca_hash);
    let said = outcome.stdout + &outcome.stderr;
    assert!(!outcome.success && said.contains("token"), "{said}");
}

#[test]
fn a_nodes_certificate_opens_the_feed_and_nothing_else() {
    let _cluster = Cluster::namespace("node-cert");
    // Key, certificate and CA are in one file.
    let found = hosts::ok("node-1", &["find", "/var/lib/knarr", "-name", "node.pem"]);
    let identity = found
        .lines()
        .next()
        .unwrap_or_else(|| panic!("no node.pem below /var/lib/knarr"));
    assert_eq!(
        hosts::ok("node-1", &["stat", "--format=%a", identity]).trim(),
        "600"
    );
    let server = format!("https://{}:6443", hosts::address(CONTROL));
    for resource in [
        "/api/v1/nodes",
        "/api/v1/secrets",
        "/api/v1/namespaces/kube-system/secrets",
        "/apis",
    ] {
        let outcome = hosts::run(
            "node-1",
            &[
                "kubectl",
                "--kubeconfig",
                "/dev/null",
                "--server",
                &server,
                "--insecure-skip-tls-verify",
                "--client-certificate",
                identity,
                "--client-key",
                identity,
                "get",
                "--raw",
                resource,
            ],
        );
        assert!(
            !outcome.success && outcome.stderr.contains("orbidden"),
            "{resource}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
}
