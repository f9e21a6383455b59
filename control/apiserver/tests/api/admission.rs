// SPDX-License-Identifier: Apache-2.0
//! The admission chain: a link sees every verb and every part exactly once for each write, with the right objects, and
//! can refuse or change each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use knarr_apiserver::{
    Admission, Admit, ApiError, DeleteParams, DryRun, Effects, Hold, Operation, Part, Patch,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::{Answer, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// One call of a link.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    method: &'static str,
    operation: Operation,
    resource: String,
    part: Part,
    name: String,
    dry_run: DryRun,
    caller: String,
    manager: String,
    old: Option<Value>,
    object: Option<Value>,
}

/// What the link does besides looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Look,
    RefuseInMutate,
    RefuseInValidate,
    /// Sets an annotation.
    Change,
    Rename,
    /// Makes an object that is none of its kind.
    Break,
}

#[derive(Debug)]
struct Link {
    act: Mutex<Act>,
    seen: Mutex<Vec<Seen>>,
    /// Holds that are taken, kept and given back.
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held {
    taken: AtomicUsize,
    kept: AtomicUsize,
    given_back: AtomicUsize,
}

impl Held {
    fn counts(&self) -> [usize; 3] {
        [&self.taken, &self.kept, &self.given_back].map(|count| count.load(Ordering::SeqCst))
    }
}

/// Counts as given back unless it is kept.
struct Ticket(Option<Arc<Held>>);

impl Hold for Ticket {
    fn keep(mut self: Box<Self>, revision: u64) {
        assert!(revision > 0);
        if let Some(held) = self.0.take() {
            held.kept.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            held.given_back.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Link {
    fn set(&self, act: Act) {
        *self.act.lock() = act;
    }

    fn act(&self) -> Act {
        *self.act.lock()
    }

    fn note(&self, method: &'static str, write: &Admission<'_>) {
        self.seen.lock().push(Seen {
            method,
            operation: write.operation(),
            resource: write.resource().resource,
            part: write.part(),
            name: write.name().to_owned(),
            dry_run: write.dry_run(),
            caller: write.caller().identity.user.clone(),
            manager: write.manager().to_owned(),
            old: write.old().cloned(),
            object: write.object().cloned(),
        });
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock())
    }
}

#[async_trait]
impl Admit for Link {
    fn name(&self) -> &'static str {
        "Test"
    }

    async fn mutate(
        &self,
        write: &mut Admission<'_>,
        effects: &mut Effects,
    ) -> Result<(), ApiError> {
        self.note("mutate", write);
        self.held.taken.fetch_add(1, Ordering::SeqCst);
        effects.hold(Ticket(Some(Arc::clone(&self.held))));
        match self.act() {
            Act::RefuseInMutate => return Err(write.forbidden("not today")),
            Act::Change => {
                effects.warn("changed");
                if let Some(object) = write.object_mut() {
                    object["metadata"]["annotations"]["changed"] = "yes".into();
                }
            }
            Act::Rename => {
                if let Some(object) = write.object_mut() {
                    object["metadata"]["name"] = "other".into();
                }
            }
            Act::Break => {
                if let Some(object) = write.object_mut() {
                    object["data"] = 5.into();
                }
            }
            Act::Look | Act::RefuseInValidate => {}
        }
        Ok(())
    }

    async fn validate(&self, write: &Admission<'_>, _: &mut Effects) -> Result<(), ApiError> {
        self.note("validate", write);
        match self.act() {
            Act::RefuseInValidate => Err(write.forbidden("not today")),
            _ => Ok(()),
        }
    }
}

async fn server() -> (Server, Arc<Link>, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let link = Arc::new(Link {
        act: Mutex::new(Act::Look),
        seen: Mutex::default(),
        held: Arc::default(),
    });
    let added: Arc<dyn Admit> = link.clone();
    let server =
        Server::start_with(directory.path(), 0, |config| config.admission.push(added)).await;
    link.take();
    (server, link, directory)
}

/// One write over the network, and what it has to look like from inside.
struct Row {
    method: &'static str,
    path: String,
    body: Value,
    code: u16,
    operation: Operation,
    resource: &'static str,
    part: Part,
    /// Where the object is read.
    object: String,
    /// Whether something is left to be stored.
    leaves: bool,
}

fn row(
    method: &'static str,
    path: impl Into<String>,
    body: Value,
    (operation, resource, part): (Operation, &'static str, Part),
    object: impl Into<String>,
) -> Row {
    Row {
        method,
        path: path.into(),
        body,
        code: if method == "POST" { 201 } else { 200 },
        operation,
        resource,
        part,
        object: object.into(),
        leaves: true,
    }
}

impl Row {
    fn gone(mut self) -> Self {
        self.leaves = false;
        self
    }

    async fn send(&self, server: &Server) -> Answer {
        match self.method {
            "PATCH" => server.patch("merge", &self.path, &self.body).await,
            method => server.send(method, &self.path, &self.body).await,
        }
    }
}

fn map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name, "annotations": {}}, "data": {"k": value}})
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    })
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    })
}

