// SPDX-License-Identifier: Apache-2.0
//! Bad input: each refusal has Kubernetes' code and words, and changes nothing.

use serde_json::{Value, json};

use crate::server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(template_label: &str) -> Value {
    json!({
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": template_label}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn unknown_fields_are_warned_of_refused_or_ignored_as_the_request_says() {
    let (server, _directory) = server().await;
    let mut sent = deployment("web");
    sent["spec"]["replicsa"] = 3.into();
    let path = |validation: &str| format!("{DEPLOYMENTS}?dryRun=All{validation}");
    let warned = server.send("POST", &path(""), &sent).await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warned.warnings(),
        [r#"299 - "unknown field \"spec.replicsa\"""#]
    );
    let strict = server
        .send("POST", &path("&fieldValidation=Strict"), &sent)
        .await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.message(),
        r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.replicsa""#
    );
    let ignored = server
        .send("POST", &path("&fieldValidation=Ignore"), &sent)
        .await;
    assert_eq!((ignored.code, ignored.warnings().len()), (201, 0));
    let wrong = server
        .send("POST", &path("&fieldValidation=Maybe"), &sent)
        .await;
    assert_eq!(wrong.code, 422);
    let duplicate = server
        .call(
            Some("admin"),
            "POST",
            &format!("{MAPS}?fieldValidation=Strict"),
            &[("content-type", "application/json")],
            r#"{"metadata":{"name":"a"},"data":{"x":"1"},"data":{"x":"2"}}"#,
        )
        .await;
    assert_eq!(duplicate.code, 400);
    assert!(duplicate.message().contains(r#"duplicate field "data""#));
}

#[tokio::test]
async fn a_selector_that_does_not_match_the_template_is_invalid() {
    let (server, _directory) = server().await;
    let refused = server.send("POST", DEPLOYMENTS, &deployment("other")).await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message(),
        r#"Deployment.apps "web" is invalid: spec.template.metadata.labels: Invalid value: {"app":"other"}: `selector` does not match template `labels`"#
    );
    let status = refused.json();
    assert_eq!(status["reason"], "Invalid");
    assert_eq!(status["details"]["kind"], "Deployment");
    assert_eq!(
        status["details"]["causes"][0]["field"],
        "spec.template.metadata.labels"
    );
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "FieldValueInvalid"
    );
}

#[tokio::test]
async fn the_selector_of_a_deployment_cannot_be_changed() {
    let (server, _directory) = server().await;
    server.send("POST", DEPLOYMENTS, &deployment("web")).await;
    let change = json!({"spec": {
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}},
    }});
    let refused = server
        .patch("merge", &format!("{DEPLOYMENTS}/web"), &change)
        .await;
    assert_eq!(refused.code, 422);
    assert_eq!(
        refused.message(),
        r#"Deployment.apps "web" is invalid: spec.selector: Invalid value: {"matchLabels":{"app":"x"}}: field is immutable"#
    );
}

