// SPDX-License-Identifier: Apache-2.0
//! `resourceVersion` and `continue` of reads: what is answered for versions that are past, gone or to come.
//!
//! The words are those of kube-apiserver v1.37: `storage/errors.go`, `storage/continue.go`, `storage/etcd3/store.go`,
//! and the table of https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions.

use knarr_store::{Revision, Store};
use serde_json::{Value, json};

use crate::harness::{Answer, Server};
use crate::server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

fn names(answer: &Answer) -> Vec<String> {
    let list = answer.json();
    let items = list["items"].as_array().expect("items").iter();
    items
        .map(|item| {
            item["metadata"]["name"]
                .as_str()
                .expect("a name")
                .to_owned()
        })
        .collect()
}

fn version(answer: &Answer) -> u64 {
    let tree = answer.json();
    let text = tree["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).expect("a version")
}

/// Ten ConfigMaps m0 to m9, and the version after each.
async fn ten_maps(server: &Server) -> Vec<u64> {
    let mut versions = Vec::new();
    for n in 0..10 {
        let made = server.send("POST", MAPS, &map(&format!("m{n}"))).await;
        versions.push(version(&made));
    }
    versions
}

#[tokio::test]
async fn reads_of_versions_to_come_time_out_with_the_cause_that_clients_look_for() {
    let (server, _directory) = server().await;
    ten_maps(&server).await;
    let paths = [
        format!("{MAPS}?resourceVersion=99999999"),
        format!("{MAPS}?resourceVersion=99999999&limit=3"),
        format!("{MAPS}?resourceVersion=99999999&resourceVersionMatch=NotOlderThan"),
        format!("{MAPS}?resourceVersion=99999999&resourceVersionMatch=Exact"),
        format!("{MAPS}/m1?resourceVersion=99999999"),
    ];
    let current = server.store.stats().revision;
    // Each waits a few seconds for what it asks for.
    let answers = futures::future::join_all(paths.iter().map(|path| server.get(path))).await;
    for (path, answer) in paths.iter().zip(answers) {
        let status = answer.json();
        assert_eq!(answer.code, 504, "{path}");
        assert_eq!(status["reason"], "Timeout", "{path}");
        assert_eq!(
            status["message"],
            format!("Timeout: Too large resource version: 99999999, current: {current}"),
            "{path}"
        );
        assert_eq!(
            status["details"],
            json!({
                "causes": [{
                    "reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version",
                }],
                "retryAfterSeconds": 1,
            }),
            "{path}"
        );
        assert_eq!(answer.headers["retry-after"], "1", "{path}");
    }
}

#[tokio::test]
async fn reads_of_versions_past_show_what_the_rules_say() {
    let (server, _directory) = server().await;
    let versions = ten_maps(&server).await;
    let (old, newest) = (versions[4], versions[9]);
    // (query, whether all ten are shown, the version of the list)
    for (query, count, at) in [
        (String::new(), 10, newest),
        ("resourceVersion=0".to_owned(), 10, newest),
        (format!("resourceVersion={old}"), 10, newest),
        (
            format!("resourceVersion={old}&resourceVersionMatch=NotOlderThan"),
            10,
            newest,
        ),
        (
            format!("resourceVersion={old}&resourceVersionMatch=Exact"),
            5,
            old,
        ),
        (
            format!("resourceVersion={newest}&resourceVersionMatch=Exact"),
            10,
            newest,
        ),
    ] {
        let answer = server.get(&format!("{MAPS}?{query}")).await;
        assert_eq!(answer.code, 200, "{query}: {}", answer.text());
        assert_eq!(names(&answer).len(), count, "{query}");
        assert_eq!(version(&answer), at, "{query}");
    }
}

#[tokio::test]
async fn history_that_is_gone_speaks_of_what_was_asked_for() {
    let (server, _directory) = server().await;
    let versions = ten_maps(&server).await;
    let page = server.get(&format!("{MAPS}?limit=3")).await.json();
    let token = page["metadata"]["continue"].as_str().expect("a token");
    server
        .send("DELETE", &format!("{MAPS}/m5"), &json!({}))
        .await;
    server.send("POST", MAPS, &map("n0")).await;
    let head = server.store.stats().revision;
    server.store.compact(head).await.expect("compacted");
    // `Exact` is about the list ...
    let path = format!(
        "{MAPS}?resourceVersion={}&resourceVersionMatch=Exact",
        versions[4]
    );
    let answer = server.get(&path).await;
    assert_eq!(answer.code, 410);
    let status = answer.json();
    assert_eq!(status["reason"], "Expired");
    assert_eq!(
        status["message"],
        "The resourceVersion for the provided list is too old."
    );
    assert_eq!(status["metadata"], json!({}));
    // ... and a page about its token, in whose place the client gets one that goes on with what is there now.
    let answer = server
        .get(&format!("{MAPS}?limit=3&continue={token}"))
        .await;
    assert_eq!(answer.code, 410);
    let status = answer.json();
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.starts_with(
            "The provided continue parameter is too old to display a consistent list result."
        ),
        "{message}"
    );
    let next = status["metadata"]["continue"].as_str().expect("a token");
    let rest = server.get(&format!("{MAPS}?continue={next}")).await;
    assert_eq!(names(&rest), ["m3", "m4", "m6", "m7", "m8", "m9", "n0"]);
    assert_eq!(version(&rest), head.0);
}