fn event() -> Value {
    json!({
        "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "action": "Bind", "reason": "Scheduled", "type": "Normal", "note": "hello",
        "reportingController": "example.com/s", "reportingInstance": "s-1",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    })
}

/// Every verb and every part, in an order in which each can take place.
fn rows() -> Vec<Row> {
    use Operation::{Create, Delete, Update};
    let maps = |operation| (operation, "configmaps", Part::Main);
    let (a, p, web) = (
        format!("{MAPS}/a"),
        format!("{PODS}/p"),
        format!("{DEPLOYMENTS}/web"),
    );
    let status = (Update, "deployments", Part::Status);
    let scale = (Update, "deployments", Part::Scale);
    let scaled = |n: i64| json!({"metadata": {"name": "web"}, "spec": {"replicas": n}});
    let bound = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let evicted = json!({"metadata": {"name": "p"}});
    let mut with_status = deployment();
    with_status["status"] = json!({"replicas": 1});
    let space = "/api/v1/namespaces/team";
    vec![
        row("POST", MAPS, map("a", "1"), maps(Create), &a),
        row("PUT", &a, map("a", "2"), maps(Update), &a),
        row("PATCH", &a, json!({"data": {"k": "3"}}), maps(Update), &a),
        row("DELETE", &a, json!({}), maps(Delete), &a).gone(),
        row(
            "POST",
            EVENTS,
            event(),
            (Create, "events", Part::Main),
            format!("{EVENTS}/e"),
        ),
        row(
            "POST",
            DEPLOYMENTS,
            deployment(),
            (Create, "deployments", Part::Main),
            &web,
        ),
        row("PUT", format!("{web}/status"), with_status, status, &web),
        row(
            "PATCH",
            format!("{web}/status"),
            json!({"status": {"replicas": 2}}),
            status,
            &web,
        ),
        row("PUT", format!("{web}/scale"), scaled(4), scale, &web),
        row(
            "PATCH",
            format!("{web}/scale"),
            json!({"spec": {"replicas": 5}}),
            scale,
            &web,
        ),
        row(
            "DELETE",
            format!("{web}?propagationPolicy=Foreground"),
            json!({}),
            (Delete, "deployments", Part::Main),
            &web,
        ),
        row("POST", PODS, pod("p"), (Create, "pods", Part::Main), &p),
        row(
            "POST",
            format!("{p}/binding"),
            bound,
            (Update, "pods", Part::Binding),
            &p,
        ),
        row(
            "POST",
            format!("{p}/eviction"),
            evicted,
            (Delete, "pods", Part::Eviction),
            &p,
        ),
        row(
            "POST",
            "/api/v1/namespaces",
            json!({"metadata": {"name": "team"}}),
            (Create, "namespaces", Part::Main),
            space,
        ),
        row(
            "PUT",
            format!("{space}/finalize"),
            json!({"metadata": {"name": "team"}, "spec": {"finalizers": ["kubernetes", "example.com/f"]}}),
            (Update, "namespaces", Part::Finalize),
            space,
        ),
        row(
            "DELETE",
            space,
            json!({}),
            (Delete, "namespaces", Part::Main),
            space,
        ),
    ]
}

/// The object at a path without its version; `None` where there is none.
async fn read(server: &Server, path: &str) -> Option<Value> {
    let answer = server.get(path).await;
    (answer.code == 200).then(|| versionless(answer.json()))
}

