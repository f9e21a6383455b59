// SPDX-License-Identifier: Apache-2.0
//! Bad input: each is answered as Kubernetes answers it, and nothing is written. Bodies that are no object at all are in
//! `bad_bodies`.

use knarr_tests::{Cluster, manifests};
use serde_json::{Value, json};

/// Creates something that has to be refused, and returns the complaint.
fn refused(cluster: &Cluster, object: &Value) -> String {
    cluster
        .kubectl
        .refused(&["create", "--filename", "-"], &object.to_string())
}

/// Sends bytes as they are, and returns the complaint.
pub fn raw(cluster: &Cluster, path: &str, body: &str) -> String {
    let outcome = cluster
        .kubectl
        .run_with(&["create", "--raw", path, "--filename", "-"], body);
    assert!(
        !outcome.success,
        "{path} took {} bytes: {}",
        body.len(),
        outcome.stdout
    );
    outcome.stderr
}

/// Every part is in what was said.
pub fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[test]
fn unknown_versions_and_kinds_are_named() {
    let cluster = Cluster::namespace("unknown-kind");
    let mut deployment = manifests::echo_deployment("web", 1);
    deployment["apiVersion"] = json!("apps/v9");
    assert_says(
        &refused(&cluster, &deployment),
        &["no matches for kind \"Deployment\" in version \"apps/v9\""],
    );
    assert_says(
        &refused(
            &cluster,
            &json!({"apiVersion": "v1", "kind": "Nonsense", "metadata": {"name": "a"}}),
        ),
        &["no matches for kind \"Nonsense\" in version \"v1\""],
    );
    assert_says(
        &cluster.kubectl.refused(&["get", "nonsense"], ""),
        &["the server doesn't have a resource type \"nonsense\""],
    );
    // A kind in another kind's place, and a version in another's.
    let path = format!("/api/v1/namespaces/{}/configmaps", cluster.namespace);
    let said = raw(
        &cluster,
        &path,
        r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#,
    );
    assert_says(
        &said,
        &[
            "Error from server (BadRequest): Secret in version \"v1\" cannot be handled as a ConfigMap",
        ],
    );
}

#[test]
fn unknown_and_duplicate_fields_are_handled_as_the_request_asks() {
    let cluster = Cluster::namespace("fields");
    let mut deployment = manifests::echo_deployment("web", 0);
    deployment["spec"]["replcas"] = json!(3);
    deployment["spec"]["template"]["spec"]["containers"][0]["imge"] = json!("x");
    let text = deployment.to_string();
    let strict = cluster
        .kubectl
        .refused(&["create", "--validate=strict", "--filename", "-"], &text);
    assert_says(
        &strict,
        &[
            "strict decoding error",
            "unknown field \"spec.replcas\"",
            "unknown field \"spec.template.spec.containers[0].imge\"",
        ],
    );
    let warned = cluster
        .kubectl
        .run_with(&["create", "--validate=warn", "--filename", "-"], &text);
    assert!(warned.success);
    assert_says(&warned.stderr, &["Warning: unknown field \"spec.replcas\""]);
    cluster.kubectl.ok(&["delete", "deployment", "web"]);
    let ignored = cluster
        .kubectl
        .run_with(&["create", "--validate=ignore", "--filename", "-"], &text);
    assert!(
        ignored.success && !ignored.stderr.contains("Warning"),
        "{}",
        ignored.stderr
    );
    assert!(
        cluster.kubectl.json(&["get", "deployment", "web"])["spec"]["replcas"].is_null(),
        "an unknown field was kept"
    );

    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice"},"data":{"a":"1"},"data":{"a":"2"}}"#;
    let path = format!(
        "/api/v1/namespaces/{}/configmaps?fieldValidation=Strict",
        cluster.namespace
    );
    assert_says(&raw(&cluster, &path, twice), &["duplicate field \"data\""]);
    let path = format!(
        "/api/v1/namespaces/{}/configmaps?fieldValidation=Ignore",
        cluster.namespace
    );
    assert!(
        cluster
            .kubectl
            .run_with(&["create", "--raw", &path, "--filename", "-"], twice)
            .success
    );
    let path = format!(
        "/api/v1/namespaces/{}/configmaps?fieldValidation=Sometimes",
        cluster.namespace
    );
    assert_says(&raw(&cluster, &path, twice), &["fieldValidation"]);
}

