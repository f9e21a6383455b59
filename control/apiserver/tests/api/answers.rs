// SPDX-License-Identifier: Apache-2.0
//! What clients read of an answer besides its object: each row is a request and what must be in the answer. The values
//! are kube-apiserver's (v1.37); clients compare them as text.

use serde_json::{Value, json};

use crate::harness::{Answer, Server};
use crate::server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const EVENTS: &str = "/api/v1/namespaces/default/events";
const NEWER_EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// What an answer has to be.
enum Is {
    /// This whole body.
    Body(&'static str),
    /// A body with this in it.
    Has(&'static str),
    /// A body that begins so.
    Starts(&'static str),
    /// A body that ends so.
    Ends(&'static str),
    /// This `Status.message`.
    Message(&'static str),
    /// This header.
    Header(&'static str, &'static str),
}

use Is::*;

/// A GET with headers, the code of its answer and what is in it.
struct Row(
    &'static str,
    &'static [(&'static str, &'static str)],
    u16,
    &'static [Is],
);

async fn check(server: &Server, rows: &[Row]) {
    for Row(path, headers, code, expected) in rows {
        let answer = server.call(Some("admin"), "GET", path, headers, "").await;
        assert_eq!(answer.code, *code, "{path} {headers:?}: {}", answer.text());
        for is in *expected {
            assert_is(&answer, is, path);
        }
    }
}

fn assert_is(answer: &Answer, is: &Is, what: &str) {
    let text = answer.text();
    let (holds, wanted) = match is {
        Body(body) => (text == *body, *body),
        Has(part) => (text.contains(part), *part),
        Starts(start) => (text.starts_with(start), *start),
        Ends(end) => (text.ends_with(end), *end),
        Message(message) => (answer.message() == *message, *message),
        Header(name, value) => {
            let found = answer.headers.get(*name).map(|v| v.as_bytes());
            (found == Some(value.as_bytes()), *value)
        }
    };
    assert!(holds, "{what}: wanted {wanted:?}, is {text}");
}

const MISSING: &str = "/api/v1/namespaces/default/configmaps/none";
const CURL: &[(&str, &str)] = &[("user-agent", "curl/8.0")];
const YAML: &[(&str, &str)] = &[("accept", "application/yaml")];

#[tokio::test]
async fn an_answer_is_written_as_kubernetes_writes_it() {
    let (server, _directory) = server().await;
    for name in ["a", "b", "c"] {
        let map = json!({"metadata": {"name": name}, "data": {"on": "2026-01-02", "n": "1_000"}});
        assert_eq!(server.send("POST", MAPS, &map).await.code, 201);
    }
    const NOT_FOUND: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"configmaps \"none\" not found","reason":"NotFound","details":{"name":"none","kind":"configmaps"},"code":404}
"#;
    const DETAILS: &str = r#""details":{"name":"none","group":"apps","kind":"deployments"},"code":404}
"#;
    check(
        &server,
        &[
            // A line that is not indented has an end; indented JSON has none.
            Row(MISSING, &[], 404, &[Body(NOT_FOUND)]),
            Row(
                "/apis/apps/v1/namespaces/default/deployments/none",
                &[],
                404,
                &[Ends(DETAILS)],
            ),
            Row(
                "/api/v1/namespaces/default/configmaps/none?pretty=true",
                &[],
                404,
                &[Starts("{\n  \"kind\": \"Status\",\n"), Ends("\"code\": 404\n}")],
            ),
            Row(MISSING, YAML, 404, &[Starts("apiVersion: v1\ncode: 404\ndetails:\n  kind: configmaps\n  name: none\nkind: Status\n"), Header("content-type", "application/yaml")]),
            Row("/api/v1/namespaces/default/configmaps/a", &[], 200, &[Starts("{\"kind\":\"ConfigMap\","), Ends("}\n")]),
            Row("/api/v1/namespaces/default/configmaps/a", CURL, 200, &[Starts("{\n  \"kind\": \"ConfigMap\",\n"), Ends("\n}"), Header("content-type", "application/json")]),
            Row("/api/v1/namespaces/default/configmaps/a", &[("user-agent", "Wget/1.21")], 200, &[Starts("{\n  ")]),
            Row("/api/v1/namespaces/default/configmaps/a", &[("user-agent", "Mozilla/5.0 (X11)")], 200, &[Starts("{\n  ")]),
            Row("/api/v1/namespaces/default/configmaps/a", &[("user-agent", "kubectl/v1.37.0")], 200, &[Starts("{\"")]),
            Row("/api/v1/namespaces/default/configmaps/a", &[("user-agent", "Mozilla/4.0")], 200, &[Starts("{\"")]),
            Row("/api/v1/namespaces/default/configmaps/a?pretty=false", CURL, 200, &[Starts("{\"")]),
            Row("/api/v1/namespaces/default/configmaps/a?pretty=what", CURL, 200, &[Starts("{\"")]),
            Row("/api/v1/namespaces/default/configmaps", CURL, 200, &[Starts("{\n  \"kind\": \"ConfigMapList\",\n"), Ends("\n}")]),
            Row("/api/v1/namespaces/default/configmaps", &[], 200, &[Starts("{\"kind\":\"ConfigMapList\","), Ends("]}\n")]),
            // Readers of YAML 1.1 take these for a boolean, a date and a number.
            Row("/api/v1/namespaces/default/configmaps/a", YAML, 200, &[Has("  \"on\": \"2026-01-02\"\n"), Has("  \"n\": \"1_000\"\n"), Has("  creationTimestamp: \"2")]),
            // A page in YAML leads to the next one as well.
            Row("/api/v1/namespaces/default/configmaps?limit=1", YAML, 200, &[Has("\n  continue: "), Has("\n  remainingItemCount: 2\n")]),
            Row("/api/v1/namespaces/default/configmaps?limit=1", CURL, 200, &[Has("    \"continue\": \""), Has("    \"remainingItemCount\": 2\n")]),
            Row("/version", &[], 200, &[Starts("{\n  \"major\": \"1\",\n"), Has("\"gitCommit\": \"0000000000000000000000000000000000000000\"")]),
            Row("/", &[], 200, &[Starts("{\n  \"paths\": [\n")]),
        ],
    )
    .await;
    let deleted = server
        .send("DELETE", &format!("{MAPS}/b"), &json!({}))
        .await;
    assert_is(
        &deleted,
        &Starts(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","details":{"name":"b","kind":"configmaps","uid":"#,
        ),
        "DELETE",
    );
    let invalid = server
        .send("POST", MAPS, &json!({"metadata": {"name": "A"}}))
        .await;
    let details = r#""details":{"name":"A","kind":"ConfigMap","causes":[{"reason":"FieldValueInvalid","message":"Invalid value: "#;
    assert!(invalid.text().contains(details), "{}", invalid.text());
}

#[tokio::test]
async fn a_path_that_nothing_serves_is_text_and_a_missing_resource_of_a_version_a_status() {
    let (server, _directory) = server().await;
    let nothing = &[
        Body("404 page not found\n"),
        Header("content-type", "text/plain; charset=utf-8"),
        Header("x-content-type-options", "nosniff"),
    ];
    let no_resource = &[Message("the server could not find the requested resource")];
    check(
        &server,
        &[
            Row("/foo", &[], 404, nothing),
            Row("/apis/foo", &[], 404, nothing),
            Row("/apis/foo/v1", &[], 404, nothing),
            Row("/apis/foo/v1/bars", &[], 404, nothing),
            Row("/api/v2", &[], 404, nothing),
            Row("/livez/foo", &[], 404, nothing),
            Row(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                &[],
                404,
                nothing,
            ),
            Row("/api/v1/foos", &[], 404, no_resource),
            Row("/apis/apps/v1/foos", &[], 404, no_resource),
            Row(
                "/api/v1/namespaces/default/pods/p/foo",
                &[],
                404,
                no_resource,
            ),
        ],
    )
    .await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(server.send("POST", path, &json!({})).await.code, 404);
    // kubectl would take an error for the reason why it does not know a kind.
    let kubectl = [("user-agent", "kubectl/v1.37.0")];
    let answer = server.call(Some("admin"), "GET", path, &kubectl, "").await;
    assert_eq!((answer.code, &answer.json()["items"]), (200, &json!([])));
    let refused = server.call(Some("user"), "GET", "/foo", &[], "").await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        r#"forbidden: User "jane" cannot get path "/foo""#
    );
}

#[tokio::test]
async fn discovery_says_where_the_server_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start_with(directory.path(), 0, |config| {
        config.advertised = Some(([198, 18, 0, 1], 6443).into());
    })
    .await;
    assert_eq!(
        server.get("/api").await.json(),
        json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [
                {"clientCIDR": "0.0.0.0/0", "serverAddress": "198.18.0.1:6443"},
            ],
        })
    );
}

