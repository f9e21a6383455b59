// SPDX-License-Identifier: Apache-2.0
//! Creating, reading, changing and deleting objects.

use serde_json::{Value, json};

use crate::server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn deployment(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    })
}

#[tokio::test]
async fn an_object_lives_from_creation_to_deletion() {
    let (server, _directory) = server().await;
    let made = server.send("POST", MAPS, &map("one")).await;
    assert_eq!(made.code, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(made["kind"], "ConfigMap");
    assert_eq!(made["metadata"]["namespace"], "default");
    let version = made["metadata"]["resourceVersion"].clone();
    assert!(version.as_str().is_some_and(|v| v.parse::<u64>().is_ok()));

    let read = server.get(&format!("{MAPS}/one")).await.json();
    assert_eq!(read, made, "what was answered is what is read");

    let mut changed = read.clone();
    changed["data"]["a"] = "2".into();
    let put = server
        .send("PUT", &format!("{MAPS}/one"), &changed)
        .await
        .json();
    assert_eq!(put["data"]["a"], "2");
    assert_ne!(put["metadata"]["resourceVersion"], version);
    assert_eq!(put["metadata"]["uid"], made["metadata"]["uid"]);

    let late = server.send("PUT", &format!("{MAPS}/one"), &changed).await;
    assert_eq!(late.code, 409);
    assert_eq!(
        late.message(),
        "Operation cannot be fulfilled on configmaps \"one\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let gone = server
        .send("DELETE", &format!("{MAPS}/one"), &json!({}))
        .await
        .json();
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["uid"], made["metadata"]["uid"]);
    assert_eq!(server.get(&format!("{MAPS}/one")).await.code, 404);
}

#[tokio::test]
async fn a_change_that_changes_nothing_writes_nothing() {
    let (server, _directory) = server().await;
    let made = server.send("POST", MAPS, &map("one")).await.json();
    let writes = knarr_store::Store::stats(&*server.store).writes;
    let same = server
        .patch(
            "merge",
            &format!("{MAPS}/one"),
            &json!({"data": {"a": "1"}}),
        )
        .await
        .json();
    assert_eq!(same, made);
    assert_eq!(knarr_store::Store::stats(&*server.store).writes, writes);
}

#[tokio::test]
async fn the_last_label_goes_with_its_map() {
    let (server, _directory) = server().await;
    let mut sent = map("one");
    sent["metadata"]["labels"] = json!({"a": "b"});
    sent["metadata"]["annotations"] = json!({});
    let made = server.send("POST", MAPS, &sent).await.json();
    assert!(made["metadata"].get("annotations").is_none());
    let none = json!({"metadata": {"labels": {"a": null}}});
    let bare = server
        .patch("merge", &format!("{MAPS}/one"), &none)
        .await
        .json();
    assert!(bare["metadata"].get("labels").is_none(), "{bare}");
}

#[tokio::test]
async fn generated_names_are_new_each_time() {
    let (server, _directory) = server().await;
    let sent = json!({"metadata": {"generateName": "map-"}});
    let mut names = Vec::new();
    for _ in 0..3 {
        let made = server.send("POST", MAPS, &sent).await.json();
        let name = made["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        assert!(
            name.starts_with("map-") && name.len() == "map-".len() + 5,
            "{name}"
        );
        assert!(!names.contains(&name));
        names.push(name);
    }
}

#[tokio::test]
async fn spec_and_status_are_written_apart_and_the_generation_counts_specs() {
    let (server, _directory) = server().await;
    let mut sent = deployment("web");
    sent["status"] = json!({"replicas": 7});
    let made = server.send("POST", DEPLOYMENTS, &sent).await.json();
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["spec"]["replicas"], 1, "defaults are filled in");
    assert_eq!(made["status"], json!({}), "a creation has no status");

    let web = format!("{DEPLOYMENTS}/web");
    let status =
        json!({"spec": {"replicas": 9}, "status": {"replicas": 1, "observedGeneration": 1}});
    let stated = server
        .patch("merge", &format!("{web}/status"), &status)
        .await
        .json();
    assert_eq!(stated["spec"]["replicas"], 1);
    assert_eq!(stated["status"]["replicas"], 1);
    assert_eq!(stated["metadata"]["generation"], 1);

    let spec = json!({"spec": {"replicas": 3}, "status": {"replicas": 5}});
    let scaled = server.patch("merge", &web, &spec).await.json();
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(scaled["status"]["replicas"], 1);
    assert_eq!(scaled["metadata"]["generation"], 2);

    let scale = server.get(&format!("{web}/scale")).await.json();
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["spec"]["replicas"], 3);
    assert_eq!(scale["status"]["selector"], "app=web");
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 0.into();
    let put = server.send("PUT", &format!("{web}/scale"), &wanted).await;
    assert_eq!(put.code, 200, "{}", put.text());
    assert_eq!(server.get(&web).await.json()["spec"]["replicas"], 0);
    let stale = server.send("PUT", &format!("{web}/scale"), &wanted).await;
    assert_eq!(stale.code, 409);
}