#[test]
fn names_that_are_no_dns_names_are_refused() {
    let cluster = Cluster::namespace("bad-names");
    let said = refused(
        &cluster,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Not_A_Name"}}),
    );
    assert_says(
        &said,
        &[
            "ConfigMap \"Not_A_Name\" is invalid",
            "metadata.name: Invalid value: \"Not_A_Name\": a lowercase RFC 1123 subdomain must consist of",
        ],
    );
    let mut service = manifests::echo_service("1web");
    service["metadata"]["name"] = json!("1web.x");
    assert_says(
        &refused(&cluster, &service),
        &[
            "Service \"1web.x\" is invalid",
            "metadata.name: Invalid value",
        ],
    );
    let said = refused(
        &cluster,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"labels": {"a": "b"}}}),
    );
    assert_says(&said, &["name or generateName is required"]);
    assert_says(
        &cluster
            .kubectl
            .refused(&["create", "namespace", "UPPER"], ""),
        &["RFC 1123 label"],
    );
    let mut pod = manifests::script_pod("ok", "node-1", "true");
    pod["metadata"]["labels"] = json!({"-bad-": "x", "ok": "not ok!"});
    assert_says(
        &refused(&cluster, &pod),
        &["metadata.labels: Invalid value"],
    );
}

#[test]
fn a_deployments_selector_has_to_match_and_stays() {
    let cluster = Cluster::namespace("bad-selector");
    let mut deployment = manifests::echo_deployment("web", 0);
    deployment["spec"]["selector"]["matchLabels"] = json!({"app": "other"});
    assert_says(
        &refused(&cluster, &deployment),
        &[
            "The Deployment \"web\" is invalid",
            "spec.template.metadata.labels: Invalid value",
            "`selector` does not match template `labels`",
        ],
    );
    cluster.kubectl.apply(&manifests::echo_deployment("web", 0));
    deployment["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    assert_says(
        &cluster
            .kubectl
            .refused(&["apply", "--filename", "-"], &deployment.to_string()),
        &["spec.selector: Invalid value", "field is immutable"],
    );
    let mut negative = manifests::echo_deployment("negative", 0);
    negative["spec"]["replicas"] = json!(-1);
    assert_says(
        &refused(&cluster, &negative),
        &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    );
}

#[test]
fn containers_are_checked_field_by_field() {
    let cluster = Cluster::namespace("bad-pods");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut pod = manifests::script_pod("bad", "node-1", "true");
        change(&mut pod["spec"]);
        refused(&cluster, &pod)
    };
    assert_says(
        &with(&|spec| spec["containers"] = json!([])),
        &["spec.containers: Required value"],
    );
    assert_says(
        &with(&|spec| spec["containers"][0]["image"] = json!("")),
        &["spec.containers[0].image: Required value"],
    );
    assert_says(
        &with(&|spec| spec["containers"][0]["name"] = json!("Bad Name")),
        &["spec.containers[0].name: Invalid value"],
    );
    assert_says(
        &with(&|spec| spec["containers"][0]["ports"] = json!([{"containerPort": 70000}])),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ],
    );
    assert_says(
        &with(&|spec| spec["restartPolicy"] = json!("Sometimes")),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ],
    );
    assert_says(
        &with(&|spec| {
            spec["containers"][0]["volumeMounts"] = json!([{"name": "none", "mountPath": "/x"}])
        }),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"none\""],
    );
    assert_says(
        &with(&|spec| {
            spec["containers"][0]["resources"] =
                json!({"requests": {"memory": "2Mi"}, "limits": {"memory": "1Mi"}})
        }),
        &["must be less than or equal to memory limit"],
    );
    let said =
        with(&|spec| spec["containers"][0]["resources"] = json!({"requests": {"cpu": "many"}}));
    assert_says(
        &said,
        &[
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ],
    );
    let said = with(&|spec| spec["containers"] = json!("one"));
    assert_says(
        &said,
        &[
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ],
    );
    assert!(
        cluster.kubectl.items(&["get", "pods"]).is_empty(),
        "something was written"
    );
}