#[tokio::test]
async fn every_page_says_how_many_objects_follow() {
    let (server, _directory) = server().await;
    let versions = ten_maps(&server).await;
    server
        .send(
            "POST",
            "/api/v1/namespaces",
            &json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"},
            }),
        )
        .await;
    for n in 0..5 {
        let other = "/api/v1/namespaces/other/configmaps";
        server.send("POST", other, &map(&format!("o{n}"))).await;
    }
    let newest = versions[9];
    for (path, total) in [
        (format!("{MAPS}?"), 10),
        (
            format!("{MAPS}?resourceVersion={newest}&resourceVersionMatch=Exact&"),
            10,
        ),
        ("/api/v1/namespaces/other/configmaps?".to_owned(), 5),
        ("/api/v1/namespaces/nowhere/configmaps?".to_owned(), 0),
        ("/api/v1/configmaps?".to_owned(), 15),
    ] {
        for limit in [3, 5, 10, 20] {
            let mut seen = 0;
            let mut page = server.get(&format!("{path}limit={limit}")).await;
            loop {
                seen += names(&page).len();
                let meta = &page.json()["metadata"];
                let left = total - seen;
                assert!(left == 0 || names(&page).len() == limit, "{path} {limit}");
                let said = meta["remainingItemCount"].as_u64();
                assert_eq!(said, (left > 0).then_some(left as u64), "{path} {limit}");
                let Some(next) = meta["continue"].as_str() else {
                    break;
                };
                let bare = path.split('?').next().expect("a path");
                page = server
                    .get(&format!("{bare}?limit={limit}&continue={next}"))
                    .await;
            }
            assert_eq!(seen, total, "{path} {limit}");
        }
    }
    // Where a selector leaves objects out nobody knows, and nothing is said.
    let page = server
        .get(&format!("{MAPS}?limit=1&fieldSelector=metadata.name!=m0"))
        .await;
    assert_eq!(names(&page), ["m1"]);
    let meta = &page.json()["metadata"];
    assert!(meta["remainingItemCount"].is_null(), "{meta}");
    assert!(meta["continue"].is_string());
}

#[tokio::test]
async fn a_collection_is_deleted_to_its_end_while_its_own_writes_push_history_out() {
    let (server, _directory) = server().await;
    ten_maps(&server).await;
    let many = (0..300).map(|n| {
        let server = &server;
        async move { server.send("POST", MAPS, &map(&format!("x{n}"))).await.code }
    });
    let codes: Vec<u16> = futures::StreamExt::collect(futures::StreamExt::buffer_unordered(
        futures::stream::iter(many),
        16,
    ))
    .await;
    assert!(codes.iter().all(|code| *code == 201));
    // History is compacted as fast as it is made.
    let store = server.store.clone();
    let compacting = tokio::spawn(async move {
        loop {
            let head = store.stats().revision;
            // Overtaken by the next round at most.
            let _ = store.compact(Revision(head.0)).await;
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    let answer = server.send("DELETE", MAPS, &json!({})).await;
    compacting.abort();
    assert_eq!(answer.code, 200, "{}", answer.text());
    assert_eq!(answer.json()["kind"], "ConfigMapList");
    assert_eq!(names(&answer).len(), 310);
    assert!(names(&server.get(MAPS).await).is_empty());
}

#[tokio::test]
async fn a_limited_deletion_of_a_collection_says_where_to_go_on() {
    let (server, _directory) = server().await;
    ten_maps(&server).await;
    let answer = server
        .send("DELETE", &format!("{MAPS}?limit=4"), &json!({}))
        .await;
    assert_eq!(names(&answer), ["m0", "m1", "m2", "m3"]);
    let meta = answer.json()["metadata"].clone();
    assert_eq!(meta["remainingItemCount"], 6);
    let next = meta["continue"].as_str().expect("a token");
    let path = format!("{MAPS}?limit=4&continue={next}");
    let answer = server.send("DELETE", &path, &json!({})).await;
    assert_eq!(names(&answer), ["m4", "m5", "m6", "m7"]);
    assert_eq!(names(&server.get(MAPS).await), ["m8", "m9"]);
}