#[tokio::test]
async fn finalizers_keep_a_deleted_object_until_they_are_gone() {
    let (server, _directory) = server().await;
    let mut sent = map("kept");
    sent["metadata"]["finalizers"] = json!(["example.com/wait"]);
    server.send("POST", MAPS, &sent).await;
    let kept = format!("{MAPS}/kept");
    let deleting = server.send("DELETE", &kept, &json!({})).await.json();
    assert_eq!(deleting["kind"], "ConfigMap");
    let time = deleting["metadata"]["deletionTimestamp"].clone();
    assert!(time.is_string());

    let again = server.send("DELETE", &kept, &json!({})).await.json();
    assert_eq!(again["metadata"]["deletionTimestamp"], time);
    let more = json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}});
    let refused = server.patch("merge", &kept, &more).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .contains("no new finalizers can be added if the object is being deleted"),
        "{}",
        refused.message()
    );
    let free = json!({"metadata": {"finalizers": null}});
    assert_eq!(server.patch("merge", &kept, &free).await.code, 200);
    assert_eq!(server.get(&kept).await.code, 404);
}

#[tokio::test]
async fn preconditions_and_propagation_of_a_deletion_are_heeded() {
    let (server, _directory) = server().await;
    server.send("POST", DEPLOYMENTS, &deployment("web")).await;
    let web = format!("{DEPLOYMENTS}/web");
    let other = json!({"preconditions": {"uid": "not-this-one"}});
    let refused = server.send("DELETE", &web, &other).await;
    assert_eq!(refused.code, 409);
    assert!(
        refused.message().contains(
            "Precondition failed: UID in precondition: not-this-one, UID in object meta:"
        )
    );
    let foreground = json!({"propagationPolicy": "Foreground"});
    let deleting = server.send("DELETE", &web, &foreground).await.json();
    assert_eq!(
        deleting["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    let wrong = json!({"propagationPolicy": "Sideways"});
    assert_eq!(server.send("DELETE", &web, &wrong).await.code, 422);
    let background = json!({"propagationPolicy": "Background"});
    server.send("DELETE", &web, &background).await;
    assert_eq!(server.get(&web).await.code, 404);
}

#[tokio::test]
async fn a_dry_run_does_everything_but_the_write() {
    let (server, _directory) = server().await;
    let all = "?dryRun=All";
    let made = server
        .send("POST", &format!("{DEPLOYMENTS}{all}"), &deployment("web"))
        .await;
    assert_eq!(made.code, 201);
    assert_eq!(made.json()["spec"]["revisionHistoryLimit"], 10);
    assert_eq!(server.get(&format!("{DEPLOYMENTS}/web")).await.code, 404);
    server.send("POST", DEPLOYMENTS, &deployment("web")).await;
    let gone = server
        .send("DELETE", &format!("{DEPLOYMENTS}/web{all}"), &json!({}))
        .await;
    assert_eq!(gone.code, 200);
    assert_eq!(server.get(&format!("{DEPLOYMENTS}/web")).await.code, 200);
    let wrong = server
        .send("POST", &format!("{MAPS}?dryRun=Some"), &map("x"))
        .await;
    assert_eq!(wrong.code, 422);
}

#[tokio::test]
async fn lists_come_in_pages_that_show_one_moment() {
    let (server, _directory) = server().await;
    for n in 0..7 {
        server.send("POST", MAPS, &map(&format!("m{n}"))).await;
    }
    let first = server.get(&format!("{MAPS}?limit=3")).await.json();
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    let version = first["metadata"]["resourceVersion"].clone();
    server
        .send("DELETE", &format!("{MAPS}/m4"), &json!({}))
        .await;
    server.send("POST", MAPS, &map("m9")).await;
    let mut names = Vec::new();
    let mut page = first;
    loop {
        assert_eq!(page["metadata"]["resourceVersion"], version);
        for item in page["items"].as_array().expect("items") {
            names.push(
                item["metadata"]["name"]
                    .as_str()
                    .expect("a name")
                    .to_owned(),
            );
        }
        let Some(next) = page["metadata"]["continue"].as_str() else {
            break;
        };
        let path = format!("{MAPS}?limit=3&continue={next}");
        page = server.get(&path).await.json();
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    assert_eq!(
        server
            .get(&format!("{MAPS}?limit=3&continue=nonsense"))
            .await
            .code,
        400
    );
}

#[tokio::test]
async fn selectors_pick_objects_and_collections_are_deleted_by_them() {
    let (server, _directory) = server().await;
    for (name, tier) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut sent = map(name);
        sent["metadata"]["labels"] = json!({"tier": tier});
        server.send("POST", MAPS, &sent).await;
    }
    let count = async |query: &str| {
        let list = server.get(&format!("{MAPS}?{query}")).await.json();
        list["items"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count("labelSelector=tier%3Dx").await, 2);
    assert_eq!(count("labelSelector=tier+notin+(x)").await, 1);
    assert_eq!(count("fieldSelector=metadata.name%3Da").await, 1);
    assert_eq!(
        count("fieldSelector=metadata.name!%3Da,metadata.namespace%3Ddefault").await,
        2
    );
    let deleted = server
        .send(
            "DELETE",
            &format!("{MAPS}?labelSelector=tier%3Dx"),
            &json!({}),
        )
        .await;
    assert_eq!(deleted.code, 200);
    assert_eq!(deleted.json()["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(count("").await, 1);
}

#[tokio::test]
async fn a_table_has_the_columns_and_a_partial_list_only_metadata() {
    let (server, _directory) = server().await;
    server.send("POST", DEPLOYMENTS, &deployment("web")).await;
    let ask = async |accept: &str| {
        server
            .call(Some("admin"), "GET", DEPLOYMENTS, &[("accept", accept)], "")
            .await
            .json()
    };
    let table = ask("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "Name",
            "Ready",
            "Up-to-date",
            "Available",
            "Age",
            "Containers",
            "Images",
            "Selector"
        ]
    );
    assert_eq!(table["rows"][0]["cells"][1], "0/1");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = ask("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("spec").is_none());
    let yaml = server
        .call(
            Some("admin"),
            "GET",
            DEPLOYMENTS,
            &[("accept", "application/yaml")],
            "",
        )
        .await;
    assert!(yaml.text().contains("kind: DeploymentList"));
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_restart() {
    let (server, directory) = server().await;
    for n in 0..20 {
        server.send("POST", MAPS, &map(&format!("m{n}"))).await;
    }
    let before = server.get(MAPS).await.json();
    server.stop().await;
    let server = crate::harness::Server::start_in(directory.path(), 0).await;
    assert_eq!(server.get(MAPS).await.json()["items"], before["items"]);
}
