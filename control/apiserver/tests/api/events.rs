// SPDX-License-Identifier: Apache-2.0
//! Events: the older API's leniency, the newer one's demands, and one object behind both.

use serde_json::{Value, json};

use crate::server;

const CORE: &str = "/api/v1/namespaces/default/events";
const NEWER: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// A whole event as events.k8s.io/v1 has it.
fn whole(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.5Z",
        "action": "Binding",
        "reason": "Scheduled",
        "type": "Normal",
        "note": "it fits on n1",
        "reportingController": "example.com/scheduler",
        "reportingInstance": "scheduler-1",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default", "uid": "u"},
        "related": {"kind": "Node", "name": "n1"},
    })
}

#[tokio::test]
async fn one_event_has_two_faces() {
    let (server, _directory) = server().await;
    let event = json!({
        "metadata": {"name": "e1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "message": "pulled", "reason": "Pulled", "type": "Normal",
        "source": {"component": "kubelet"}, "count": 2,
    });
    assert_eq!(server.send("POST", CORE, &event).await.code, 201);
    let seen = server.get(&format!("{NEWER}/e1")).await.json();
    assert_eq!(seen["apiVersion"], "events.k8s.io/v1");
    assert_eq!(seen["note"], "pulled");
    assert_eq!(seen["regarding"]["name"], "p");
    assert_eq!(seen["deprecatedCount"], 2);
    assert_eq!(seen["deprecatedSource"], json!({"component": "kubelet"}));
    // What one writes the other shows, each in its own words.
    let labels = json!({"metadata": {"labels": {"seen": "yes"}}});
    let patched = server.patch("merge", &format!("{NEWER}/e1"), &labels).await;
    assert_eq!(patched.code, 200, "{}", patched.text());
    assert_eq!(patched.json()["note"], "pulled");
    let again = json!({"message": "pulled again", "count": 3});
    let patched = server.patch("merge", &format!("{CORE}/e1"), &again).await;
    assert_eq!(patched.code, 200, "{}", patched.text());
    assert_eq!(patched.json()["metadata"]["labels"]["seen"], "yes");
    assert!(patched.json().get("note").is_none());
    let seen = server.get(&format!("{NEWER}/e1")).await.json();
    assert_eq!(
        (&seen["note"], &seen["deprecatedCount"]),
        (&json!("pulled again"), &json!(3))
    );
    let found = server
        .get(&format!("{NEWER}?fieldSelector=regarding.name%3Dp"))
        .await
        .json();
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_whole_event_of_the_newer_api_is_read_by_the_older_one_with_its_fields_mapped() {
    let (server, _directory) = server().await;
    let made = server.send("POST", NEWER, &whole("e1")).await;
    assert_eq!(made.code, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(made["eventTime"], "2026-01-01T00:00:00.500000Z");
    let read = server.get(&format!("{NEWER}/e1")).await.json();
    assert_eq!(read, made, "what was answered is what is read");

    let mut core = server.get(&format!("{CORE}/e1")).await.json();
    assert_eq!(core["metadata"], made["metadata"]);
    core.as_object_mut()
        .expect("an object")
        .shift_remove("metadata");
    assert_eq!(
        core,
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "eventTime": "2026-01-01T00:00:00.500000Z",
            "action": "Binding",
            "reason": "Scheduled",
            "type": "Normal",
            "message": "it fits on n1",
            "reportingComponent": "example.com/scheduler",
            "reportingInstance": "scheduler-1",
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default", "uid": "u"},
            "related": {"kind": "Node", "name": "n1"},
            "source": {},
        })
    );
    // Its selectable fields are there by the names that they have in that API.
    for selector in [
        "involvedObject.uid%3Du",
        "reportingComponent%3Dexample.com/scheduler",
    ] {
        let found = server
            .get(&format!("{CORE}?fieldSelector={selector}"))
            .await
            .json();
        assert_eq!(
            found["items"].as_array().map(Vec::len),
            Some(1),
            "{selector}"
        );
    }
}

#[tokio::test]
async fn an_event_of_the_newer_api_that_is_not_whole_is_refused_with_the_field() {
    let (server, _directory) = server().await;
    let unset = "Invalid value: \"\": needs to be unset";
    for (change, field, wrong) in [
        (json!({"eventTime": null}), "eventTime", "Required value"),
        (json!({"action": null}), "action", "Required value"),
        (json!({"reason": ""}), "reason", "Required value"),
        (
            json!({"reportingInstance": null}),
            "reportingInstance",
            "Required value",
        ),
        (
            json!({"type": "Grave"}),
            "type",
            "Invalid value: \"\": has invalid value: Grave",
        ),
        (
            json!({"action": "x".repeat(129)}),
            "action",
            "Invalid value: \"\": can have at most 128 characters",
        ),
        (
            json!({"note": "x".repeat(1025)}),
            "message",
            "Invalid value: \"\": can have at most 1024 characters",
        ),
        (
            json!({"series": {"count": 1, "lastObservedTime": "2026-01-01T00:00:00Z"}}),
            "series.count",
            "Invalid value: \"\": should be at least 2",
        ),
        (
            json!({"series": {"count": 2, "lastObservedTime": null}}),
            "series.lastObservedTime",
            "Required value",
        ),
        (
            json!({"deprecatedFirstTimestamp": "2026-01-01T00:00:00Z"}),
            "firstTimestamp",
            unset,
        ),
        (
            json!({"deprecatedLastTimestamp": "2026-01-01T00:00:00Z"}),
            "lastTimestamp",
            unset,
        ),
        (json!({"deprecatedCount": 1}), "count", unset),
        (json!({"deprecatedSource": {"host": "n1"}}), "source", unset),
    ] {
        let mut event = whole("e1");
        for (key, value) in change.as_object().expect("an object") {
            event[key.as_str()] = value.clone();
        }
        let refused = server.send("POST", NEWER, &event).await;
        assert_eq!(refused.code, 422, "{change}: {}", refused.text());
        let status = refused.json();
        assert_eq!(status["reason"], "Invalid");
        assert_eq!(status["details"]["group"], "events.k8s.io");
        let causes = status["details"]["causes"].as_array().expect("causes");
        assert_eq!(causes.len(), 1, "{status}");
        assert_eq!(causes[0]["field"], field);
        assert_eq!(
            refused.message(),
            format!("Event.events.k8s.io \"e1\" is invalid: {field}: {wrong}")
        );
    }
    assert_eq!(server.get(&format!("{NEWER}/e1")).await.code, 404);
}

#[tokio::test]
async fn the_reporter_is_refused_by_the_name_that_each_api_has_for_it() {
    let (server, _directory) = server().await;
    let mut event = whole("e1");
    event["reportingController"] = json!("");
    let refused = server.send("POST", NEWER, &event).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    assert!(
        refused.message().starts_with(
            "Event.events.k8s.io \"e1\" is invalid: [reportingController: Required value, reportingController: Invalid value: \"\": name part must be non-empty, "
        ),
        "{}",
        refused.message()
    );
    let mut older = json!({
        "metadata": {"name": "e1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00Z",
        "action": "Pull", "reason": "Pulled", "reportingInstance": "n1",
        "reportingComponent": "a/b/c",
    });
    let refused = server.send("POST", CORE, &older).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    assert!(
        refused
            .message()
            .starts_with("Event \"e1\" is invalid: reportingComponent: Invalid value: \"a/b/c\": "),
        "{}",
        refused.message()
    );
    // An event of the older API that does not use the newer time needs none of it.
    let older = older.as_object_mut().expect("an object");
    for newer in ["eventTime", "action", "reason", "reportingInstance"] {
        older.shift_remove(newer);
    }
    let made = server.send("POST", CORE, &json!(older)).await;
    assert_eq!(made.code, 201, "{}", made.text());
}

#[tokio::test]
async fn by_the_newer_api_only_the_series_of_an_event_changes() {
    let (server, _directory) = server().await;
    server.send("POST", NEWER, &whole("e1")).await;
    let e1 = format!("{NEWER}/e1");
    let series = |count: u32| json!({"series": {"count": count, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}});
    let refused = server.patch("strategic-merge", &e1, &series(1)).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
    assert_eq!(
        refused.json()["details"]["causes"][0]["field"],
        "series.count"
    );
    let grown = server.patch("strategic-merge", &e1, &series(2)).await;
    assert_eq!(grown.code, 200, "{}", grown.text());
    assert_eq!(grown.json()["series"], series(2)["series"]);
    for (change, wrong) in [
        (
            json!({"note": "other"}),
            "message: Invalid value: \"other\"",
        ),
        (
            json!({"action": "other"}),
            "action: Invalid value: \"other\"",
        ),
        (
            json!({"reportingController": "other"}),
            "reportingController: Invalid value: \"other\"",
        ),
        (
            json!({"eventTime": "2026-01-01T00:00:01Z"}),
            "eventTime: Invalid value: \"2026-01-01T00:00:01.000000Z\"",
        ),
    ] {
        let refused = server.patch("merge", &e1, &change).await;
        assert_eq!(refused.code, 422, "{change}: {}", refused.text());
        assert_eq!(
            refused.message(),
            format!("Event.events.k8s.io \"e1\" is invalid: {wrong}: field is immutable")
        );
    }
    // The same moment written in another way is no change.
    let same = json!({"eventTime": "2026-01-01T01:00:00.5+01:00"});
    let patched = server.patch("merge", &e1, &same).await;
    assert_eq!(patched.code, 200, "{}", patched.text());
    assert_eq!(
        patched.json()["metadata"]["resourceVersion"],
        grown.json()["metadata"]["resourceVersion"]
    );
}
