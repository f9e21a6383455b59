// SPDX-License-Identifier: Apache-2.0
//! Tests of the changes that are sent to nodes.

use bytes::Bytes;
use knarr_api::feed::change::Change as C;
use knarr_api::k8s_openapi::api::core::v1::Service;
use knarr_api::k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::*;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, uid: &str, node: &str, spec: Value, phase: &str) -> (Pod, Bytes) {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "uid": uid},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase},
    });
    if !node.is_empty() {
        value["spec"]["nodeName"] = node.into();
    }
    for (key, part) in spec.as_object().unwrap() {
        value["spec"][key] = part.clone();
    }
    let bytes = Bytes::from(value.to_string());
    (parse(value), bytes)
}

fn plain(changes: Vec<Outgoing>) -> Vec<(String, C)> {
    changes
        .into_iter()
        .map(|out| {
            let audience = match out.audience {
                Audience::All => "*".to_owned(),
                Audience::AllExcept(node) => format!("!{node}"),
                Audience::Node(node) => node.to_string(),
            };
            (audience, out.change.change.unwrap())
        })
        .collect()
}

fn refers_to_map() -> Value {
    json!({"containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "settings"}}]}]})
}

/// Everything that is sent to a node.
fn snapshot(view: &FeedView, node: &str) -> Vec<Change> {
    let (mut changes, next) = view.snapshot_services(None, usize::MAX);
    assert_eq!(next, None);
    changes.extend(view.snapshot_of_node(node));
    changes
}

#[test]
fn services_are_told_in_parts_that_make_the_whole_while_others_come_and_go() {
    let mut view = FeedView::default();
    let add = |view: &mut FeedView, name: &str, ports: u32| {
        let ports: Vec<_> = (0..ports)
            .map(|n| json!({"name": format!("p{n}"), "port": 80 + n}))
            .collect();
        let slice: EndpointSlice = parse(json!({
            "metadata": {
                "namespace": "default", "name": format!("{name}-1"),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.0.9"], "conditions": {"ready": true}}],
            "ports": ports,
        }));
        let service: Service = parse(json!({
            "metadata": {"namespace": "default", "name": name, "uid": name},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": ports},
        }));
        view.observe_service(&service);
        view.observe_slice(&slice);
    };
    let names: Vec<_> = (0..20).map(|n| format!("s{n:02}")).collect();
    for (n, name) in names.iter().enumerate() {
        add(&mut view, name, 1 + n as u32 % 4);
    }
    let whole = view.snapshot_services(None, usize::MAX).0;
    for enough in [1, 2, 7, 40, 1000] {
        let mut told = Vec::new();
        let mut after = None;
        loop {
            let (part, next) = view.snapshot_services(after.as_ref(), enough);
            // Whole Services, and no more than the one that fills the part.
            assert!(part.len() < enough + 5, "{} of {enough}", part.len());
            let first = part.first().and_then(|change| change.change.as_ref());
            assert!(matches!(first, Some(C::ServiceSet(_))), "{first:?}");
            told.extend(part);
            match next {
                Some(name) => after = Some(name),
                None => break,
            }
        }
        assert_eq!(told, whole, "parts of {enough}");
    }
    // What goes on after a Service that is gone meanwhile starts with the one behind it.
    let (_, after) = view.snapshot_services(None, 1);
    view.forget_service(after.as_ref().unwrap());
    view.forget_slice(&NamespacedName::new("default", "s00-1"));
    let (rest, _) = view.snapshot_services(after.as_ref(), usize::MAX);
    assert_eq!(rest, view.snapshot_services(None, usize::MAX).0);
}

fn settings() -> ObjectKey {
    ObjectKey {
        kind: ObjectKind::ConfigMap,
        namespace: "default".into(),
        name: "settings".into(),
    }
}

#[test]
fn a_pod_is_told_to_its_own_node_once_it_is_bound() {
    let mut view = FeedView::default();
    let (unbound, json) = pod("web", "u1", "", json!({}), "Pending");
    assert_eq!(view.observe_pod(&unbound, json), []);
    let (bound, json) = pod("web", "u1", "node-1", json!({}), "Pending");
    let told = plain(view.observe_pod(&bound, json.clone()));
    let set = C::PodSet(PodSet {
        uid: "u1".into(),
        pod_json: json,
    });
    assert_eq!(told, [("node-1".to_owned(), set)]);
    let name = NamespacedName::new("default", "web");
    assert_eq!(view.node_of_pod(&name, "u1").map(|n| &**n), Some("node-1"));
    assert_eq!(view.node_of_pod(&name, "u2"), None);
    assert_eq!(snapshot(&view, "node-1").len(), 1);
    assert_eq!(snapshot(&view, "node-2"), []);
}

#[test]
fn a_status_that_a_node_reported_is_not_told_back_to_it() {
    let mut view = FeedView::default();
    let (pending, json) = pod("web", "u1", "node-1", json!({}), "Pending");
    view.observe_pod(&pending, json);
    let (running, json) = pod("web", "u1", "node-1", json!({}), "Running");
    let name = NamespacedName::new("default", "web");
    view.report_pod(&name, "u1", running.status.as_ref().unwrap());
    assert_eq!(view.observe_pod(&running, json.clone()), []);
    // A node that asks for everything gets the newest.
    let snapshot = snapshot(&view, "node-1");
    assert_eq!(
        snapshot[0].change,
        Some(C::PodSet(PodSet {
            uid: "u1".into(),
            pod_json: json
        }))
    );
    let mut ending = running.clone();
    ending.metadata.deletion_grace_period_seconds = Some(30);
    assert_eq!(view.observe_pod(&ending, Bytes::new()).len(), 1);
}

/// A pod with a value in every part that others than its node can write.
fn whole_pod() -> Value {
    json!({
        "metadata": {
            "namespace": "default", "name": "web", "uid": "u1", "resourceVersion": "1", "generation": 1,
            "labels": {"a": "1"}, "annotations": {"a": "1"}, "finalizers": ["example.com/a"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "o1"}],
        },
        "spec": {
            "nodeName": "node-1", "activeDeadlineSeconds": 10, "terminationGracePeriodSeconds": 10,
            "containers": [{"name": "c", "image": "i"}],
            "tolerations": [{"key": "a"}], "readinessGates": [{"conditionType": "example.com/ok"}],
        },
        "status": {
            "phase": "Running", "reason": "r", "message": "m", "podIP": "10.0.0.1", "hostIP": "10.0.0.2",
            "podIPs": [{"ip": "10.0.0.1"}], "startTime": "2020-01-01T00:00:00Z",
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0}],
            "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "example.com/ok", "status": "True"},
                {"type": "example.com/other", "status": "True"},
            ],
        },
    })
}

