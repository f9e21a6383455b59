// SPDX-License-Identifier: Apache-2.0
//! What the API says about itself: versions, resources, OpenAPI.

use knarr_tests::{Cluster, Kubectl};

#[test]
fn versions_and_resources_are_discovered() {
    let kubectl = Kubectl::new("default");
    let version = kubectl.ok(&["version"]);
    assert!(version.contains("Server Version: v1.37"), "{version}");
    let resources = kubectl.ok(&["api-resources", "--no-headers"]);
    for (name, short, group, namespaced, kind) in [
        ("bindings", "", "v1", "true", "Binding"),
        ("configmaps", "cm", "v1", "true", "ConfigMap"),
        ("endpoints", "ep", "v1", "true", "Endpoints"),
        ("events", "ev", "v1", "true", "Event"),
        ("namespaces", "ns", "v1", "false", "Namespace"),
        ("nodes", "no", "v1", "false", "Node"),
        ("pods", "po", "v1", "true", "Pod"),
        ("secrets", "", "v1", "true", "Secret"),
        ("serviceaccounts", "sa", "v1", "true", "ServiceAccount"),
        ("services", "svc", "v1", "true", "Service"),
        ("deployments", "deploy", "apps/v1", "true", "Deployment"),
        ("replicasets", "rs", "apps/v1", "true", "ReplicaSet"),
        ("leases", "", "coordination.k8s.io/v1", "true", "Lease"),
        (
            "endpointslices",
            "",
            "discovery.k8s.io/v1",
            "true",
            "EndpointSlice",
        ),
        ("events", "ev", "events.k8s.io/v1", "true", "Event"),
    ] {
        let found = resources.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let short_fits = short.is_empty() || words.get(1) == Some(&short);
            words.first() == Some(&name)
                && short_fits
                && words.ends_with(&[group, namespaced, kind])
        });
        assert!(
            found,
            "{name} {short} {group} {namespaced} {kind} is not in:\n{resources}"
        );
    }
    let versions = kubectl.ok(&["api-versions"]);
    for group in [
        "v1",
        "apps/v1",
        "coordination.k8s.io/v1",
        "discovery.k8s.io/v1",
        "events.k8s.io/v1",
    ] {
        assert!(
            versions.lines().any(|line| line == group),
            "{group} in {versions}"
        );
    }
    assert!(kubectl.ok(&["cluster-info"]).contains("127.0.0.1"));
    for path in [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
        "/openapi/v2",
        "/openapi/v3",
    ] {
        kubectl.raw(path);
    }
}

#[test]
fn explain_describes_fields() {
    let kubectl = Kubectl::new("default");
    let text = kubectl.ok(&["explain", "deployment.spec.strategy.rollingUpdate"]);
    assert!(
        text.contains("maxSurge") && text.contains("maxUnavailable"),
        "{text}"
    );
    assert!(
        kubectl
            .ok(&["explain", "pod.spec.containers.image"])
            .contains("FIELD: image <string>")
    );
    assert!(
        kubectl
            .ok(&["explain", "service", "--recursive"])
            .contains("sessionAffinityConfig")
    );
    kubectl.refused(&["explain", "pod.spec.nonsense"], "");
}

#[test]
fn short_names_and_singulars_mean_the_same() {
    let cluster = Cluster::namespace("short");
    cluster.kubectl.ok(&["create", "configmap", "a"]);
    for word in [
        "cm",
        "configmap",
        "configmaps",
        "ConfigMap",
        "configmaps.v1.",
    ] {
        cluster.kubectl.ok(&["get", word, "a"]);
    }
    for word in [
        "deploy",
        "deployment",
        "deployments.apps",
        "deployments.v1.apps",
    ] {
        cluster.kubectl.ok(&["get", word]);
    }
}
