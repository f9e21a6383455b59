// SPDX-License-Identifier: Apache-2.0
//! Watches over HTTP: the present, the past, bookmarks, tables and the end.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::harness::Server;
use crate::server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Longer than any event takes, shorter than anybody's patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open watch and what was not read of it yet.
pub struct Watch {
    body: hyper::body::Incoming,
    unread: Vec<u8>,
    _sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Watch {
    pub async fn open(server: &Server, path: &str, accept: &str) -> Self {
        let mut sender = server.connect(Some("admin")).await;
        let request = http::Request::get(path)
            .header("host", "127.0.0.1")
            .header("accept", accept)
            .body(Full::new(Bytes::new()))
            .expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        Self {
            body: response.into_body(),
            unread: Vec::new(),
            _sender: sender,
        }
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event in time")?;
            if let Ok(data) = frame.expect("a frame").into_data() {
                self.unread.extend_from_slice(&data);
            }
        }
    }

    /// Type and name of the next event.
    pub async fn seen(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (
            text(&event["type"]),
            text(&event["object"]["metadata"]["name"]),
        )
    }
}

fn map(name: &str, tier: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"tier": tier}}})
}

fn pair(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let (server, _directory) = server().await;
    server.send("POST", MAPS, &map("a", "x")).await;
    let mut watch = Watch::open(&server, &format!("{MAPS}?watch=1"), "application/json").await;
    assert_eq!(watch.seen().await, pair("ADDED", "a"));
    server.send("POST", MAPS, &map("b", "x")).await;
    assert_eq!(watch.seen().await, pair("ADDED", "b"));
    let patch = json!({"data": {"k": "v"}});
    server.patch("merge", &format!("{MAPS}/a"), &patch).await;
    assert_eq!(watch.seen().await, pair("MODIFIED", "a"));
    server
        .send("DELETE", &format!("{MAPS}/a"), &json!({}))
        .await;
    assert_eq!(watch.seen().await, pair("DELETED", "a"));
}

#[tokio::test]
async fn a_watch_from_a_version_repeats_nothing_and_misses_nothing() {
    let (server, _directory) = server().await;
    server.send("POST", MAPS, &map("a", "x")).await;
    let list = server.get(MAPS).await.json();
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    server.send("POST", MAPS, &map("b", "x")).await;
    let path = format!("{MAPS}?watch=true&resourceVersion={version}");
    let mut watch = Watch::open(&server, &path, "application/json").await;
    assert_eq!(watch.seen().await, pair("ADDED", "b"));
    server.send("POST", MAPS, &map("c", "x")).await;
    assert_eq!(watch.seen().await, pair("ADDED", "c"));
}

#[tokio::test]
async fn a_version_from_before_the_window_is_gone() {
    let (server, directory) = server().await;
    server.send("POST", MAPS, &map("a", "x")).await;
    server.stop().await;
    let server = Server::start_in(directory.path(), 0).await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for accept in ["application/json", table] {
        let headers = [("accept", accept)];
        let path = format!("{MAPS}?watch=true&resourceVersion=1");
        let answer = server.call(Some("admin"), "GET", &path, &headers, "").await;
        assert_eq!(answer.code, 200, "what has ended is said in the stream");
        let event = answer.json();
        assert_eq!(event["type"], "ERROR");
        let status = &event["object"];
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], 410);
        assert_eq!(status["reason"], "Expired");
        let message = status["message"].as_str().expect("a message");
        assert!(
            message.starts_with("too old resource version: 1 ("),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_watch_from_the_future_is_silent_until_then() {
    let (server, _directory) = server().await;
    let made = server.send("POST", MAPS, &map("a", "x")).await.json();
    let version = made["metadata"]["resourceVersion"].as_str();
    let version: u64 = version.and_then(|v| v.parse().ok()).expect("a version");
    // b and c come before it or with it, d after.
    let path = format!(
        "{MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={}",
        version + 2
    );
    let mut watch = Watch::open(&server, &path, "application/json").await;
    for name in ["b", "c", "d"] {
        server.send("POST", MAPS, &map(name, "x")).await;
    }
    assert_eq!(watch.seen().await, pair("ADDED", "d"));
    let far = format!("{MAPS}?watch=true&resourceVersion=99999999&timeoutSeconds=1");
    let mut watch = Watch::open(&server, &far, "application/json").await;
    server.send("POST", MAPS, &map("e", "x")).await;
    assert_eq!(watch.next().await, None, "nothing until its time is over");
}

#[tokio::test]
async fn an_object_that_begins_or_ceases_to_be_selected_is_added_or_deleted() {
    let (server, _directory) = server().await;
    server.send("POST", MAPS, &map("a", "x")).await;
    let path = format!("{MAPS}?watch=true&labelSelector=tier%3Dx");
    let mut watch = Watch::open(&server, &path, "application/json").await;
    assert_eq!(watch.seen().await, pair("ADDED", "a"));
    let tier = |tier: &str| json!({"metadata": {"labels": {"tier": tier}}});
    server
        .patch("merge", &format!("{MAPS}/a"), &tier("y"))
        .await;
    let event = watch.next().await.expect("an event");
    assert_eq!(event["type"], "DELETED");
    assert_eq!(
        event["object"]["metadata"]["labels"]["tier"], "x",
        "as it was when it was last selected"
    );
    server
        .patch("merge", &format!("{MAPS}/a"), &tier("x"))
        .await;
    assert_eq!(watch.seen().await, pair("ADDED", "a"));
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let (server, _directory) = server().await;
    server.send("POST", MAPS, &map("a", "x")).await;
    let path = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    );
    let mut watch = Watch::open(&server, &path, "application/json").await;
    assert_eq!(watch.seen().await, pair("ADDED", "a"));
    let bookmark = watch.next().await.expect("a bookmark");
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    server.send("POST", MAPS, &map("b", "x")).await;
    assert_eq!(watch.seen().await, pair("ADDED", "b"));
    let unmatched = server
        .get(&format!("{MAPS}?watch=true&sendInitialEvents=true"))
        .await;
    assert_eq!(unmatched.code, 422);
}

#[tokio::test]
async fn tables_are_watched_with_their_columns_once() {
    let (server, _directory) = server().await;
    server.send("POST", MAPS, &map("a", "x")).await;
    server.send("POST", MAPS, &map("b", "x")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut watch = Watch::open(&server, &format!("{MAPS}?watch=true"), accept).await;
    let first = watch.next().await.expect("an event");
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    let second = watch.next().await.expect("an event");
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn a_watch_ends_after_its_time_and_when_the_server_does() {
    let (server, _directory) = server().await;
    let path = format!("{MAPS}?watch=true&timeoutSeconds=1");
    let mut watch = Watch::open(&server, &path, "application/json").await;
    assert_eq!(watch.next().await, None);
    let mut watch = Watch::open(&server, &format!("{MAPS}?watch=true"), "application/json").await;
    let stopping = tokio::spawn(server.stop());
    assert_eq!(watch.next().await, None);
    tokio::time::timeout(PATIENCE, stopping)
        .await
        .expect("the server ends in time")
        .expect("the task ends");
}
