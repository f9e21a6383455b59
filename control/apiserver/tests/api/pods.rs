// SPDX-License-Identifier: Apache-2.0
//! Pods: defaults, binding, grace, eviction, logs.

use serde_json::{Value, json};

use crate::harness::Server;
use crate::server;

const PODS: &str = "/api/v1/namespaces/default/pods";
const BINDINGS: &str = "/api/v1/namespaces/default/bindings";

fn pod(name: &str, containers: &[&str]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|c| json!({"name": c, "image": "x:1"}))
        .collect();
    json!({"metadata": {"name": name}, "spec": {"containers": containers}})
}

async fn bound(server: &Server, name: &str, containers: &[&str]) {
    let made = server.send("POST", PODS, &pod(name, containers)).await;
    assert_eq!(made.code, 201, "{}", made.text());
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
    let answer = server
        .send("POST", &format!("{PODS}/{name}/binding"), &binding)
        .await;
    assert_eq!(answer.code, 201, "{}", answer.text());
}

#[tokio::test]
async fn a_pod_starts_pending_with_tolerations_and_an_account() {
    let (server, _directory) = server().await;
    let mut sent = pod("web", &["c"]);
    sent["status"] = json!({"phase": "Running"});
    let made = server.send("POST", PODS, &sent).await.json();
    assert_eq!(
        made["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["enableServiceLinks"], true);
    let keys: Vec<&str> = made["spec"]["tolerations"]
        .as_array()
        .expect("tolerations")
        .iter()
        .filter_map(|t| t["key"].as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable"
        ]
    );
    assert_eq!(made["metadata"]["generation"], 1);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let (server, _directory) = server().await;
    bound(&server, "web", &["c"]).await;
    let read = server.get(&format!("{PODS}/web")).await.json();
    assert_eq!(read["spec"]["nodeName"], "n1");
    assert_eq!(read["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(read["status"]["conditions"][0]["status"], "True");
    let found = server
        .get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1"))
        .await
        .json();
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
    let uid = read["metadata"]["uid"].as_str().unwrap();
    let error = server
        .api
        .client()
        .bind("default", "web", uid, "n2")
        .await
        .expect_err("it is bound");
    assert!(error.is_conflict());
    assert_eq!(
        error.to_string(),
        "Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to node \"n1\""
    );
    server.send("POST", PODS, &pod("again", &["c"])).await;
    let client = server.api.client();
    let other = client.bind("default", "again", uid, "n1");
    assert!(other.await.expect_err("another pod is meant").is_conflict());
}

#[tokio::test]
async fn a_binding_that_names_its_pod_itself_binds_it_once() {
    let (server, _directory) = server().await;
    server.send("POST", PODS, &pod("web", &["c"])).await;
    let to = |node: &str| {
        json!({
            "metadata": {"name": "web", "annotations": {"asked-by": "a test"}},
            "target": {"kind": "Node", "name": node},
        })
    };
    let done = server.send("POST", BINDINGS, &to("n1")).await;
    assert_eq!(done.code, 201, "{}", done.text());
    assert_eq!(done.json()["status"], "Success");
    let web = format!("{PODS}/web");
    let read = server.get(&web).await.json();
    assert_eq!(read["spec"]["nodeName"], "n1");
    assert_eq!(
        read["metadata"]["annotations"],
        json!({"asked-by": "a test"})
    );
    assert_eq!(read["status"]["conditions"][0]["type"], "PodScheduled");
    // To the same node is the second time as well.
    for node in ["n1", "n2"] {
        let again = server.send("POST", BINDINGS, &to(node)).await;
        assert_eq!(again.code, 409, "{}", again.text());
        assert_eq!(again.json()["reason"], "Conflict");
        assert_eq!(
            again.message(),
            "Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to node \"n1\""
        );
    }
    assert_eq!(server.get(&web).await.json(), read);
    let nobody = json!({"metadata": {"name": "nobody"}, "target": {"name": "n1"}});
    let missing = server.send("POST", BINDINGS, &nobody).await;
    assert_eq!(missing.code, 404);
    assert_eq!(missing.message(), "pods \"nobody\" not found");
}

#[tokio::test]
async fn a_binding_without_a_node_or_a_pod_binds_nothing() {
    let (server, _directory) = server().await;
    server.send("POST", PODS, &pod("web", &["c"])).await;
    let web = format!("{PODS}/web");
    for path in [BINDINGS, &format!("{web}/binding")] {
        // Kubernetes answers with 500 and the same path here, but the mistake is the client's.
        for (target, field, wrong) in [
            (json!({}), "target.name", "Required value"),
            (
                json!({"kind": "Node", "name": ""}),
                "target.name",
                "Required value",
            ),
            (
                json!({"kind": "Pod", "name": "n1"}),
                "target.kind",
                "Unsupported value: \"Pod\": supported values: \"<empty>\", \"Node\"",
            ),
        ] {
            let binding = json!({"metadata": {"name": "web"}, "target": target});
            let refused = server.send("POST", path, &binding).await;
            assert_eq!(refused.code, 422, "{path} {}", refused.text());
            assert_eq!(
                refused.message(),
                format!("Binding \"web\" is invalid: {field}: {wrong}")
            );
            assert_eq!(refused.json()["details"]["causes"][0]["field"], field);
        }
        let elsewhere = json!({
            "metadata": {"name": "web", "namespace": "kube-system"},
            "target": {"name": "n1"},
        });
        let refused = server.send("POST", path, &elsewhere).await;
        assert_eq!(refused.code, 400, "{path} {}", refused.text());
        assert_eq!(
            refused.message(),
            "the namespace of the provided object does not match the namespace sent on the request"
        );
    }
    let nameless = json!({"target": {"kind": "Node", "name": "n1"}});
    let refused = server.send("POST", BINDINGS, &nameless).await;
    assert_eq!(refused.code, 400, "{}", refused.text());
    assert_eq!(refused.message(), "Name parameter required.");
    let read = server.get(&web).await.json();
    assert!(read["spec"].get("nodeName").is_none(), "{read}");
}

#[tokio::test]
async fn a_running_pod_ends_with_grace_and_an_unscheduled_one_at_once() {
    let (server, _directory) = server().await;
    server.send("POST", PODS, &pod("waiting", &["c"])).await;
    let gone = server
        .send("DELETE", &format!("{PODS}/waiting"), &json!({}))
        .await;
    assert_eq!(gone.json()["kind"], "Pod");
    assert_eq!(server.get(&format!("{PODS}/waiting")).await.code, 404);

    bound(&server, "web", &["c"]).await;
    let web = format!("{PODS}/web");
    let deleting = server.send("DELETE", &web, &json!({})).await.json();
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    let later = deleting["metadata"]["deletionTimestamp"].clone();
    let longer = json!({"gracePeriodSeconds": 100});
    let same = server.send("DELETE", &web, &longer).await.json();
    assert_eq!(same["metadata"]["deletionTimestamp"], later);
    let shorter = json!({"gracePeriodSeconds": 5});
    let sooner = server.send("DELETE", &web, &shorter).await.json();
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(
        sooner["metadata"]["deletionTimestamp"].as_str() < later.as_str(),
        "{sooner}"
    );
    let now = json!({"gracePeriodSeconds": 0});
    assert_eq!(server.send("DELETE", &web, &now).await.code, 200);
    assert_eq!(server.get(&web).await.code, 404);
}

#[tokio::test]
async fn an_eviction_is_a_deletion() {
    let (server, _directory) = server().await;
    bound(&server, "web", &["c"]).await;
    let eviction = json!({"metadata": {"name": "web"}});
    let answer = server
        .send("POST", &format!("{PODS}/web/eviction"), &eviction)
        .await;
    assert_eq!(answer.code, 201, "{}", answer.text());
    assert_eq!(answer.json()["status"], "Success");
    let read = server.get(&format!("{PODS}/web")).await.json();
    assert!(read["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test]
async fn a_log_is_of_the_container_that_was_asked_for_or_is_the_only_one() {
    let (server, _directory) = server().await;
    bound(&server, "one", &["c"]).await;
    let log = server
        .get(&format!("{PODS}/one/log?tailLines=3&follow=true"))
        .await;
    assert_eq!(log.text(), "default/one c on n1 tail=Some(3) follow=true\n");
    bound(&server, "two", &["a", "b"]).await;
    let unclear = server.get(&format!("{PODS}/two/log")).await;
    assert_eq!(unclear.code, 400);
    assert_eq!(
        unclear.message(),
        "a container name must be specified for pod two, choose one of: [a b]"
    );
    let wrong = server.get(&format!("{PODS}/two/log?container=z")).await;
    assert_eq!(wrong.message(), "container z is not valid for pod two");
    let log = server.get(&format!("{PODS}/two/log?container=b")).await;
    assert!(log.text().starts_with("default/two b on n1"));
    let negative = server.get(&format!("{PODS}/one/log?tailLines=-1")).await;
    assert_eq!(negative.code, 422);
    assert_eq!(
        negative.message(),
        r#"PodLogOptions "" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"#
    );
}

#[tokio::test]
async fn streams_that_are_not_there_yet_say_so() {
    let (server, _directory) = server().await;
    bound(&server, "web", &["c"]).await;
    for stream in ["exec?command=ls", "attach", "portforward"] {
        let answer = server
            .send("POST", &format!("{PODS}/web/{stream}"), &json!({}))
            .await;
        assert_eq!(answer.code, 501, "{stream}");
        assert!(answer.message().contains("not implemented"));
    }
}

#[tokio::test]
async fn most_of_a_pod_cannot_be_changed() {
    let (server, _directory) = server().await;
    server.send("POST", PODS, &pod("web", &["c"])).await;
    let web = format!("{PODS}/web");
    let image = json!({"spec": {"containers": [{"name": "c", "image": "y:2"}]}});
    let answer = server.patch("strategic-merge", &web, &image).await;
    assert_eq!(answer.code, 200, "{}", answer.text());
    assert_eq!(answer.json()["metadata"]["generation"], 2);
    let command = json!({"spec": {"containers": [{"name": "c", "command": ["x"]}]}});
    let refused = server.patch("strategic-merge", &web, &command).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .contains("spec: Forbidden: pod updates may not change fields other than")
    );
}

#[tokio::test]
async fn a_pod_waits_a_moment_for_the_default_account_and_for_no_other() {
    let (server, _directory) = server().await;
    let namespace = json!({"metadata": {"name": "new"}});
    server.send("POST", "/api/v1/namespaces", &namespace).await;
    let pods = "/api/v1/namespaces/new/pods";
    let pod = |name: &str, spec: Value| {
        let mut pod = json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "x"}]},
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key.as_str()] = value.clone();
        }
        pod
    };
    let other = pod("x", json!({"serviceAccountName": "y"}));
    let refused = server.send("POST", pods, &other).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        r#"pods "x" is forbidden: error looking up service account new/y: serviceaccount "y" not found"#
    );
    let plain = pod("plain", json!({}));
    let late = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        crate::harness::make_account(&server.api, "new").await;
    };
    let (made, ()) = tokio::join!(server.send("POST", pods, &plain), late);
    assert_eq!(made.code, 201, "{}", made.text());
    assert_eq!(made.json()["spec"]["serviceAccountName"], "default");
    server
        .send(
            "DELETE",
            "/api/v1/namespaces/new/serviceaccounts/default",
            &json!({}),
        )
        .await;
    let never = server.send("POST", pods, &pod("never", json!({}))).await;
    assert_eq!(never.code, 403, "{}", never.text());
}