fn versionless(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

/// The view of events that the test reads, in the form in which they are stored.
fn as_stored(object: Value) -> Value {
    if object["apiVersion"] != "events.k8s.io/v1" {
        return object;
    }
    let mut stored = json!({});
    for (name, value) in object.as_object().expect("an object") {
        let name = match name.as_str() {
            "note" => "message",
            "regarding" => "involvedObject",
            "reportingController" => "reportingComponent",
            "deprecatedSource" => "source",
            name => name,
        };
        stored[name] = value.clone();
    }
    stored["apiVersion"] = "v1".into();
    stored
}

#[tokio::test]
async fn a_link_sees_every_verb_and_part_once_with_the_right_objects() {
    let (server, link, _directory) = server().await;
    for row in rows() {
        let what = format!("{} {}", row.method, row.path);
        for dry_run in [DryRun::All, DryRun::None] {
            let before = read(&server, &row.object).await;
            let mut tried = row.path.clone();
            if dry_run == DryRun::All {
                tried.push(if tried.contains('?') { '&' } else { '?' });
                tried.push_str("dryRun=All&fieldManager=tester");
            }
            let sent = Row {
                path: tried,
                body: row.body.clone(),
                object: String::new(),
                ..row
            };
            let answer = sent.send(&server).await;
            assert_eq!(answer.code, row.code, "{what}: {}", answer.text());
            let seen = link.take();
            let methods: Vec<_> = seen.iter().map(|s| s.method).collect();
            assert_eq!(methods, ["mutate", "validate"], "{what} {dry_run:?}");
            for seen in &seen {
                assert_eq!(seen.operation, row.operation, "{what}");
                assert_eq!(seen.resource, row.resource, "{what}");
                assert_eq!(seen.part, row.part, "{what}");
                assert_eq!(seen.dry_run, dry_run, "{what}");
                assert_eq!(seen.caller, "kubernetes-admin", "{what}");
                assert_eq!(row.object.rsplit('/').next(), Some(&*seen.name), "{what}");
                let old = seen.old.clone().map(versionless);
                assert_eq!(old, before, "{what}");
                assert_eq!(seen.object.is_some(), row.leaves, "{what}");
            }
            let after = read(&server, &row.object).await;
            if dry_run == DryRun::All {
                assert_eq!(seen[1].manager, "tester", "{what}");
                assert_eq!(after, before, "{what} was only tried");
                continue;
            }
            let written = seen[1].object.clone().map(versionless);
            assert_eq!(after.map(as_stored), written, "{what}");
        }
    }
}

#[tokio::test]
async fn a_link_can_refuse_every_verb_and_part() {
    let (server, link, _directory) = server().await;
    for row in rows() {
        let what = format!("{} {}", row.method, row.path);
        let before = read(&server, &row.object).await;
        for act in [Act::RefuseInMutate, Act::RefuseInValidate] {
            link.set(act);
            let refused = row.send(&server).await;
            assert_eq!(refused.code, 403, "{what}: {}", refused.text());
            assert!(
                refused.message().ends_with(" is forbidden: not today"),
                "{what}"
            );
            assert_eq!(read(&server, &row.object).await, before, "{what}");
        }
        link.set(Act::Look);
        assert_eq!(row.send(&server).await.code, row.code, "{what}");
    }
    // What was taken for a refused write was given back.
    let [taken, kept, given_back] = link.held.counts();
    assert_eq!(taken, kept + given_back);
    assert_eq!(given_back, 2 * rows().len());
}

#[tokio::test]
async fn a_link_can_change_and_warn_of_every_verb_and_part() {
    let (server, link, _directory) = server().await;
    link.set(Act::Change);
    for row in rows() {
        let what = format!("{} {}", row.method, row.path);
        let answer = row.send(&server).await;
        assert_eq!(answer.code, row.code, "{what}: {}", answer.text());
        let warnings = answer.warnings();
        assert!(
            warnings.contains(&r#"299 - "changed""#.to_owned()),
            "{what}: {warnings:?}"
        );
        let after = read(&server, &row.object).await;
        assert_eq!(after.is_some(), row.leaves, "{what}");
        if let Some(mut after) = after {
            assert_eq!(after["metadata"]["annotations"]["changed"], "yes", "{what}");
            // The next row has to bring it again.
            after["metadata"]["annotations"] = json!({});
            if row.part == Part::Main && row.operation != Operation::Delete {
                link.set(Act::Look);
                let emptied = server.send("PUT", &row.object, &after).await;
                assert_eq!(emptied.code, 200, "{what}: {}", emptied.text());
                link.set(Act::Change);
            }
        }
    }
}

#[tokio::test]
async fn a_generation_counts_what_a_link_changes() {
    struct Scaler;
    #[async_trait]
    impl Admit for Scaler {
        fn name(&self) -> &'static str {
            "Scaler"
        }
        fn handles(&self, write: &Admission<'_>) -> bool {
            write.operation() == Operation::Update
        }
        async fn mutate(&self, write: &mut Admission<'_>, _: &mut Effects) -> Result<(), ApiError> {
            if let Some(object) = write.object_mut() {
                object["spec"]["replicas"] = 7.into();
            }
            Ok(())
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start_with(directory.path(), 0, |config| {
        config.admission.push(Arc::new(Scaler));
    })
    .await;
    server.send("POST", DEPLOYMENTS, &deployment()).await;
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    let web = format!("{DEPLOYMENTS}/web");
    let changed = server.patch("merge", &web, &labelled).await.json();
    assert_eq!(changed["spec"]["replicas"], 7);
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_deleted_collection_passes_the_chain_once_for_each_object() {
    let (server, link, _directory) = server().await;
    for name in ["a", "b", "c"] {
        server.send("POST", MAPS, &map(name, "1")).await;
    }
    link.take();
    for (query, dry_run) in [("?dryRun=All", DryRun::All), ("", DryRun::None)] {
        let path = format!("{MAPS}{query}");
        assert_eq!(server.send("DELETE", &path, &json!({})).await.code, 200);
        let mut names: Vec<_> = link
            .take()
            .into_iter()
            .map(|seen| {
                assert_eq!((seen.operation, seen.dry_run), (Operation::Delete, dry_run));
                let old = seen.old.expect("each is there");
                assert_eq!(old["metadata"]["name"], *seen.name);
                assert_eq!(seen.object, None);
                (seen.name, seen.method)
            })
            .collect();
        names.sort();
        let each = |name: &str| [(name.to_owned(), "mutate"), (name.to_owned(), "validate")];
        assert_eq!(names, [each("a"), each("b"), each("c")].concat());
    }
}

#[tokio::test]
async fn calls_inside_the_process_pass_the_same_chain() {
    let (server, link, _directory) = server().await;
    let client = server.api.client();
    let place = Some("default");
    let mut made: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "default"}}))
            .expect("a ConfigMap");
    made = client.create(&made).await.expect("created");
    made.data = Some([("k".to_owned(), "v".to_owned())].into());
    client.update(&made).await.expect("updated");
    let patch = Patch::Merge(json!({"data": {"k": "w"}}));
    client
        .patch::<ConfigMap>(place, "a", &patch, None)
        .await
        .expect("patched");
    let params = DeleteParams::default();
    client
        .delete::<ConfigMap>(place, "a", &params)
        .await
        .expect("deleted");
    let new: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    }))
    .expect("a Pod");
    let new = client.create(&new).await.expect("created");
    client.update_status(&new).await.expect("nothing to change");
    let uid = new.metadata.uid.unwrap_or_default();
    client
        .bind("default", "p", &uid, "n1")
        .await
        .expect("bound");
    let seen: Vec<_> = link
        .take()
        .into_iter()
        .filter(|seen| seen.method == "mutate")
        .map(|seen| {
            assert_eq!(seen.caller, "system:apiserver");
            assert_eq!(seen.manager, "knarr-control");
            (seen.operation, seen.part)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (Operation::Create, Part::Main),
            (Operation::Update, Part::Main),
            (Operation::Update, Part::Main),
            (Operation::Delete, Part::Main),
            (Operation::Create, Part::Main),
            (Operation::Update, Part::Status),
            (Operation::Update, Part::Binding),
        ]
    );
}