/// The JSON pointers of all strings, numbers and booleans.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                leaves(value, &format!("{at}/{}", key.replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, &format!("{at}/{index}"), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

#[test]
fn a_node_sees_every_change_of_its_pod_that_it_did_not_make() {
    // A new name or uid is another pod, another node's name is another test.
    const ANOTHER: [&str; 4] = [
        "/metadata/namespace",
        "/metadata/name",
        "/metadata/uid",
        "/spec/nodeName",
    ];
    // What no node reads: the version, and what others tell each other in the status.
    const UNREAD: [&str; 3] = [
        "/metadata/resourceVersion",
        "/status/conditions/2/type",
        "/status/conditions/2/status",
    ];
    let whole = whole_pod();
    let mut all = Vec::new();
    leaves(&whole, "", &mut all);
    assert!(all.len() > 30, "{all:?}");
    for pointer in all.iter().filter(|p| !ANOTHER.contains(&p.as_str())) {
        let mut view = FeedView::default();
        let before: Pod = parse(whole.clone());
        view.observe_pod(&before, Bytes::new());
        let name = NamespacedName::new("default", "web");
        view.report_pod(&name, "u1", before.status.as_ref().unwrap());
        let mut changed = whole.clone();
        let leaf = changed.pointer_mut(pointer).unwrap();
        *leaf = match &*leaf {
            Value::Bool(set) => (!*set).into(),
            Value::Number(number) => (number.as_i64().unwrap() + 1).into(),
            Value::String(text) if text.contains("T00:") => "2021-01-01T00:00:00Z".into(),
            other => format!("{}x", other.as_str().unwrap()).into(),
        };
        let told = view.observe_pod(&parse(changed), Bytes::new()).len();
        let wanted = usize::from(!UNREAD.contains(&pointer.as_str()));
        assert_eq!(told, wanted, "{pointer}");
        // And back: by its node this time, where it is the node's to say.
        view.report_pod(&name, "u1", before.status.as_ref().unwrap());
        let is_of_node =
            pointer.starts_with("/status/") && !pointer.starts_with("/status/conditions/1/");
        let told = view.observe_pod(&before, Bytes::new()).len();
        assert_eq!(
            told,
            if is_of_node { 0 } else { wanted },
            "{pointer} set back"
        );
    }
}

