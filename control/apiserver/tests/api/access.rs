// SPDX-License-Identifier: Apache-2.0
//! Who may do what, discovery, and the paths that need nobody.

use serde_json::json;

use crate::server;

#[tokio::test]
async fn nobody_gets_in_without_proof_except_to_ask_for_health_and_version() {
    let (server, _directory) = server().await;
    for path in [
        "/livez",
        "/readyz",
        "/healthz",
        "/livez/ping",
        "/readyz?verbose",
        "/version",
    ] {
        let answer = server.call(None, "GET", path, &[], "").await;
        assert_eq!(answer.code, 200, "{path}");
    }
    for path in ["/api", "/api/v1/pods", "/metrics", "/", "/foo"] {
        let answer = server.call(None, "GET", path, &[], "").await;
        assert_eq!(answer.code, 401, "{path}");
        assert_eq!(answer.message(), "Unauthorized");
        assert_eq!(answer.json()["kind"], "Status");
    }
    let token = [("authorization", "Bearer who-knows")];
    let answer = server.call(None, "GET", "/api/v1/pods", &token, "").await;
    assert_eq!(answer.code, 401);
}

#[tokio::test]
async fn a_certificate_of_another_ca_or_of_the_past_proves_nothing() {
    let (server, _directory) = server().await;
    for who in ["stranger", "expired"] {
        let answer = server.call(Some(who), "GET", "/livez", &[], "").await;
        assert_eq!(answer.code, 200, "{who}");
        for path in ["/api/v1/pods", "/apis", "/metrics"] {
            let answer = server.call(Some(who), "GET", path, &[], "").await;
            assert_eq!(answer.code, 401, "{who} {path}: {}", answer.text());
            assert_eq!(answer.message(), "Unauthorized");
        }
    }
    // The names in them are the admin's, who gets in.
    let answer = server.get("/api/v1/pods").await;
    assert_eq!(answer.code, 200);
}

#[tokio::test]
async fn a_node_certificate_opens_nothing_of_the_api() {
    let (server, _directory) = server().await;
    for path in [
        "/api/v1/namespaces/default/pods",
        "/api/v1/nodes/node-1",
        "/apis",
        "/metrics",
    ] {
        let answer = server.call(Some("node"), "GET", path, &[], "").await;
        assert_eq!(answer.code, 403, "{path}");
    }
    let answer = server
        .call(
            Some("node"),
            "GET",
            "/api/v1/namespaces/default/pods",
            &[],
            "",
        )
        .await;
    assert_eq!(
        answer.message(),
        r#"pods is forbidden: User "system:node:node-1" cannot list resource "pods" in API group "" in the namespace "default""#
    );
}

#[tokio::test]
async fn other_users_see_discovery_and_may_ask_what_they_may() {
    let (server, _directory) = server().await;
    let answer = server.call(Some("user"), "GET", "/apis", &[], "").await;
    assert_eq!(answer.code, 200);
    let answer = server
        .call(Some("user"), "GET", "/api/v1/nodes", &[], "")
        .await;
    assert_eq!(answer.code, 403);
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let question = json!({"spec": {"resourceAttributes": {"verb": "create", "resource": "pods"}}});
    let headers = [("content-type", "application/json")];
    for (who, allowed) in [("user", false), ("admin", true)] {
        let answer = server
            .call(Some(who), "POST", path, &headers, question.to_string())
            .await;
        assert_eq!(answer.code, 201, "{}", answer.text());
        assert_eq!(answer.json()["status"]["allowed"], allowed);
    }
}

#[tokio::test]
async fn discovery_names_every_resource_in_both_forms() {
    let (server, _directory) = server().await;
    let core = server.get("/api/v1").await.json();
    let names: Vec<&str> = core["resources"]
        .as_array()
        .expect("resources")
        .iter()
        .filter_map(|r| r["name"].as_str())
        .collect();
    for expected in [
        "bindings",
        "namespaces",
        "namespaces/finalize",
        "nodes/status",
        "pods",
        "pods/log",
        "pods/eviction",
        "services",
        "endpoints",
        "events",
        "secrets",
        "configmaps",
        "serviceaccounts",
    ] {
        assert!(names.contains(&expected), "{expected}: {names:?}");
    }
    let accept = [(
        "accept",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
    )];
    let answer = server
        .call(Some("admin"), "GET", "/apis", &accept, "")
        .await;
    assert_eq!(
        answer.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let groups = answer.json();
    let apps = groups["items"]
        .as_array()
        .expect("groups")
        .iter()
        .find(|g| g["metadata"]["name"] == "apps")
        .expect("apps");
    let deployments = &apps["versions"][0]["resources"][0];
    assert_eq!(deployments["resource"], "deployments");
    assert_eq!(deployments["subresources"][0]["subresource"], "scale");
    assert_eq!(
        deployments["subresources"][0]["responseKind"]["group"],
        "autoscaling"
    );
    let index = server.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .expect("a URL");
    let document = server.get(url).await.json();
    assert!(
        document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
            .is_object()
    );
}

#[tokio::test]
async fn there_are_no_custom_resources_and_none_can_be_defined() {
    let (server, _directory) = server().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let list = server.get(path).await.json();
    assert_eq!(list["items"], json!([]));
    assert_eq!(server.send("POST", path, &json!({})).await.code, 405);
    assert_eq!(
        server.call(Some("user"), "GET", path, &[], "").await.code,
        403
    );
}

#[tokio::test]
async fn metrics_count_requests_and_store_writes() {
    let (server, _directory) = server().await;
    server.get("/api/v1/pods").await;
    let text = server.get("/metrics").await.text();
    assert!(
        text.contains(r#"apiserver_request_total{verb="list",resource="pods",code="200"} 1"#),
        "{text}"
    );
    assert!(text.contains("knarr_store_writes_total 5"), "{text}");
    assert!(text.trim_end().ends_with("# EOF"));
}

#[tokio::test]
async fn masters_may_act_for_others_and_nobody_else_may() {
    let (server, _directory) = server().await;
    let acting = [("impersonate-user", "jane")];
    let path = "/api/v1/nodes";
    let answer = server.call(Some("admin"), "GET", path, &acting, "").await;
    assert_eq!(answer.code, 403);
    assert!(
        answer
            .message()
            .starts_with(r#"nodes is forbidden: User "jane" cannot list"#),
        "{}",
        answer.message()
    );
    let masters = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:masters"),
    ];
    let answer = server.call(Some("admin"), "GET", path, &masters, "").await;
    assert_eq!(answer.code, 200);
    let answer = server
        .call(Some("user"), "GET", "/apis", &masters, "")
        .await;
    assert_eq!(answer.code, 403);
    assert_eq!(
        answer.message(),
        r#"users "jane" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
}

#[tokio::test]
async fn client_side_checks_get_openapi_as_protobuf() {
    let (server, _directory) = server().await;
    let kind = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = server
        .call(Some("admin"), "GET", "/openapi/v2", &[("accept", kind)], "")
        .await;
    assert_eq!(answer.code, 200);
    // Go's parser of media types refuses an `@` in an answer.
    let sent = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!(answer.headers["content-type"], sent);
    assert!(answer.body.starts_with(b"\x0a\x032.0"));
}
