// SPDX-License-Identifier: Apache-2.0
//! Who may do what: the admin everything, a stranger four paths.

use knarr_tests::{Cluster, Kubectl};

#[test]
fn a_stranger_is_turned_away_from_everything_but_the_probes_and_the_version() {
    for path in ["/livez", "/readyz", "/healthz"] {
        let outcome = Kubectl::stranger(&["get", "--raw", path, "--token", "nobody"]);
        assert!(
            outcome.success && outcome.stdout.starts_with("ok"),
            "{path}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
    let version = Kubectl::stranger(&["get", "--raw", "/version", "--token", "nobody"]);
    assert!(
        version.success && version.stdout.contains("v1.37"),
        "{}{}",
        version.stdout,
        version.stderr
    );
    for path in [
        "/api",
        "/apis",
        "/api/v1/nodes",
        "/api/v1/namespaces/kube-system/secrets",
        "/openapi/v2",
        "/openapi/v3",
        "/metrics",
        "/no/such/path",
    ] {
        let outcome = Kubectl::stranger(&["get", "--raw", path, "--token", "nobody"]);
        assert!(
            !outcome.success
                && (outcome.stderr.contains("Unauthorized")
                    || outcome.stderr.contains("must be logged in")),
            "{path}: {}{}",
            outcome.stdout,
            outcome.stderr
        );
    }
}

#[test]
fn the_admin_may_do_everything_and_is_told_so() {
    let cluster = Cluster::namespace("admin");
    cluster.kubectl.ok(&["get", "secrets", "--all-namespaces"]);
    cluster.kubectl.ok(&[
        "create",
        "secret",
        "generic",
        "s",
        "--from-literal=password=x",
    ]);
    assert_eq!(
        cluster.kubectl.json(&["get", "secret", "s"])["data"]["password"],
        "eA=="
    );
    assert_eq!(
        cluster.kubectl.json(&["get", "secret", "s"])["type"],
        "Opaque"
    );
    // What kubectl shows of a Secret is not its content.
    assert!(
        !cluster
            .kubectl
            .ok(&["describe", "secret", "s"])
            .contains("eA==")
    );
}

#[test]
fn the_kubeconfig_and_the_keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let control = knarr_tests::lab::up_dir().join("control/data");
    let mut open = vec![control];
    let mut seen = 0;
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("the data directory is there") {
            let entry = entry.expect("an entry");
            let mode = entry.metadata().expect("its mode").permissions().mode() & 0o777;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().expect("its type").is_dir() {
                open.push(entry.path());
            }
            if name.contains("key")
                || name.contains("kubeconfig")
                || name.ends_with(".redb")
                || name.contains("store")
            {
                seen += 1;
                assert_eq!(
                    mode & 0o077,
                    0,
                    "{} has mode {mode:o}",
                    entry.path().display()
                );
            }
        }
    }
    assert!(seen >= 3, "only {seen} secret files were found");
}
