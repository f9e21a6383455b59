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
async fn metrics_count_requests_and_store_writes() {
    let (server, _directory) = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let map = json!({"metadata": {"name": "a"}});
    let maps = "/api/v1/namespaces/default/configmaps";
    server.get("/api/v1/pods").await;
    server.get(pods).await;
    server.get(&format!("{pods}/p")).await;
    server.get(&format!("{pods}/p/log")).await;
    server
        .send("POST", &format!("{pods}/p/exec"), &json!({}))
        .await;
    server.get("/api/v1/watch/pods?timeoutSeconds=1").await;
    server
        .send("POST", &format!("{maps}?dryRun=All"), &map)
        .await;
    server.send("POST", maps, &map).await;
    server.send("PUT", &format!("{maps}/a"), &map).await;
    server.patch("merge", &format!("{maps}/a"), &map).await;
    server
        .call(
            Some("admin"),
            "PATCH",
            &format!("{maps}/a"),
            &[("content-type", "application/apply-patch+yaml")],
            "",
        )
        .await;
    server
        .send("DELETE", &format!("{maps}/a"), &json!({}))
        .await;
    server.send("DELETE", maps, &json!({})).await;
    server.get("/nowhere").await;
    server.get("/livez/ping").await;
    let text = server.get("/metrics").await.text();
    // Verbs, scopes and further labels are kube-apiserver's: `MonitorRequest` of apiserver (v1.37).
    for (verb, resource, subresource, scope, dry_run, code) in [
        ("LIST", "pods", "", "cluster", "", 200),
        ("LIST", "pods", "", "namespace", "", 200),
        ("GET", "pods", "", "resource", "", 404),
        ("GET", "pods", "log", "resource", "", 404),
        ("CONNECT", "pods", "exec", "resource", "", 404),
        ("WATCH", "pods", "", "cluster", "", 200),
        ("POST", "configmaps", "", "resource", "All", 201),
        ("POST", "configmaps", "", "resource", "", 201),
        ("PUT", "configmaps", "", "resource", "", 200),
        ("PATCH", "configmaps", "", "resource", "", 200),
        ("APPLY", "configmaps", "", "resource", "", 415),
        ("DELETE", "configmaps", "", "resource", "", 200),
        ("DELETECOLLECTION", "configmaps", "", "namespace", "", 200),
    ] {
        let line = format!(
            r#"apiserver_request_total{{verb="{verb}",group="",version="v1",resource="{resource}",subresource="{subresource}",scope="{scope}",component="apiserver",dry_run="{dry_run}",code="{code}"}} 1"#
        );
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    let health = r#"verb="GET",group="",version="",resource="",subresource="/livez",scope="""#;
    assert!(text.contains(health), "{text}");
    assert!(!text.contains("nowhere"), "paths are not labels: {text}");
    let second = r#"apiserver_request_duration_seconds_bucket{le="1.0",verb="LIST","#;
    assert!(text.contains(second), "{text}");
    let open = r#"apiserver_longrunning_requests{verb="WATCH",group="",version="v1",resource="pods",subresource="",scope="cluster",component="apiserver"} 0"#;
    assert!(text.contains(open), "{text}");
    assert!(text.contains("knarr_store_writes_total 7"), "{text}");
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
    // What cannot be understood is refused: dropped, it would run with the rights of the caller.
    for (name, value) in [
        ("impersonate-user", ""),
        ("impersonate-usr", "jane"),
        ("impersonate-group", "devs"),
        ("impersonate-uid", "1"),
    ] {
        let acting = [(name, value)];
        let answer = server.call(Some("admin"), "GET", path, &acting, "").await;
        assert_eq!(answer.code, 400, "{name}: {}", answer.text());
    }
    let whole = [
        ("impersonate-user", "j\u{f6}rg"),
        ("impersonate-uid", "u-1"),
        ("impersonate-extra-scopes", "view"),
        ("content-type", "application/json"),
    ];
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = server
        .call(Some("admin"), "POST", review, &whole, "{}")
        .await;
    assert_eq!(
        answer.json()["status"]["userInfo"],
        json!({
            "username": "j\u{f6}rg",
            "uid": "u-1",
            "groups": ["system:authenticated"],
            "extra": {"scopes": ["view"]},
        }),
        "{}",
        answer.text()
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