#[tokio::test]
async fn the_old_paths_of_watches_still_watch() {
    let (server, _directory) = server().await;
    let map = json!({"metadata": {"name": "a"}});
    server.send("POST", MAPS, &map).await;
    server
        .send("POST", MAPS, &json!({"metadata": {"name": "b"}}))
        .await;
    for (path, count) in [
        ("/api/v1/watch/configmaps", 2),
        ("/api/v1/watch/namespaces/default/configmaps", 2),
        ("/api/v1/watch/namespaces/default/configmaps/a", 1),
        ("/api/v1/watch/namespaces/default", 1),
        ("/apis/apps/v1/watch/deployments", 0),
    ] {
        let answer = server.get(&format!("{path}?timeoutSeconds=1")).await;
        assert_eq!(answer.code, 200, "{path}");
        let text = answer.text();
        assert_eq!(text.lines().count(), count, "{path}: {text}");
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).expect("an event");
            assert_eq!(event["type"], "ADDED");
        }
        let written = server.send("POST", path, &map).await;
        assert_eq!(written.code, 405, "{path}: {}", written.text());
    }
}

/// The field labels of every kind: `AddFieldLabelConversionFunc` in `pkg/apis/*/v1/conversion.go`, and
/// `DefaultMetaV1FieldSelectorConversion` for kinds without one.
const LABELS: [(&str, &[&str]); 9] = [
    (
        "/api/v1/pods",
        &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
            "spec.host",
        ],
    ),
    ("/api/v1/nodes", &["metadata.name", "spec.unschedulable"]),
    ("/api/v1/namespaces", &["metadata.name", "status.phase"]),
    (
        "/api/v1/secrets",
        &["metadata.name", "metadata.namespace", "type"],
    ),
    (
        "/api/v1/services",
        &[
            "metadata.name",
            "metadata.namespace",
            "spec.clusterIP",
            "spec.type",
        ],
    ),
    (
        "/api/v1/events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
            "metadata.namespace",
            "metadata.name",
        ],
    ),
    (
        "/apis/events.k8s.io/v1/events",
        &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "source",
            "type",
            "metadata.namespace",
            "metadata.name",
        ],
    ),
    // apps/v1 has no conversion of its own, although the strategy of ReplicaSets knows `status.replicas`.
    (
        "/apis/apps/v1/replicasets",
        &["metadata.name", "metadata.namespace"],
    ),
    (
        "/api/v1/configmaps",
        &["metadata.name", "metadata.namespace"],
    ),
];