#[tokio::test]
async fn a_write_that_is_tried_again_has_its_side_effects_once() {
    const WRITES: usize = 40;
    let (server, link, _directory) = server().await;
    let client = server.api.client();
    server.send("POST", MAPS, &map("a", "1")).await;
    let [_, before, _] = link.held.counts();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..WRITES {
        let client = client.clone();
        tasks.spawn(async move {
            let patch = Patch::Merge(json!({"data": {format!("k{n}"): "v"}}));
            client
                .patch::<ConfigMap>(Some("default"), "a", &patch, None)
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("the task ends").expect("patched");
    }
    let [taken, kept, given_back] = link.held.counts();
    assert_eq!(taken, kept + given_back);
    assert_eq!(kept, before + WRITES);
    assert!(
        given_back > 0,
        "no write was overtaken, so this shows nothing"
    );
    server
        .send("POST", &format!("{MAPS}?dryRun=All"), &map("b", "1"))
        .await;
    server.send("POST", MAPS, &map("a", "1")).await;
    assert_eq!(link.held.counts(), [taken + 2, kept, given_back + 2]);
}

#[tokio::test]
async fn a_link_that_changes_which_object_is_written_is_a_fault_of_the_server() {
    let (server, link, _directory) = server().await;
    link.set(Act::Rename);
    let refused = server.send("POST", MAPS, &map("a", "1")).await;
    assert_eq!(refused.code, 500);
    assert!(
        refused.message().contains("admission link Test"),
        "{}",
        refused.message()
    );
    assert_eq!(read(&server, &format!("{MAPS}/other")).await, None);
}

#[tokio::test]
async fn a_link_that_makes_no_object_of_the_kind_is_a_fault_of_the_server() {
    let (server, link, _directory) = server().await;
    link.set(Act::Break);
    let refused = server.send("POST", MAPS, &map("a", "1")).await;
    assert_eq!(refused.code, 500);
    let message = refused.message();
    assert!(message.contains("the object is no ConfigMap"), "{message}");
    assert_eq!(read(&server, &format!("{MAPS}/a")).await, None);
}