#[test]
fn a_last_phase_from_somebody_else_is_told_before_the_node_has_reported() {
    let mut view = FeedView::default();
    let (pending, json) = pod("web", "u1", "node-1", json!({}), "Pending");
    view.observe_pod(&pending, json);
    let (failed, json) = pod("web", "u1", "node-1", json!({}), "Failed");
    assert_eq!(view.observe_pod(&failed, json).len(), 1);
}

#[test]
fn a_pod_made_again_under_the_same_name_is_another_pod() {
    let mut view = FeedView::default();
    let (old, json) = pod("web", "u1", "node-1", json!({}), "Running");
    view.observe_pod(&old, json);
    let (new, json) = pod("web", "u2", "node-2", json!({}), "Pending");
    let told = plain(view.observe_pod(&new, json));
    assert_eq!(
        told[0],
        (
            "node-1".to_owned(),
            C::PodRemove(PodRemove { uid: "u1".into() })
        )
    );
    assert_eq!(told[1].0, "node-2");
}

#[test]
fn objects_reach_a_node_before_the_pod_and_leave_with_the_last_one() {
    let mut view = FeedView::default();
    assert_eq!(view.observe_object(&settings(), Some(Bytes::from("1"))), []);
    let (first, json) = pod("a", "u1", "node-1", refers_to_map(), "Pending");
    let told = plain(view.observe_pod(&first, json));
    assert!(matches!(&told[0].1, C::ObjectSet(set) if set.object_json == "1"));
    assert!(matches!(&told[1].1, C::PodSet(_)));
    let (second, json) = pod("b", "u2", "node-1", refers_to_map(), "Pending");
    assert_eq!(view.observe_pod(&second, json).len(), 1);
    let told = plain(view.observe_object(&settings(), Some(Bytes::from("2"))));
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, "node-1");
    assert_eq!(
        view.forget_pod(&NamespacedName::new("default", "a")).len(),
        1
    );
    let told = plain(view.forget_pod(&NamespacedName::new("default", "b")));
    assert!(matches!(&told[1].1, C::ObjectRemove(_)));
}

#[test]
fn an_object_made_after_the_pod_that_refers_to_it_is_told_then() {
    let mut view = FeedView::default();
    let (first, json) = pod("a", "u1", "node-1", refers_to_map(), "Pending");
    assert_eq!(view.observe_pod(&first, json).len(), 1);
    assert_eq!(
        view.observe_object(&settings(), Some(Bytes::from("1")))
            .len(),
        1
    );
    assert!(matches!(
        &plain(view.observe_object(&settings(), None))[0].1,
        C::ObjectRemove(_)
    ));
    assert_eq!(view.observe_object(&settings(), None), []);
}