#[tokio::test]
async fn each_kind_has_the_field_labels_of_kubernetes_and_no_others() {
    let (server, _directory) = server().await;
    let all: std::collections::BTreeSet<&str> = LABELS
        .iter()
        .flat_map(|(_, labels)| labels.iter().copied())
        .chain(["status.replicas", "data.x", "spec.nodeName.x"])
        .collect();
    for (path, known) in LABELS {
        for label in &all {
            let answer = server
                .get(&format!("{path}?fieldSelector={label}%3Dx"))
                .await;
            if known.contains(label) {
                assert_eq!(answer.code, 200, "{path} {label}: {}", answer.text());
                continue;
            }
            let only_meta = known == ["metadata.name", "metadata.namespace"];
            let message = if only_meta {
                format!(
                    r#""{label}" is not a known field selector: only "metadata.name", "metadata.namespace""#
                )
            } else {
                format!("field label not supported: {label}")
            };
            assert_eq!((answer.code, answer.message()), (400, message), "{path}");
        }
    }
}

#[tokio::test]
async fn events_are_found_by_who_reported_them() {
    let (server, _directory) = server().await;
    for (name, source, reporting) in [
        (
            "by-source",
            json!({"component": "kubelet", "host": "n1"}),
            "",
        ),
        ("by-controller", json!({}), "example.com/scheduler"),
        ("by-both", json!({"component": "kubelet"}), "kubelet"),
    ] {
        let event = json!({
            "metadata": {"name": name},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "source": source,
            "reportingComponent": reporting,
            "reportingInstance": "x",
            "reason": "Pulled",
            "type": "Normal",
        });
        let made = server.send("POST", EVENTS, &event).await;
        assert_eq!(made.code, 201, "{}", made.text());
    }
    let all = ["by-both", "by-controller", "by-source"];
    for (selector, found) in [
        ("source%3Dkubelet", &["by-both", "by-source"][..]),
        ("source!%3Dkubelet", &["by-controller"]),
        ("source%3Dexample.com/scheduler", &["by-controller"]),
        ("reason%3DPulled", &all),
        ("type%3DWarning", &[]),
    ] {
        for events in [EVENTS, NEWER_EVENTS] {
            let path = format!("{events}?fieldSelector={selector}");
            assert_eq!(names(&server, &path).await, found, "{path}");
        }
    }
    for (path, label) in [
        (EVENTS, "reportingComponent"),
        (NEWER_EVENTS, "reportingController"),
    ] {
        let path = format!("{path}?fieldSelector={label}%3Dkubelet");
        assert_eq!(names(&server, &path).await, ["by-both"], "{path}");
    }
}

