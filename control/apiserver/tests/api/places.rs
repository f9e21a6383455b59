// SPDX-License-Identifier: Apache-2.0
//! An object stays where it is and what it is: no change gives it another name, namespace or uid.

use k8s_openapi::api::apps::v1::Deployment;
use knarr_apiserver::{ApiError, GroupVersionResource, Patch, Reason};
use serde_json::{Value, json};

use crate::harness::{Answer, Server};
use crate::server;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const OTHER_NAME: &str = "the name of the object (other) does not match the name on the URL (web)";
const NO_NAME: &str =
    "the name of the object (web based on URL) was undeterminable: name must be provided";
const OTHER_NAMESPACE: &str =
    "the namespace of the provided object does not match the namespace sent on the request";

/// Every kind of patch that moves an object away, and why it is refused.
fn moves() -> Vec<(&'static str, Value, &'static str)> {
    let mut moves = Vec::new();
    for kind in ["merge", "strategic-merge"] {
        for (metadata, why) in [
            (json!({"name": "other"}), OTHER_NAME),
            (json!({"name": ""}), NO_NAME),
            (json!({"name": null}), NO_NAME),
            (Value::Null, NO_NAME),
            (json!({"namespace": "kube-system"}), OTHER_NAMESPACE),
        ] {
            moves.push((kind, json!({"metadata": metadata}), why));
        }
    }
    for (operations, why) in [
        (
            json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]),
            OTHER_NAME,
        ),
        (json!([{"op": "remove", "path": "/metadata/name"}]), NO_NAME),
        (json!([{"op": "remove", "path": "/metadata"}]), NO_NAME),
        (json!([{"op": "replace", "path": "", "value": {}}]), NO_NAME),
        (
            json!([{"op": "replace", "path": "/metadata/namespace", "value": "kube-system"}]),
            OTHER_NAMESPACE,
        ),
    ] {
        moves.push(("json", operations, why));
    }
    moves
}

async fn deployed() -> (Server, tempfile::TempDir, Value) {
    let (server, directory) = server().await;
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    });
    let made = server.send("POST", DEPLOYMENTS, &deployment).await;
    assert_eq!(made.code, 201, "{}", made.text());
    let made = made.json();
    (server, directory, made)
}

/// Nothing was written, and the object can still be deleted.
async fn unharmed(server: &Server, made: &Value) {
    let list = server.get("/apis/apps/v1/deployments").await.json();
    let names: Vec<(&Value, &Value, &Value)> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|d| {
            let meta = &d["metadata"];
            (&meta["namespace"], &meta["name"], &meta["resourceVersion"])
        })
        .collect();
    assert_eq!(
        names,
        [(
            &json!("default"),
            &json!("web"),
            &made["metadata"]["resourceVersion"]
        )]
    );
    let web = format!("{DEPLOYMENTS}/web");
    let deleted = server.send("DELETE", &web, &json!({})).await;
    assert_eq!(deleted.code, 200, "{}", deleted.text());
    assert_eq!(server.get(&web).await.code, 404);
}

#[tokio::test]
async fn no_patch_gives_an_object_another_name_or_namespace() {
    let (server, _directory, made) = deployed().await;
    let refused = |answer: Answer, what: &str, why: &str| {
        assert_eq!(answer.code, 400, "{what}: {}", answer.text());
        assert_eq!(answer.json()["reason"], "BadRequest", "{what}");
        assert_eq!(answer.message(), why, "{what}");
    };
    for part in ["", "/status", "/scale"] {
        let path = format!("{DEPLOYMENTS}/web{part}");
        for (kind, patch, why) in moves() {
            let answer = server.patch(kind, &path, &patch).await;
            refused(answer, &format!("{kind} {path} {patch}"), why);
        }
        let tried = format!("{path}?dryRun=All");
        let rename = json!({"metadata": {"name": "other"}});
        refused(
            server.patch("merge", &tried, &rename).await,
            &tried,
            OTHER_NAME,
        );
    }
    // With another change beside it, nothing of it is made.
    let both = json!({"metadata": {"name": "other"}, "spec": {"replicas": 3}});
    for part in ["", "/scale"] {
        let path = format!("{DEPLOYMENTS}/web{part}");
        refused(server.patch("merge", &path, &both).await, &path, OTHER_NAME);
    }
    unharmed(&server, &made).await;
}

#[tokio::test]
async fn no_patch_from_inside_the_process_moves_an_object_either() {
    let (server, _directory, made) = deployed().await;
    let client = server.api.client();
    let refused = |outcome: Result<(), ApiError>, what: &Patch, why: &str| {
        let error = outcome.expect_err("it would move");
        assert_eq!(error.reason(), Reason::BadRequest, "{what:?}");
        assert_eq!(error.to_string(), why, "{what:?}");
    };
    let resource = GroupVersionResource::new("apps", "v1", "deployments");
    for (kind, patch, why) in moves() {
        let patch = match kind {
            "json" => Patch::Json(patch),
            "merge" => Patch::Merge(patch),
            _ => Patch::Strategic(patch),
        };
        for part in [None, Some("status")] {
            let outcome = client
                .patch::<Deployment>(Some("default"), "web", &patch, part)
                .await;
            refused(outcome.map(drop), &patch, why);
        }
        let outcome = client
            .patch_resource(&resource, Some("default"), "web", &patch)
            .await;
        refused(outcome, &patch, why);
    }
    unharmed(&server, &made).await;
}