#[test]
fn what_volumes_are_made_of_is_told_too() {
    let secret = ObjectKey {
        kind: ObjectKind::Secret,
        ..settings()
    };
    for (volume, wanted) in [
        (json!({"configMap": {"name": "settings"}}), settings()),
        (
            json!({"secret": {"secretName": "settings"}}),
            secret.clone(),
        ),
        (
            json!({"projected": {"sources": [{"configMap": {"name": "settings"}}]}}),
            settings(),
        ),
        (
            json!({"projected": {"sources": [{"secret": {"name": "settings"}}]}}),
            secret,
        ),
    ] {
        let mut view = FeedView::default();
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}], "volumes": [volume]});
        spec["volumes"][0]["name"] = json!("v");
        let (first, json) = pod("a", "u1", "node-1", spec.clone(), "Pending");
        assert_eq!(view.observe_pod(&first, json).len(), 1);
        let told = plain(view.observe_object(&wanted, Some(Bytes::from("1"))));
        assert_eq!(told.len(), 1, "{spec}");
    }
}

fn service(uid: &str, spec: Value) -> Service {
    let mut value = json!({
        "metadata": {"namespace": "default", "name": "web", "uid": uid},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
    });
    for (key, part) in spec.as_object().unwrap() {
        value["spec"][key] = part.clone();
    }
    parse(value)
}

fn slice(name: &str, endpoints: &[(&str, bool)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, ready)| json!({"addresses": [ip], "conditions": {"ready": ready}, "nodeName": "node-1"}))
        .collect();
    parse(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }))
}

#[test]
fn endpoints_wait_for_their_service() {
    let mut view = FeedView::default();
    assert_eq!(
        view.observe_slice(&slice("web-1", &[("10.244.0.2", true)])),
        []
    );
    let told = plain(view.observe_service(&service("u1", json!({}))));
    assert!(matches!(&told[0].1, C::ServiceSet(set) if set.ports[0].node_port == 30080));
    assert!(matches!(&told[1].1, C::EndpointSet(set) if set.ready && set.port == 8080));
    assert_eq!(view.observe_service(&service("u1", json!({}))), []);
    assert_eq!(snapshot(&view, "any").len(), 2);
}

#[test]
fn one_endpoint_changing_is_one_change() {
    let mut view = FeedView::default();
    view.observe_service(&service("u1", json!({})));
    let many: Vec<String> = (0..100).map(|i| format!("10.244.0.{i}")).collect();
    let mut ready: Vec<(&str, bool)> = many.iter().map(|ip| (ip.as_str(), true)).collect();
    assert_eq!(view.observe_slice(&slice("web-1", &ready)).len(), 100);
    ready[7].1 = false;
    let told = plain(view.observe_slice(&slice("web-1", &ready)));
    assert!(
        matches!(told.as_slice(), [(_, C::EndpointSet(set))] if set.address == "10.244.0.7" && !set.ready)
    );
    ready.remove(7);
    let told = plain(view.observe_slice(&slice("web-1", &ready)));
    assert!(
        matches!(told.as_slice(), [(_, C::EndpointRemove(gone))] if gone.address == "10.244.0.7")
    );
}

#[test]
fn an_endpoint_that_moves_between_slices_is_not_removed_in_between() {
    let mut view = FeedView::default();
    view.observe_service(&service("u1", json!({})));
    view.observe_slice(&slice("web-1", &[("10.244.0.2", true)]));
    assert_eq!(
        view.observe_slice(&slice("web-2", &[("10.244.0.2", true)])),
        []
    );
    assert_eq!(
        view.forget_slice(&NamespacedName::new("default", "web-1")),
        []
    );
    assert_eq!(
        view.forget_slice(&NamespacedName::new("default", "web-2"))
            .len(),
        1
    );
    assert_eq!(
        view.forget_slice(&NamespacedName::new("default", "web-2")),
        []
    );
}