async fn names(server: &Server, path: &str) -> Vec<String> {
    let list = server.get(path).await.json();
    let items = list["items"].as_array().expect("items");
    items
        .iter()
        .map(|i| i["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn a_bad_label_selector_is_explained_once() {
    let (server, _directory) = server().await;
    for (selector, message) in [
        (
            "a+in+b",
            "unable to parse requirement: found 'b', expected: '('",
        ),
        (
            "%3D%3D",
            "found '==', expected: !, identifier, or 'end of string'",
        ),
        ("a,,b", "found ',', expected: identifier after ','"),
        (
            "a+b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        ),
    ] {
        let answer = server
            .get(&format!("{PODS}?labelSelector={selector}"))
            .await;
        assert_eq!(answer.code, 400, "{selector}");
        assert_eq!(answer.message(), message);
    }
}

/// The warnings of a dry-run creation.
async fn warnings(server: &Server, path: &str, object: &Value) -> Vec<String> {
    let answer = server
        .send("POST", &format!("{path}?dryRun=All"), object)
        .await;
    assert_eq!(answer.code, 201, "{}", answer.text());
    let quoted = answer.warnings();
    quoted
        .iter()
        .map(|w| {
            let text = w.strip_prefix("299 - ").expect("code and agent");
            serde_json::from_str(text).expect("a quoted text")
        })
        .collect()
}

fn with(mut object: Value, path: &str, value: Value) -> Value {
    let mut place = &mut object;
    for step in path.split('/') {
        place = match step.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[step],
        };
    }
    *place = value;
    object
}

/// What is added to a plain pod, and the warnings of `pkg/api/pod/warnings.go`; `@` stands for the path of the template.
fn pod_rows() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let terms = json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "node-role.kubernetes.io/master", "operator": "Exists"}]}]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [
            {"key": "beta.kubernetes.io/arch", "operator": "In", "values": ["amd64"]}]}}],
    }});
    vec![
        (
            "spec/nodeSelector",
            json!({"beta.kubernetes.io/os": "linux", "kubernetes.io/os": "linux"}),
            vec![
                r#"@spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
            ],
        ),
        (
            "spec/affinity",
            terms,
            vec![
                r#"@spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: node-role.kubernetes.io/master is use "node-role.kubernetes.io/control-plane" instead"#,
                r#"@spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead"#,
            ],
        ),
        (
            "metadata/annotations",
            json!({"scheduler.alpha.kubernetes.io/critical-pod": "", "seccomp.security.alpha.kubernetes.io/pod": "x", "container.apparmor.security.beta.kubernetes.io/c": "x"}),
            vec![
                r#"@metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead"#,
                r#"@metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead"#,
                r#"@metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead"#,
            ],
        ),
        (
            "spec/containers/0/env",
            json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B", "value": "1"}, {"name": "B", "value": "$(B)2"}, {"name": "C"}, {"name": "C", "value": "$(C)"}]),
            vec![
                r#"@spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply"#,
                r#"@spec.containers[0].env[5]: hides previous definition of "C", which may be dropped when using apply"#,
            ],
        ),
        (
            "spec/containers/0/ports",
            json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}, {"containerPort": 80, "name": "again"}]),
            vec![
                "@spec.containers[0].ports[2]: duplicate port definition with @spec.containers[0].ports[0]",
            ],
        ),
        (
            "spec/containers/0/resources",
            json!({"limits": {"memory": "100m"}}),
            vec![
                r#"@spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#,
            ],
        ),
        (
            "spec/hostAliases",
            json!([{"ip": "10.0.0.1", "hostnames": ["a"]}, {"ip": "10.0.0.1", "hostnames": ["b"]}]),
            vec![r#"@spec.hostAliases[1].ip: duplicate ip "10.0.0.1""#],
        ),
    ]
}

