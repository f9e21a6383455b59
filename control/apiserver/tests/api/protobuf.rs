// SPDX-License-Identifier: Apache-2.0
//! Protobuf as Go clients ask for it, read with the messages of upstream's own descriptions.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use k8s_pb::api::core::v1::{ConfigMap, ConfigMapList, Event, Pod};
use k8s_pb::apimachinery::pkg::apis::meta::v1::{
    APIGroupList, APIResourceList, APIVersions, ObjectMeta, PartialObjectMetadata, Status,
    WatchEvent,
};
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use prost::Message;
use serde_json::json;

use crate::harness::{Answer, Server};
use crate::server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What client-go asks for where it is told to prefer protobuf.
const CLIENT_GO: &str = "application/vnd.kubernetes.protobuf,application/json";
const PATIENCE: Duration = Duration::from_secs(10);

/// An object in the envelope.
fn sealed(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
        }),
        raw: Some(message.encode_to_vec()),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    [b"k8s\0".to_vec(), unknown.encode_to_vec()].concat()
}

/// What is in an envelope, and which kind it is.
fn opened<M: Message + Default>(body: &[u8]) -> (String, M) {
    let unknown = body.strip_prefix(b"k8s\0").expect("an envelope");
    let unknown = Unknown::decode(unknown).expect("an envelope");
    let kind = unknown.type_meta.unwrap_or_default();
    let kind = format!(
        "{} {}",
        kind.api_version.unwrap_or_default(),
        kind.kind.unwrap_or_default()
    );
    let message = M::decode(&*unknown.raw.unwrap_or_default()).expect("a message");
    (kind, message)
}

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: Some(ObjectMeta {
            name: Some(name.to_owned()),
            // Go writes what says nothing too.
            generate_name: Some(String::new()),
            ..ObjectMeta::default()
        }),
        data: [("k".to_owned(), "grüße".to_owned())].into(),
        binary_data: [("b".to_owned(), vec![0, 255])].into(),
        ..ConfigMap::default()
    }
}

async fn send(server: &Server, method: &str, path: &str, accept: &str, body: Vec<u8>) -> Answer {
    let mut sender = server.connect(Some("admin")).await;
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1")
        .header("accept", accept)
        .header("content-type", PROTOBUF)
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    let response = sender.send_request(request).await.expect("a response");
    let (parts, body) = response.into_parts();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.expect("a body").to_bytes(),
    }
}

async fn get(server: &Server, path: &str, accept: &str) -> Answer {
    server
        .call(Some("admin"), "GET", path, &[("accept", accept)], "")
        .await
}

#[tokio::test]
async fn what_is_created_in_protobuf_is_the_same_in_json() {
    let (server, _directory) = server().await;
    let body = sealed("v1", "ConfigMap", &map("a"));
    let created = send(&server, "POST", MAPS, CLIENT_GO, body).await;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.headers["content-type"], PROTOBUF);
    let (kind, created) = opened::<ConfigMap>(&created.body);
    assert_eq!(kind, "v1 ConfigMap");
    assert_eq!(created.data, map("a").data);
    assert_eq!(created.binary_data, map("a").binary_data);
    let meta = created.metadata.clone().expect("metadata");
    assert!(meta.uid.is_some_and(|uid| !uid.is_empty()));
    assert!(
        meta.creation_timestamp
            .is_some_and(|time| time.seconds > Some(0))
    );
    let read = get(&server, &format!("{MAPS}/a"), CLIENT_GO).await;
    assert_eq!(opened::<ConfigMap>(&read.body).1, created);
    let json = server.get(&format!("{MAPS}/a")).await.json();
    assert_eq!(json["data"], json!({"k": "grüße"}));
    assert_eq!(json["binaryData"], json!({"b": "AP8="}));
    assert_eq!(
        json["metadata"]["resourceVersion"].as_str(),
        meta.resource_version.as_deref()
    );

    let mut changed = created;
    changed.immutable = Some(true);
    let body = sealed("v1", "ConfigMap", &changed);
    let replaced = send(&server, "PUT", &format!("{MAPS}/a"), PROTOBUF, body).await;
    assert_eq!(replaced.code, 200, "{}", replaced.text());
    assert_eq!(opened::<ConfigMap>(&replaced.body).1.immutable, Some(true));
}

