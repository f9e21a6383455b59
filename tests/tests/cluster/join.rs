// SPDX-License-Identifier: Apache-2.0
//! Joining: only with a token that holds and to the control plane whose CA was promised; and what a node may then do.

use std::thread;
use std::time::Duration;

use knarr_tests::hosts::{self, CLIENT, CONTROL};
use knarr_tests::{Cluster, Kubectl};

/// `timeout` ends with this when it had to end the command.
const TIMED_OUT: i32 = 124;

/// A join attempt from a host that is no node. It has to end by itself and with a failure; what it said is returned.
fn refused(token: &str, ca_hash: &str) -> String {
    let server = server();
    let outcome = hosts::run(
        CLIENT,
        &[
            "timeout",
            "60",
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
    let identity = hosts::run(
        CLIENT,
        &["find", "/run/knarr/join-data", "-name", "node.pem"],
    );
    hosts::ok(
        CLIENT,
        &["rm", "-rf", "/run/knarr/join-data", "/run/knarr/join-run"],
    );
    let said = outcome.stdout + &outcome.stderr;
    assert_ne!(
        outcome.code,
        Some(TIMED_OUT),
        "the agent was still trying after a minute instead of giving up:\n{said}"
    );
    assert_eq!(outcome.code, Some(1), "{said}");
    assert_eq!(
        identity.stdout, "",
        "a machine that was refused has a certificate"
    );
    let nodes = Kubectl::new("default").ok(&["get", "nodes", "--output", "name"]);
    assert!(
        !nodes.contains("stranger"),
        "a node joined that must not have: {nodes}"
    );
    said
}

fn server() -> String {
    format!("https://{}:6443", hosts::address(CONTROL))
}

/// The last line of what a program said is the reason of its end.
fn reason(said: &str) -> &str {
    said.trim_end().lines().last().unwrap_or_default()
}

/// A fresh token and the CA's hash, as the control plane prints them.
fn fresh(extra: &[&str]) -> (String, String) {
    let words = hosts::join_line(extra);
    let after = |flag: &str| {
        let at = words
            .iter()
            .position(|word| word == flag)
            .unwrap_or_else(|| panic!("no {flag} in {words:?}"));
        words[at + 1].clone()
    };
    (after("--token"), after("--ca-hash"))
}

#[test]
fn a_wrong_token_is_refused_with_what_to_do() {
    let (_, ca_hash) = fresh(&[]);
    let said = refused("abcdef.0123456789abcdef", &ca_hash);
    assert_eq!(
        reason(&said),
        format!(
            "Error: the control plane at {}:6443 refused the join: the token abcdef.* is not known to this cluster \
             (it may have been deleted): make one with `knarr-control token create`; make a new token there with \
             `knarr-control token create` and start the agent with the line it prints",
            hosts::address(CONTROL)
        )
    );
}

#[test]
fn the_secret_half_of_a_token_counts() {
    let (token, ca_hash) = fresh(&[]);
    let (id, _) = token.split_once('.').expect("a token has two parts");
    let said = refused(&format!("{id}.0123456789abcdef"), &ca_hash);
    // Who does not know the secret does not learn that the token exists.
    assert!(
        reason(&said).contains(&format!("the token {id}.* is not known to this cluster")),
        "{said}"
    );
}

#[test]
fn an_expired_token_is_refused_with_when_it_ended() {
    let (token, ca_hash) = fresh(&["--ttl", "1s"]);
    let (id, secret) = token.split_once('.').expect("a token has two parts");
    thread::sleep(Duration::from_secs(3));
    let said = refused(&token, &ca_hash);
    assert!(
        reason(&said).contains(&format!("refused the join: the token {id}.* expired at 20"))
            && reason(&said).contains("make a new one with `knarr-control token create`"),
        "{said}"
    );
    assert!(!said.contains(secret), "the token's secret is in the log");
}

#[test]
fn another_ca_than_the_promised_one_is_not_trusted_and_both_are_named() {
    let (token, real) = fresh(&[]);
    let promised = format!("sha256:{}", "0".repeat(64));
    let said = refused(&token, &promised);
    assert_eq!(
        reason(&said),
        format!(
            "Error: the control plane at {}:6443 is not the one that --ca-hash names: its CA has the hash {real}. \
             Either the address or the hash is wrong; `knarr-control token create` prints both",
            hosts::address(CONTROL)
        )
    );
    let secret = token.split_once('.').expect("a token has two parts").1;
    assert!(!said.contains(secret), "the token's secret is in the log");
}

#[test]
fn a_token_or_hash_that_is_none_is_refused_with_the_form_it_should_have() {
    let (token, ca_hash) = fresh(&[]);
    let said = refused("secret", &ca_hash);
    assert!(
        reason(&said).contains(
            "a token has the form abcdef.0123456789abcdef (six and sixteen of a-z and 0-9)"
        ),
        "{said}"
    );
    let said = refused(&token, "sha256:1234");
    assert!(
        reason(&said).contains("ca-hash") && reason(&said).contains("sha256:1234"),
        "{said}"
    );
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
    let server = server();
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