#[test]
fn headless_and_external_name_services_are_not_told() {
    let mut view = FeedView::default();
    assert_eq!(
        view.observe_service(&service("u1", json!({"clusterIP": "None"}))),
        []
    );
    assert_eq!(
        view.observe_service(&service("u1", json!({"type": "ExternalName"}))),
        []
    );
    view.observe_service(&service("u1", json!({})));
    let told = plain(view.observe_service(&service("u1", json!({"type": "ExternalName"}))));
    assert!(matches!(told.as_slice(), [(_, C::ServiceRemove(_))]));
}

#[test]
fn a_service_made_again_starts_anew_with_its_endpoints() {
    let mut view = FeedView::default();
    view.observe_service(&service("u1", json!({})));
    view.observe_slice(&slice("web-1", &[("10.244.0.2", true)]));
    let told = plain(view.observe_service(&service("u2", json!({"sessionAffinity": "ClientIP"}))));
    assert!(matches!(&told[0].1, C::ServiceRemove(_)));
    assert!(matches!(&told[1].1, C::ServiceSet(set) if set.affinity_seconds == 10_800));
    assert!(matches!(&told[2].1, C::EndpointSet(_)));
}

fn node(name: &str, cidr: Option<&str>) -> Node {
    parse(json!({
        "metadata": {"name": name},
        "spec": {"podCIDRs": cidr.map(|cidr| vec![cidr])},
        "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "198.18.0.1"}]},
    }))
}

#[test]
fn nodes_are_told_about_each_other_once_they_have_a_pod_range() {
    let mut view = FeedView::default();
    assert_eq!(view.observe_node(&node("node-1", None)), []);
    let told = plain(view.observe_node(&node("node-1", Some("10.244.0.0/24"))));
    assert!(
        matches!(told.as_slice(), [(to, C::PeerSet(peer))] if to == "!node-1" && peer.addresses == ["198.18.0.1"])
    );
    assert_eq!(
        view.observe_node(&node("node-1", Some("10.244.0.0/24"))),
        []
    );
    assert_eq!(snapshot(&view, "node-1"), []);
    assert_eq!(snapshot(&view, "node-2").len(), 1);
    assert_eq!(view.forget_node("node-1").len(), 1);
    assert_eq!(view.forget_node("node-1"), []);
}

#[test]
fn a_node_is_told_when_it_becomes_unschedulable_and_when_it_is_not_any_more() {
    let mut view = FeedView::default();
    let with = |unschedulable: bool| {
        let mut node = node("node-1", None);
        node.spec.get_or_insert_default().unschedulable = unschedulable.then_some(true);
        node
    };
    let told = |view: &mut FeedView, unschedulable| {
        let mut told = plain(view.observe_node(&with(unschedulable))).into_iter();
        let first = told.next().map(|(to, change)| match change {
            C::NodeSet(set) => (to, set.unschedulable),
            other => panic!("{other:?}"),
        });
        assert_eq!(told.next(), None);
        first
    };
    let in_snapshot = |view: &FeedView, node: &str| {
        view.snapshot_of_node(node)
            .into_iter()
            .find_map(|change| match change.change {
                Some(C::NodeSet(set)) => Some(set.unschedulable),
                _ => None,
            })
    };
    assert_eq!(told(&mut view, false), None);
    assert_eq!(in_snapshot(&view, "node-1"), None);
    assert_eq!(told(&mut view, true), Some(("node-1".to_owned(), true)));
    assert_eq!(told(&mut view, true), None);
    assert_eq!(in_snapshot(&view, "node-1"), Some(true));
    assert_eq!(in_snapshot(&view, "node-2"), None);
    assert_eq!(told(&mut view, false), Some(("node-1".to_owned(), false)));
    told(&mut view, true);
    view.forget_node("node-1");
    assert_eq!(in_snapshot(&view, "node-1"), None);
}