#[tokio::test]
async fn a_priority_is_computed_and_another_one_refused() {
    let (server, _directory) = server().await;
    let pod = |priority: i64, class: &str| {
        json!({
            "metadata": {"name": "p"},
            "spec": {
                "containers": [{"name": "c", "image": "x"}],
                "priority": priority,
                "priorityClassName": class,
            },
        })
    };
    let pods = "/api/v1/namespaces/default/pods?dryRun=All";
    let refused = server.send("POST", pods, &pod(5, "")).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        r#"pods "p" is forbidden: the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name"#
    );
    for (priority, class) in [(0, ""), (2_000_000_000, "system-cluster-critical")] {
        let made = server.send("POST", pods, &pod(priority, class)).await;
        assert_eq!(made.code, 201, "{}", made.text());
    }
}

#[tokio::test]
async fn a_stop_signal_needs_the_pods_system_and_is_one_of_its_signals() {
    let (server, _directory) = server().await;
    let mut sent = pod("web", &["c"]);
    sent["spec"]["containers"][0]["lifecycle"] = json!({"stopSignal": "SIGUSR1"});
    let nowhere = server.send("POST", PODS, &sent).await;
    assert_eq!(nowhere.code, 422);
    assert_eq!(
        nowhere.message(),
        "Pod \"web\" is invalid: spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"
    );
    sent["spec"]["os"] = json!({"name": "linux"});
    sent["spec"]["containers"][0]["lifecycle"]["stopSignal"] = "USR1".into();
    let unknown = server.send("POST", PODS, &sent).await;
    assert_eq!(unknown.code, 422);
    assert!(
        unknown.message().starts_with(
            r#"Pod "web" is invalid: spec.containers[0].lifecycle.stopSignal: Unsupported value: "USR1": supported values: "SIGABRT", "#
        ),
        "{}",
        unknown.message()
    );
    sent["spec"]["containers"][0]["lifecycle"]["stopSignal"] = "SIGUSR1".into();
    let made = server.send("POST", PODS, &sent).await;
    assert_eq!(made.code, 201, "{}", made.text());
    assert_eq!(
        made.json()["spec"]["containers"][0]["lifecycle"]["stopSignal"],
        "SIGUSR1"
    );
}
