// SPDX-License-Identifier: Apache-2.0
//! Tests of image references.

use super::ImageName;

#[test]
fn names_are_completed_as_kubernetes_does() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let at_digest = format!("nginx:1.27@{digest}");
    let at_digest_full = format!("docker.io/library/nginx@{digest}");
    for (given, full) in [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        (
            "index.docker.io/bitnami/redis",
            "docker.io/bitnami/redis:latest",
        ),
        ("localhost/knarr-echo:dev", "localhost/knarr-echo:dev"),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
        ("reg:5000/a/b", "reg:5000/a/b:latest"),
        ("reg:5000/a/b:v1", "reg:5000/a/b:v1"),
        ("a__b/c-d.e", "docker.io/a__b/c-d.e:latest"),
        (at_digest.as_str(), at_digest_full.as_str()),
    ] {
        assert_eq!(ImageName::parse(given).unwrap().as_str(), full, "{given}");
        assert_eq!(ImageName::parse(full).unwrap().as_str(), full, "{full}");
    }
}

#[test]
fn what_cannot_be_a_reference_is_refused() {
    for bad in [
        "",
        ":tag",
        "a//b",
        "Nginx",
        "a/B",
        "nginx:",
        "nginx:-x",
        "nginx@sha256:12",
        "nginx@md5:aa",
        "a_-b",
        "../etc/passwd",
        "reg.io/../x",
        "a b",
        ".a",
        "a.",
    ] {
        assert!(ImageName::parse(bad).is_err(), "{bad}");
    }
    assert!(ImageName::parse(&"a".repeat(300)).is_err());
}