#[tokio::test]
async fn an_object_sent_whole_has_the_name_and_namespace_of_its_url() {
    let (server, _directory, made) = deployed().await;
    for part in ["", "/status", "/scale"] {
        let path = format!("{DEPLOYMENTS}/web{part}");
        let mut sent = server.get(&path).await.json();
        for (metadata, why) in [
            (json!({"name": "other"}), OTHER_NAME),
            (json!({}), NO_NAME),
            (
                json!({"name": "web", "namespace": "kube-system"}),
                OTHER_NAMESPACE,
            ),
        ] {
            sent["metadata"] = metadata;
            let answer = server.send("PUT", &path, &sent).await;
            assert_eq!(answer.code, 400, "{path} {}", answer.text());
            assert_eq!(answer.message(), why, "{path}");
        }
    }
    unharmed(&server, &made).await;
}

#[tokio::test]
async fn another_uid_is_a_conflict_in_what_is_sent_whole_and_invalid_in_a_patch() {
    let (server, _directory, made) = deployed().await;
    let uid = made["metadata"]["uid"].as_str().expect("uid");
    let conflict =
        format!("Precondition failed: UID in precondition: other, UID in object meta: {uid}");
    for part in ["", "/status", "/scale"] {
        let path = format!("{DEPLOYMENTS}/web{part}");
        let mut sent = server.get(&path).await.json();
        sent["metadata"]["uid"] = "other".into();
        let whole = server.send("PUT", &path, &sent).await;
        assert_eq!(whole.code, 409, "{path} {}", whole.text());
        assert!(whole.message().ends_with(&conflict), "{}", whole.message());

        let patch = json!({"metadata": {"uid": "other"}});
        let patched = server.patch("merge", &path, &patch).await;
        assert_eq!(patched.code, 422, "{path} {}", patched.text());
        assert_eq!(
            patched.message(),
            "Deployment.apps \"web\" is invalid: metadata.uid: Invalid value: \"other\": field is immutable",
            "{path}"
        );
    }
    unharmed(&server, &made).await;
}

#[tokio::test]
async fn a_namespace_is_finalized_under_its_own_name_and_uid() {
    let (server, _directory) = server().await;
    let path = "/api/v1/namespaces/default/finalize";
    let whole = server.get("/api/v1/namespaces/default").await.json();
    let uid = &whole["metadata"]["uid"];
    for (metadata, code) in [
        (json!({"name": "other"}), 400),
        (json!({}), 400),
        (json!({"name": "default", "uid": "other"}), 409),
        (json!({"name": "default", "uid": uid}), 200),
    ] {
        let sent = json!({"metadata": metadata, "spec": {"finalizers": ["kubernetes"]}});
        let answer = server.send("PUT", path, &sent).await;
        assert_eq!(answer.code, code, "{sent} {}", answer.text());
    }
    let kept = server.get("/api/v1/namespaces/default").await.json();
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]));
}

#[tokio::test]
async fn a_namespace_that_is_left_out_or_not_needed_is_put_right() {
    let (server, _directory, made) = deployed().await;
    // As kube-apiserver: an empty namespace is the request's, and an object of the cluster gets none.
    for (kind, patch) in [
        (
            "json",
            json!([{"op": "remove", "path": "/metadata/namespace"}]),
        ),
        ("merge", json!({"metadata": {"namespace": null}})),
        ("strategic-merge", json!({"metadata": {"namespace": ""}})),
    ] {
        let answer = server
            .patch(kind, &format!("{DEPLOYMENTS}/web"), &patch)
            .await;
        assert_eq!(answer.code, 200, "{}", answer.text());
        assert_eq!(answer.json()["metadata"]["namespace"], "default");
    }
    let node = json!({"metadata": {"name": "n1"}});
    assert_eq!(server.send("POST", "/api/v1/nodes", &node).await.code, 201);
    let patch = json!({"metadata": {"namespace": "default", "labels": {"a": "b"}}});
    let answer = server.patch("merge", "/api/v1/nodes/n1", &patch).await;
    assert_eq!(answer.code, 200, "{}", answer.text());
    let metadata = &answer.json()["metadata"];
    assert_eq!(metadata["labels"], json!({"a": "b"}));
    assert!(metadata.get("namespace").is_none(), "{metadata}");
    let rename = json!({"metadata": {"name": "n2"}});
    let answer = server.patch("merge", "/api/v1/nodes/n1", &rename).await;
    assert_eq!(answer.code, 400, "{}", answer.text());
    assert_eq!(server.get("/api/v1/nodes/n2").await.code, 404);
    unharmed(&server, &made).await;
}