#[tokio::test]
async fn pods_and_templates_are_warned_of_as_by_kubernetes() {
    let (server, _directory) = server().await;
    let pod = json!({
        "metadata": {"name": "p", "labels": {"app": "p"}},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    });
    assert_eq!(warnings(&server, PODS, &pod).await, [""; 0]);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    for (path, value, wanted) in pod_rows() {
        let pod = with(pod.clone(), path, value);
        let workload = json!({
            "metadata": {"name": "w"},
            "spec": {"selector": {"matchLabels": {"app": "p"}}, "template": pod},
        });
        for (place, object, root) in [
            (PODS, &pod, ""),
            (deployments, &workload, "spec.template."),
            (sets, &workload, "spec.template."),
        ] {
            let found = warnings(&server, place, object).await;
            let at = |text: &&str| text.replace('@', root);
            let wanted: Vec<String> = wanted.iter().map(at).collect();
            for text in &wanted {
                // A template has no requests that were made of its limits.
                assert!(found.contains(text), "{path}: {text} is not in {found:?}");
            }
        }
    }
    let named = with(pod, "metadata/name", json!("a.b"));
    let found = warnings(&server, PODS, &named).await;
    assert!(
        found[0].starts_with("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [a lowercase RFC 1123 label must consist of"),
        "{found:?}"
    );
}