#[tokio::test]
async fn lists_and_metadata_alone_are_messages() {
    let (server, _directory) = server().await;
    for name in ["a", "b"] {
        let body = sealed("v1", "ConfigMap", &map(name));
        assert_eq!(send(&server, "POST", MAPS, PROTOBUF, body).await.code, 201);
    }
    let list = get(&server, &format!("{MAPS}?limit=1"), CLIENT_GO).await;
    assert_eq!(list.headers["content-type"], PROTOBUF);
    let (kind, list) = opened::<ConfigMapList>(&list.body);
    assert_eq!(kind, "v1 ConfigMapList");
    let meta = list.metadata.expect("metadata");
    assert!(meta.resource_version.is_some() && meta.r#continue.is_some());
    assert_eq!(meta.remaining_item_count, Some(1));
    assert_eq!(list.items.len(), 1);
    assert_eq!(list.items[0].data, map("a").data);
    let partial = format!("{PROTOBUF};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let answer = get(&server, &format!("{MAPS}/a"), &partial).await;
    let (kind, partial) = opened::<PartialObjectMetadata>(&answer.body);
    assert_eq!(kind, "meta.k8s.io/v1 PartialObjectMetadata");
    let name = partial.metadata.and_then(|meta| meta.name);
    assert_eq!(name.as_deref(), Some("a"));
    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let answer = get(&server, MAPS, &partial).await;
    use k8s_pb::apimachinery::pkg::apis::meta::v1::PartialObjectMetadataList;
    let (kind, list) = opened::<PartialObjectMetadataList>(&answer.body);
    assert_eq!(kind, "meta.k8s.io/v1 PartialObjectMetadataList");
    assert_eq!(list.items.len(), 2);
}

#[tokio::test]
async fn a_table_is_json_also_for_clients_of_protobuf() {
    let (server, _directory) = server().await;
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    let both = format!("{table},application/json;as=Table;g=meta.k8s.io;v=v1");
    let answer = get(&server, MAPS, &both).await;
    assert_eq!(answer.json()["kind"], "Table");
    let refused = get(&server, MAPS, &table).await;
    assert_eq!(refused.code, 406);
    assert_eq!(
        refused.message(),
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
}

#[tokio::test]
async fn refusals_and_successes_are_messages() {
    let (server, _directory) = server().await;
    let refused = get(&server, &format!("{MAPS}/none"), CLIENT_GO).await;
    assert_eq!(refused.code, 404);
    let (kind, status) = opened::<Status>(&refused.body);
    assert_eq!(kind, "v1 Status");
    assert_eq!(status.code, Some(404));
    assert_eq!(status.reason.as_deref(), Some("NotFound"));
    assert_eq!(
        status.message.as_deref(),
        Some("configmaps \"none\" not found")
    );
    let details = status.details.expect("details");
    assert_eq!(details.name.as_deref(), Some("none"));
    assert_eq!(details.kind.as_deref(), Some("configmaps"));

    let body = sealed("v1", "ConfigMap", &map("Not A Name"));
    let refused = send(&server, "POST", MAPS, CLIENT_GO, body).await;
    let (_, status) = opened::<Status>(&refused.body);
    assert_eq!(status.code, Some(422));
    let causes = status.details.expect("details").causes;
    assert_eq!(causes[0].field.as_deref(), Some("metadata.name"));

    let body = sealed("v1", "ConfigMap", &map("a"));
    assert_eq!(send(&server, "POST", MAPS, PROTOBUF, body).await.code, 201);
    let options = k8s_pb::apimachinery::pkg::apis::meta::v1::DeleteOptions {
        propagation_policy: Some("Background".to_owned()),
        ..Default::default()
    };
    let body = sealed("v1", "DeleteOptions", &options);
    let deleted = send(&server, "DELETE", &format!("{MAPS}/a"), CLIENT_GO, body).await;
    let (_, status) = opened::<Status>(&deleted.body);
    assert_eq!(status.status.as_deref(), Some("Success"));
}

#[tokio::test]
async fn discovery_is_a_message_for_those_who_ask() {
    let (server, _directory) = server().await;
    let answer = get(&server, "/api", CLIENT_GO).await;
    let (_, versions) = opened::<APIVersions>(&answer.body);
    assert_eq!(versions.versions, ["v1"]);
    let answer = get(&server, "/apis", CLIENT_GO).await;
    let (kind, groups) = opened::<APIGroupList>(&answer.body);
    assert_eq!(kind, "v1 APIGroupList");
    assert!(
        groups
            .groups
            .iter()
            .any(|group| group.name.as_deref() == Some("apps"))
    );
    let answer = get(&server, "/api/v1", CLIENT_GO).await;
    let (_, resources) = opened::<APIResourceList>(&answer.body);
    let pods = resources
        .resources
        .iter()
        .find(|r| r.name.as_deref() == Some("pods"));
    let verbs = pods.and_then(|pods| pods.verbs.clone()).expect("verbs");
    assert!(verbs.items.iter().any(|verb| verb == "watch"));
}

/// An open watch in protobuf.
struct Watch {
    body: hyper::body::Incoming,
    unread: Vec<u8>,
    _sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Watch {
    async fn open(server: &Server, path: &str) -> Self {
        let mut sender = server.connect(Some("admin")).await;
        let request = http::Request::get(path)
            .header("host", "127.0.0.1")
            .header("accept", CLIENT_GO)
            .body(Full::new(Bytes::new()))
            .expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers()["content-type"],
            "application/vnd.kubernetes.protobuf;stream=watch"
        );
        Self {
            body: response.into_body(),
            unread: Vec::new(),
            _sender: sender,
        }
    }

    /// Type and object of the next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            if let Some((length, rest)) = self.unread.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if let Some(frame) = rest.get(..length) {
                    let event = WatchEvent::decode(frame).expect("an event");
                    self.unread.drain(..length + 4);
                    let object = event.object.and_then(|object| object.raw);
                    return Some((event.r#type?, object?));
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event in time")?;
            if let Ok(data) = frame.expect("a frame").into_data() {
                self.unread.extend_from_slice(&data);
            }
        }
    }

    async fn next_map(&mut self) -> (String, String) {
        let (event, object) = self.next().await.expect("an event");
        let (kind, map) = opened::<ConfigMap>(&object);
        assert_eq!(kind, "v1 ConfigMap");
        let meta = map.metadata.expect("metadata");
        assert!(meta.resource_version.is_some());
        (event, meta.name.unwrap_or_default())
    }
}

fn pair(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

#[tokio::test]
async fn a_watch_sends_frames_with_their_length() {
    let (server, _directory) = server().await;
    let body = sealed("v1", "ConfigMap", &map("a"));
    assert_eq!(send(&server, "POST", MAPS, PROTOBUF, body).await.code, 201);
    let path = format!(
        "{MAPS}?watch=1&allowWatchBookmarks=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(Watch::open(&server, &path).await);
    }
    for watch in &mut watches {
        assert_eq!(watch.next_map().await, pair("ADDED", "a"));
        let (event, object) = watch.next().await.expect("an event");
        assert_eq!(event, "BOOKMARK");
        let (_, bookmark) = opened::<ConfigMap>(&object);
        let meta = bookmark.metadata.expect("metadata");
        assert_eq!(meta.annotations["k8s.io/initial-events-end"], "true");
    }
    let change = json!({"data": {"k": "w"}});
    let path = format!("{MAPS}/a");
    let changed = server.patch("merge", &path, &change).await;
    assert_eq!(changed.code, 200);
    server.call(Some("admin"), "DELETE", &path, &[], "").await;
    for watch in &mut watches {
        assert_eq!(watch.next_map().await, pair("MODIFIED", "a"));
        assert_eq!(watch.next_map().await, pair("DELETED", "a"));
    }
}

#[tokio::test]
async fn a_watch_from_before_the_history_ends_with_a_status() {
    let (server, directory) = server().await;
    assert_eq!(
        server
            .send("POST", MAPS, &json!({"metadata": {"name": "a"}}))
            .await
            .code,
        201
    );
    server.stop().await;
    let server = Server::start_in(directory.path(), 0).await;
    let mut watch = Watch::open(&server, &format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let (event, object) = watch.next().await.expect("an event");
    assert_eq!(event, "ERROR");
    let (kind, status) = opened::<Status>(&object);
    assert_eq!(kind, "v1 Status");
    assert_eq!(status.code, Some(410));
    assert_eq!(watch.next().await, None);
    let yaml = format!("{MAPS}?watch=1");
    let refused = get(&server, &yaml, "application/yaml").await;
    assert_eq!(refused.code, 406);
}

#[tokio::test]
async fn a_pod_and_an_event_in_two_groups_are_messages() {
    let (server, _directory) = server().await;
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {
            "containers": [{
                "name": "c",
                "image": "i",
                "resources": {"limits": {"cpu": "1500m"}},
                "livenessProbe": {"httpGet": {"port": "http"}},
                "ports": [{"name": "http", "containerPort": 80}],
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    assert_eq!(server.send("POST", PODS, &pod).await.code, 201);
    let answer = get(&server, &format!("{PODS}/p"), PROTOBUF).await;
    let (_, pod) = opened::<Pod>(&answer.body);
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    let container = &spec.containers[0];
    let limits = &container.resources.as_ref().expect("resources").limits;
    assert_eq!(limits["cpu"].string.as_deref(), Some("1500m"));
    let probe = container.liveness_probe.as_ref().expect("a probe");
    let get_action = probe.handler.as_ref().and_then(|h| h.http_get.as_ref());
    let port = get_action
        .and_then(|get| get.port.as_ref())
        .expect("a port");
    assert_eq!(
        (port.r#type, port.str_val.as_deref()),
        (Some(1), Some("http"))
    );
    let source = spec.volumes[0].volume_source.as_ref().expect("a source");
    assert!(source.empty_dir.is_some());

    let event = json!({
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Why", "message": "because", "type": "Normal", "count": 3,
    });
    let events = "/api/v1/namespaces/default/events";
    assert_eq!(server.send("POST", events, &event).await.code, 201);
    let answer = get(&server, &format!("{events}/e"), PROTOBUF).await;
    let (kind, event) = opened::<Event>(&answer.body);
    assert_eq!(kind, "v1 Event");
    assert_eq!(
        (event.count, event.message.as_deref()),
        (Some(3), Some("because"))
    );
    let view = "/apis/events.k8s.io/v1/namespaces/default/events/e";
    let answer = get(&server, view, PROTOBUF).await;
    let (kind, event) = opened::<k8s_pb::api::events::v1::Event>(&answer.body);
    assert_eq!(kind, "events.k8s.io/v1 Event");
    assert_eq!(event.note.as_deref(), Some("because"));
    let regarding = event.regarding.and_then(|regarding| regarding.name);
    assert_eq!(regarding.as_deref(), Some("p"));
}