#[test]
fn node_ports_and_cluster_ips_are_given_once_and_from_their_range() {
    let cluster = Cluster::namespace("bad-services");
    let kubectl = &cluster.kubectl;
    let with = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut service = manifests::echo_service(name);
        service["spec"]["ports"] = json!([{"name": "http", "port": 80}]);
        change(&mut service["spec"]);
        service
    };
    let said = refused(
        &cluster,
        &with("range", &|spec| spec["ports"][0]["nodePort"] = json!(80)),
    );
    assert_says(
        &said,
        &[
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
        ],
    );
    // One of the ports that are kept for those who ask for them, so that no other test is given it meanwhile.
    kubectl.apply(&with("first", &|spec| {
        spec["ports"][0]["nodePort"] = json!(30_047);
    }));
    let first = kubectl.json(&["get", "service", "first"]);
    let taken = first["spec"]["ports"][0]["nodePort"].clone();
    let said = refused(
        &cluster,
        &with("taken", &|spec| {
            spec["ports"][0]["nodePort"] = taken.clone()
        }),
    );
    assert_says(&said, &["provided port is already allocated"]);
    let ip = first["spec"]["clusterIP"].clone();
    assert_says(
        &refused(
            &cluster,
            &with("same-ip", &|spec| spec["clusterIP"] = ip.clone()),
        ),
        &["provided IP is already allocated"],
    );
    let said = refused(
        &cluster,
        &with("other-ip", &|spec| spec["clusterIP"] = json!("192.0.2.7")),
    );
    assert_says(
        &said,
        &[
            "spec.clusterIP",
            "Invalid value",
            "not in the valid range",
            "10.96.0.0/12",
        ],
    );
    let said = refused(
        &cluster,
        &with("no-ip", &|spec| spec["clusterIP"] = json!("nonsense")),
    );
    assert_says(&said, &["Invalid value: \"nonsense\""]);
    let said = kubectl.refused(
        &[
            "patch",
            "service",
            "first",
            "--type=merge",
            "--patch",
            r#"{"spec":{"clusterIP":"10.96.99.99","clusterIPs":["10.96.99.99"]}}"#,
        ],
        "",
    );
    assert_says(
        &said,
        &[
            "spec.clusterIPs[0]: Invalid value",
            "may not change once set",
        ],
    );
    assert_says(
        &refused(
            &cluster,
            &with("no-ports", &|spec| spec["ports"] = json!([])),
        ),
        &["spec.ports: Required value"],
    );
    assert_says(
        &refused(
            &cluster,
            &with("kind", &|spec| spec["type"] = json!("Nonsense")),
        ),
        &["Unsupported value: \"Nonsense\""],
    );
    let said = refused(
        &cluster,
        &with("affinity", &|spec| {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 86401}});
        }),
    );
    assert_says(
        &said,
        &["timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400"],
    );
    // Refused means not held: the same address is free for the next one.
    kubectl.ok(&["delete", "service", "first"]);
    kubectl.apply(&with("second", &|spec| {
        spec["clusterIP"] = ip.clone();
        spec["ports"][0]["nodePort"] = taken.clone();
    }));
}

#[test]
fn what_exists_and_what_does_not_is_said_in_kubernetes_words() {
    let cluster = Cluster::namespace("exists");
    cluster.kubectl.ok(&["create", "configmap", "a"]);
    assert_says(
        &cluster.kubectl.refused(&["create", "configmap", "a"], ""),
        &["configmaps \"a\" already exists"],
    );
    assert_says(
        &cluster.kubectl.refused(&["get", "pod", "none"], ""),
        &["Error from server (NotFound): pods \"none\" not found"],
    );
    assert_says(
        &cluster.kubectl.refused(&["get", "deployment", "none"], ""),
        &["Error from server (NotFound): deployments.apps \"none\" not found"],
    );
    let elsewhere = cluster.kubectl.refused(
        &[
            "create",
            "configmap",
            "a",
            "--namespace",
            "no-such-namespace",
        ],
        "",
    );
    assert_says(&elsewhere, &["namespaces \"no-such-namespace\" not found"]);
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "other"}});
    let said = raw(
        &cluster,
        &format!("/api/v1/namespaces/{}/configmaps", cluster.namespace),
        &wrong.to_string(),
    );
    assert_says(
        &said,
        &["the namespace of the provided object does not match the namespace sent on the request"],
    );
    assert!(
        cluster
            .kubectl
            .refused(&["get", "--raw", "/no/such/path"], "")
            .contains("NotFound")
    );
    assert!(
        cluster
            .kubectl
            .refused(&["delete", "namespace", "default"], "")
            .contains("orbidden")
    );
}