#[tokio::test]
async fn other_kinds_are_warned_of_as_by_kubernetes() {
    let (server, _directory) = server().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
    let endpoints = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
    for (path, object, wanted) in [
        (
            services,
            service(json!({"ports": [{"port": 80}], "trafficDistribution": "PreferClose"})),
            r#"spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone""#,
        ),
        (
            services,
            service(json!({"ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]})),
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
        ),
        (
            services,
            service(
                json!({"ports": [{"port": 80}], "clusterIP": "None", "sessionAffinity": "ClientIP"}),
            ),
            "spec.SessionAffinity is ignored for headless services",
        ),
        (
            services,
            service(json!({"ports": [{"port": 80}], "externalName": "a.example"})),
            r#"spec.externalName is ignored when spec.type is not "ExternalName""#,
        ),
        (
            "/api/v1/nodes",
            json!({"metadata": {"name": "n"}, "spec": {"externalID": "x"}}),
            "spec.externalID: this field is deprecated, and is unused by Kubernetes",
        ),
        (
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "a", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}}),
            "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets",
        ),
        (
            "/api/v1/namespaces/default/endpoints",
            json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "2001:DB8::1"}]}]}),
            r#"subsets[0].addresses[0].ip: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#,
        ),
        (
            "/api/v1/namespaces/default/endpoints",
            json!({"metadata": {"name": "e"}}),
            endpoints,
        ),
    ] {
        let found = warnings(&server, path, &object).await;
        assert!(
            found.iter().any(|w| w == wanted),
            "{path}: {wanted} is not in {found:?}"
        );
    }
    // That a kind is deprecated goes with every answer.
    let path = "/api/v1/namespaces/default/endpoints";
    let wanted = [format!("299 - \"{endpoints}\"")];
    for path in [
        path,
        "/api/v1/endpoints",
        "/api/v1/namespaces/default/endpoints/none",
    ] {
        assert_eq!(server.get(path).await.warnings(), wanted, "{path}");
    }
    assert_eq!(
        server
            .call(Some("user"), "GET", path, &[], "")
            .await
            .warnings(),
        [""; 0]
    );
}

#[tokio::test]
async fn values_that_say_nothing_are_not_echoed() {
    let (server, _directory) = server().await;
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {
            "hostNetwork": false, "nodeName": "", "enableServiceLinks": false,
            "containers": [{"name": "c", "image": "x:1", "stdin": false, "tty": false, "env": [{"name": "A", "value": ""}]}],
        },
    });
    let made = server.send("POST", PODS, &pod).await.json();
    assert!(made["spec"].get("hostNetwork").is_none());
    assert!(made["spec"].get("nodeName").is_none());
    assert_eq!(made["spec"]["enableServiceLinks"], false);
    assert_eq!(made["spec"]["containers"][0].get("tty"), None);
    assert_eq!(made["spec"]["containers"][0]["env"], json!([{"name": "A"}]));
    let node = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}});
    server.send("POST", "/api/v1/nodes", &node).await;
    let change = json!({"spec": {"unschedulable": false}});
    let patched = server
        .patch("strategic-merge", "/api/v1/nodes/n", &change)
        .await
        .json();
    assert_eq!(patched["spec"], json!({}));
    let found = names(
        &server,
        "/api/v1/nodes?fieldSelector=spec.unschedulable%3Dfalse",
    )
    .await;
    assert_eq!(found, ["n"]);
}

#[tokio::test]
async fn a_cluster_ip_that_is_changed_is_refused_by_its_field() {
    let (server, _directory) = server().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let made = server.send("POST", services, &service).await.json();
    let path = format!("{services}/s");
    let once = |ip: &str| {
        format!(
            r#"Service "s" is invalid: spec.clusterIPs[0]: Invalid value: ["{ip}"]: may not change once set"#
        )
    };
    // Old clients know `clusterIP` alone.
    for (change, ip) in [
        (json!({"clusterIP": "10.96.0.99"}), "10.96.0.99"),
        (json!({"clusterIP": "None"}), "None"),
        (
            json!({"clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"]}),
            "10.96.0.99",
        ),
    ] {
        let refused = server.patch("merge", &path, &json!({"spec": change})).await;
        assert_eq!(
            (refused.code, refused.message()),
            (422, once(ip)),
            "{change}"
        );
    }
    for change in [
        json!({"clusterIP": ""}),
        json!({"clusterIP": null}),
        json!({"clusterIPs": null}),
    ] {
        let kept = server.patch("merge", &path, &json!({"spec": change})).await;
        assert_eq!(kept.code, 200, "{change}: {}", kept.text());
        assert_eq!(kept.json()["spec"], made["spec"], "{change}");
    }
}