#[tokio::test]
async fn names_versions_and_kinds_have_to_be_right() {
    let (server, _directory) = server().await;
    let name = server
        .send("POST", MAPS, &json!({"metadata": {"name": "No_Name"}}))
        .await;
    assert_eq!(name.code, 422);
    assert!(
        name.message().starts_with(
            r#"ConfigMap "No_Name" is invalid: metadata.name: Invalid value: "No_Name": a lowercase RFC 1123 subdomain"#
        ),
        "{}",
        name.message()
    );
    let unnamed = server.send("POST", MAPS, &json!({})).await;
    assert_eq!(
        unnamed.message(),
        r#"ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required"#
    );
    let mut old = deployment("web");
    old["apiVersion"] = "apps/v1beta1".into();
    let version = server.send("POST", DEPLOYMENTS, &old).await;
    assert_eq!(version.code, 400);
    assert_eq!(
        version.message(),
        "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"
    );
    let mut kind = deployment("web");
    kind["kind"] = "Deploymint".into();
    assert_eq!(server.send("POST", DEPLOYMENTS, &kind).await.code, 400);
    let namespace = json!({"metadata": {"name": "a", "namespace": "other"}});
    let elsewhere = server.send("POST", MAPS, &namespace).await;
    assert_eq!(
        elsewhere.message(),
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    let url = server
        .send(
            "PUT",
            &format!("{MAPS}/b"),
            &json!({"metadata": {"name": "a"}}),
        )
        .await;
    assert_eq!(
        url.message(),
        "the name of the object (a) does not match the name on the URL (b)"
    );
}

#[tokio::test]
async fn broken_bodies_are_bad_requests() {
    let (server, _directory) = server().await;
    let post = async |kind: &str, body: &str| {
        server
            .call(
                Some("admin"),
                "POST",
                MAPS,
                &[("content-type", kind)],
                body.to_owned(),
            )
            .await
    };
    let json = post("application/json", "{\"metadata\":").await;
    assert_eq!(json.code, 400);
    assert!(
        json.message().starts_with(
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error:"
        ),
        "{}",
        json.message()
    );
    let yaml = post("application/yaml", "metadata: [a, b").await;
    assert_eq!(yaml.code, 400);
    let types = post(
        "application/json",
        r#"{"metadata":{"name":"a"},"data":{"x":1}}"#,
    )
    .await;
    assert_eq!(types.code, 400);
    assert!(
        types
            .message()
            .contains("json: cannot unmarshal number into Go struct field ConfigMap.data"),
        "{}",
        types.message()
    );
    assert_eq!(post("text/plain", "x").await.code, 415);
    let good = post("application/yaml", "metadata: {name: fine}\ndata: {a: b}").await;
    assert_eq!(good.code, 201, "{}", good.text());
}

#[tokio::test]
async fn a_request_over_three_mebibytes_is_too_large() {
    let (server, _directory) = server().await;
    // The larger one is still being sent when it is known to be too large.
    for mebibytes in [3, 20] {
        let text = "y".repeat(mebibytes << 20);
        let big = json!({"metadata": {"name": "big"}, "data": {"x": text}});
        let refused = server.send("POST", MAPS, &big).await;
        assert_eq!(refused.code, 413, "{mebibytes} MiB");
        assert_eq!(refused.json()["reason"], "RequestEntityTooLarge");
        assert_eq!(
            refused.message(),
            "Request entity too large: limit is 3145728"
        );
    }
    let mebibyte = json!({"metadata": {"name": "big"}, "data": {"x": "y".repeat((1 << 20) + 1)}});
    let refused = server.send("POST", MAPS, &mebibyte).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .contains("Too long: may not be more than 1048576 bytes"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn more_requests_than_allowed_at_once_are_told_to_come_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = crate::harness::Server::start_with(directory.path(), 0, |config| {
        config.reads_in_flight_max = 0;
    })
    .await;
    let refused = server.get(MAPS).await;
    assert_eq!(refused.code, 429);
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.json()["reason"], "TooManyRequests");
    assert_eq!(refused.json()["details"]["retryAfterSeconds"], 1);
    // Writes have a bound of their own, and health is always answered.
    let sent = json!({"metadata": {"name": "a"}});
    assert_eq!(server.send("POST", MAPS, &sent).await.code, 201);
    assert_eq!(server.get("/livez").await.code, 200);
}

#[tokio::test]
async fn paths_methods_and_forms_that_do_not_exist_say_so() {
    let (server, _directory) = server().await;
    let method = server.send("POST", "/api/v1/configmaps", &json!({})).await;
    assert_eq!(method.code, 405);
    assert_eq!(
        method.message(),
        "the server does not allow this method on the requested resource"
    );
    let form = server
        .call(
            Some("admin"),
            "GET",
            MAPS,
            &[("accept", "application/xml")],
            "",
        )
        .await;
    assert_eq!(form.code, 406);
    let apply = server
        .call(
            Some("admin"),
            "PATCH",
            &format!("{MAPS}/a?fieldManager=x"),
            &[("content-type", "application/apply-patch+yaml")],
            "{}",
        )
        .await;
    assert_eq!(apply.code, 415);
    assert!(apply.message().contains("server-side apply"));
    assert!(apply.message().contains("--server-side=false"));
    let selector = server
        .get(&format!("{MAPS}?fieldSelector=data.x%3Dy"))
        .await;
    assert_eq!(selector.code, 400);
    assert_eq!(
        selector.message(),
        r#""data.x" is not a known field selector: only "metadata.name", "metadata.namespace""#
    );
}

#[tokio::test]
async fn namespaces_have_to_exist_and_stay_open() {
    let (server, _directory) = server().await;
    let sent = json!({"metadata": {"name": "a"}});
    let missing = server
        .send("POST", "/api/v1/namespaces/nope/configmaps", &sent)
        .await;
    assert_eq!(missing.code, 404);
    assert_eq!(missing.message(), "namespaces \"nope\" not found");
    server
        .send(
            "POST",
            "/api/v1/namespaces",
            &json!({"metadata": {"name": "closing"}}),
        )
        .await;
    let closing = server
        .send("DELETE", "/api/v1/namespaces/closing", &json!({}))
        .await
        .json();
    assert_eq!(closing["status"]["phase"], "Terminating");
    let refused = server
        .send("POST", "/api/v1/namespaces/closing/configmaps", &sent)
        .await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "configmaps \"a\" is forbidden: unable to create new content in namespace closing because it is being terminated"
    );
    assert_eq!(
        refused.json()["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    let immortal = server
        .send("DELETE", "/api/v1/namespaces/kube-system", &json!({}))
        .await;
    assert_eq!(
        immortal.message(),
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
    server
        .api
        .client()
        .finalize_namespace("closing")
        .await
        .expect("it is empty");
    assert_eq!(server.get("/api/v1/namespaces/closing").await.code, 404);
}

#[tokio::test]
async fn what_does_not_decode_is_refused_in_kubernetes_words() {
    let (server, _directory) = server().await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    let refused = server.send("POST", MAPS, &secret).await;
    assert_eq!(refused.code, 400);
    assert_eq!(refused.json()["reason"], "BadRequest");
    assert!(
        refused
            .message()
            .starts_with(r#"Secret in version "v1" cannot be handled as a ConfigMap"#),
        "{}",
        refused.message()
    );
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |containers: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "bad"},
            "spec": {"containers": containers},
        })
    };
    let many = json!([{"name": "c", "image": "x", "resources": {"requests": {"cpu": "many"}}}]);
    for (containers, wanted) in [
        (
            many,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!("one"),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
    ] {
        let refused = server.send("POST", pods, &pod(containers)).await;
        assert_eq!(refused.code, 400, "{}", refused.text());
        assert_eq!(
            refused.message(),
            format!(r#"Pod in version "v1" cannot be handled as a Pod: {wanted}"#)
        );
    }
    // kubectl parses YAML itself; other clients leave it to the server.
    let yaml = [("content-type", "application/yaml")];
    let broken = "apiVersion: v1\nkind: ConfigMap\n\tmetadata: {";
    let refused = server
        .call(Some("admin"), "POST", MAPS, &yaml, broken)
        .await;
    assert_eq!(refused.code, 400, "{}", refused.text());
    assert_eq!(refused.json()["reason"], "BadRequest");
    assert!(refused.message().contains("yaml"), "{}", refused.message());
    // A few bytes must not be able to fill the memory.
    let text = "x".repeat(1 << 20);
    let bomb = format!(
        "metadata: {{name: &a {text}}}\ndata: [{}]\n",
        ["*a"; 1000].join(",")
    );
    let refused = server.call(Some("admin"), "POST", MAPS, &yaml, bomb).await;
    assert_eq!(refused.code, 400, "{}", refused.text());
    assert!(
        refused.message().contains("send JSON"),
        "{}",
        refused.message()
    );
}
