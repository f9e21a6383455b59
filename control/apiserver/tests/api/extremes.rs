// SPDX-License-Identifier: Apache-2.0
//! Requests that are small and ask for much: each meets a bound, and the server goes on.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::Server;
use crate::server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_json_patch_has_an_end_to_its_operations_and_to_what_it_copies() {
    let (server, _directory) = server().await;
    let made = json!({"metadata": {"name": "a"}, "data": {"x": "y".repeat(100 << 10)}});
    assert_eq!(server.send("POST", MAPS, &made).await.code, 201);
    let path = format!("{MAPS}/a");
    let before = server.get(&path).await.json();
    let check = json!({"op": "test", "path": "/data/x", "value": made["data"]["x"]});
    let mut operations: Vec<Value> = Vec::new();
    let short = json!({"op": "test", "path": "/kind", "value": "ConfigMap"});
    operations.resize(10_001, short);
    let long = server.patch("json", &path, &operations.into()).await;
    assert_eq!(long.code, 413);
    assert_eq!(long.json()["reason"], "RequestEntityTooLarge");
    assert_eq!(
        long.message(),
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
    // Each copy is twice the one before: 100 KiB, 200 KiB, and with the fifth of them it is too much.
    let mut operations = vec![check];
    operations.extend(
        (0..6).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")})),
    );
    let large = server.patch("json", &path, &operations.into()).await;
    assert_eq!(large.code, 422);
    assert!(
        large.message().contains(
            "Unable to complete the copy, the accumulated size increase of copy is 3174778, exceeding the limit 3145728"
        ),
        "{}",
        large.message()
    );
    assert_eq!(server.get(&path).await.json(), before);
}

/// A pod that runs on a node, so that it does not go at once.
async fn running(server: &Server, name: &str, spec: Value) {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x:1"}]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    let made = server.send("POST", PODS, &pod).await;
    assert_eq!(made.code, 201, "{}", made.text());
}

/// When a pod is to be gone.
fn end(pod: &Value) -> Timestamp {
    let text = pod["metadata"]["deletionTimestamp"].as_str();
    text.expect("it is being deleted").parse().expect("a time")
}

#[tokio::test]
async fn a_grace_period_beyond_all_time_is_a_very_long_one() {
    let (server, _directory) = server().await;
    let long = json!({"gracePeriodSeconds": i64::MAX});
    running(&server, "body", json!({})).await;
    running(&server, "query", json!({})).await;
    let own = json!({"terminationGracePeriodSeconds": i64::MAX});
    running(&server, "own", own).await;
    let query = format!("?gracePeriodSeconds={}", i64::MAX);
    for (name, query, options) in [
        ("body", "", &long),
        ("query", query.as_str(), &json!({})),
        ("own", "", &json!({})),
    ] {
        let path = format!("{PODS}/{name}");
        let deleting = server
            .send("DELETE", &format!("{path}{query}"), options)
            .await;
        assert_eq!(deleting.code, 200, "{name}: {}", deleting.text());
        let deleting = deleting.json();
        let year = SignedDuration::from_hours(24 * 365);
        assert!(end(&deleting) > Timestamp::now() + year * 1000, "{name}");
        // The same again changes nothing, and a shorter one counts from the beginning of the deletion.
        let again = server
            .send("DELETE", &format!("{path}{query}"), options)
            .await
            .json();
        assert_eq!(again["metadata"], deleting["metadata"], "{name}");
        let shorter = json!({"gracePeriodSeconds": 30});
        let sooner = server.send("DELETE", &path, &shorter).await.json();
        assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 30);
        let left = end(&sooner).duration_since(Timestamp::now());
        assert!((0..=30).contains(&left.as_secs()), "{name}: {left}");
    }
    // What was asked for is shown where time goes that far.
    running(&server, "century", json!({})).await;
    let century = json!({"gracePeriodSeconds": 100_i64 * 365 * 86_400});
    let deleting = server
        .send("DELETE", &format!("{PODS}/century"), &century)
        .await
        .json();
    assert_eq!(
        deleting["metadata"]["deletionGracePeriodSeconds"],
        century["gracePeriodSeconds"]
    );
    let least = json!({"gracePeriodSeconds": i64::MIN});
    let soon = server
        .send("DELETE", &format!("{PODS}/century"), &least)
        .await
        .json();
    assert_eq!(soon["metadata"]["deletionGracePeriodSeconds"], 1);
}

#[tokio::test]
async fn only_a_real_watch_passes_the_bound_of_requests_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start_with(directory.path(), 0, |config| {
        config.reads_in_flight_max = 0;
    })
    .await;
    let made =
        json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}});
    assert_eq!(server.send("POST", PODS, &made).await.code, 201);
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/metrics",
        "/nowhere",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        "/api/v1/namespaces/default/bindings",
        "/api/v1/namespaces/default/pods/a/status",
        "/apis/apps/v1/namespaces/default/deployments/a/scale",
    ] {
        let answer = server.get(&format!("{path}?watch=true")).await;
        assert_eq!(answer.code, 429, "{path}: {}", answer.text());
    }
    for path in [PODS.to_owned(), format!("{PODS}/a")] {
        let watched = server
            .get(&format!("{path}?watch=true&timeoutSeconds=1"))
            .await;
        assert_eq!(watched.code, 200, "{path}: {}", watched.text());
        assert!(watched.text().contains("\"ADDED\""), "{}", watched.text());
    }
}
