// SPDX-License-Identifier: Apache-2.0
//! Deletes objects whose owners are gone. Decides nothing: `knarr_control_plan::garbage` does.
//!
//! It follows every resource but Events, also those that begin or cease to be served. A plan that an owner is absent is
//! carried out only after every cache has been brought up to date and the plan still says so. The kind of an owner is known
//! only while all its objects are in the graph.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::ObjectReference;
use knarr_apiserver::{ApiError, Client, DeleteParams, GroupVersionResource, Patch};
use knarr_control_plan::garbage::{
    Action, Graph, Item, Misplaced, OwnerKind, OwnerRef, Propagation, ResourceName,
};
use parking_lot::Mutex;
use serde_json::json;

use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::Change;
use crate::metadata::MetadataInformers;
use crate::queue::{Outcome, Queue};
use crate::recorder::Recorder;
use crate::shared::Shared;

const NAME: &str = "garbage-collector-controller";
/// Objects that are reconciled at once.
const WORKERS: usize = 4;

struct GarbageCollector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    metadata: MetadataInformers,
}

/// Registers the controller; its keys are uids of objects of any kind.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let metadata = MetadataInformers::of(shared.informers());
    let graph: Arc<Mutex<Graph>> = Arc::default();
    let observer = Observer {
        client: shared.client(),
        recorder: shared.recorder(NAME),
        graph: graph.clone(),
    };
    let (informers, graph_of_handler) = (metadata.clone(), graph.clone());
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches_metadata(&metadata, move |queue, change| {
            observer.observe(queue, change)
        })
        // An owner of an unknown kind keeps its dependents, so they are planned again when the kind is known.
        .starts_with(move |queue| {
            let queue = queue.clone();
            informers.subscribe_known(move |kinds| {
                let names_one = |owner: &OwnerRef| kinds.iter().any(|kind| kind.is_of(owner));
                let uids = graph_of_handler.lock().owned_by(&names_one);
                uids.into_iter().for_each(|uid| queue.add(uid));
            });
        })
        .reconcile(GarbageCollector {
            client: shared.client(),
            graph,
            metadata,
        }))
}

/// Keeps the graph current, and adds the objects whose surroundings changed.
struct Observer {
    client: Client,
    recorder: Recorder,
    graph: Arc<Mutex<Graph>>,
}

impl Observer {
    fn observe(&self, queue: &Queue<Arc<str>>, change: &Change<'_, Item>) {
        let mut concerned = Vec::new();
        let misplaced = {
            let mut graph = self.graph.lock();
            // An object that was created again under the same name is another object.
            let replaced = change
                .old
                .filter(|old| change.new.is_none_or(|new| new.uid != old.uid));
            if let Some(old) = replaced {
                concerned.extend(graph.remove(&old.uid));
            }
            if let Some(new) = change.new {
                concerned.extend(graph.observe(Arc::clone(new)));
            }
            graph.take_misplaced()
        };
        for misplaced in misplaced {
            let about = about(&self.client, &misplaced.item);
            self.recorder
                .warning(about, Misplaced::REASON, misplaced.message());
        }
        concerned.into_iter().for_each(|uid| queue.add(uid));
    }
}

#[async_trait]
impl Reconcile for GarbageCollector {
    type Key = Arc<str>;

    async fn reconcile(&self, uid: &Arc<str>) -> Result<Outcome, ApiError> {
        if self.plan(uid).is_empty() {
            return Ok(Outcome::Done);
        }
        match self.confirm_and_apply(uid).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

impl GarbageCollector {
    fn plan(&self, uid: &str) -> Vec<Action> {
        // Handlers run under the lock of `metadata` and lock the graph inside it, so this order avoids a deadlock.
        let known = self.metadata.known();
        let kind_of = |owner: &OwnerRef| match known.iter().find(|kind| kind.is_of(owner)) {
            Some(kind) if kind.namespaced.0 => OwnerKind::Namespaced,
            Some(_) => OwnerKind::Cluster,
            None => OwnerKind::Unknown,
        };
        self.graph.lock().plan(uid, &kind_of)
    }

    async fn confirm_and_apply(&self, uid: &Arc<str>) -> Result<(), ApiError> {
        if self.client.has_unreadable() {
            // An owner that cannot be read looks like one that is gone, a dependent like none. Each may be of any kind,
            // so all kinds count.
            return Err(ApiError::internal(
                "stored objects cannot be read, so no owner is known to be gone; the log names them",
            ));
        }
        self.client.sync().await?;
        let plan = {
            // No kind may go between the views' catching up and the plan: its objects would look absent.
            let _caught_up = self.metadata.catch_up().await;
            self.plan(uid)
        };
        for action in plan {
            self.apply(action).await?;
        }
        Ok(())
    }

    async fn apply(&self, action: Action) -> Result<(), ApiError> {
        let (uid, change) = match action {
            Action::Delete { uid, propagation } => {
                let Some(item) = self.item(&uid) else {
                    return Ok(());
                };
                tracing::debug!(
                    resource = &*item.resource.resource,
                    namespace = &*item.namespace,
                    name = &*item.name,
                    "collecting an object without an owner"
                );
                let params = DeleteParams {
                    uid: Some(uid.to_string()),
                    propagation: Some(match propagation {
                        Propagation::Background => knarr_apiserver::Propagation::Background,
                        Propagation::Foreground => knarr_apiserver::Propagation::Foreground,
                        Propagation::Orphan => knarr_apiserver::Propagation::Orphan,
                    }),
                    ..DeleteParams::default()
                };
                let (resource, namespace) = address(&item);
                let client = &self.client;
                return client
                    .delete_resource(&resource, namespace, &item.name, &params)
                    .await;
            }
            Action::Disown { uid, owners } => {
                let owners: Vec<_> = owners
                    .iter()
                    .map(|owner| json!({"$patch": "delete", "uid": &**owner}))
                    .collect();
                (uid, json!({"ownerReferences": owners}))
            }
            Action::Unblock { uid, owners } => {
                let owners: Vec<_> = owners
                    .iter()
                    .map(|owner| json!({"uid": &**owner, "blockOwnerDeletion": false}))
                    .collect();
                (uid, json!({"ownerReferences": owners}))
            }
            Action::Unfinalize { uid, finalizer } => (
                uid,
                json!({"$deleteFromPrimitiveList/finalizers": [finalizer]}),
            ),
        };
        let Some(item) = self.item(&uid) else {
            return Ok(());
        };
        let mut metadata = change;
        metadata["uid"] = json!(&*uid);
        let patch = Patch::Strategic(json!({"metadata": metadata}));
        let (resource, namespace) = address(&item);
        self.client
            .patch_resource(&resource, namespace, &item.name, &patch)
            .await
    }

    fn item(&self, uid: &str) -> Option<Arc<Item>> {
        self.graph.lock().get(uid).cloned()
    }
}

/// How an event names `item`.
fn about(client: &Client, item: &Item) -> ObjectReference {
    let (resource, namespace) = address(item);
    let api_version = match resource.group.as_str() {
        "" => resource.version.clone(),
        group => format!("{group}/{}", resource.version),
    };
    ObjectReference {
        api_version: Some(api_version),
        kind: client.kind_of(&resource),
        namespace: namespace.map(str::to_owned),
        name: Some(item.name.to_string()),
        uid: Some(item.uid.to_string()),
        ..ObjectReference::default()
    }
}

fn address(item: &Item) -> (GroupVersionResource, Option<&str>) {
    let ResourceName {
        group,
        version,
        resource,
    } = &item.resource;
    let namespace = (!item.namespace.is_empty()).then_some(&*item.namespace);
    (
        GroupVersionResource::new(&**group, &**version, &**resource),
        namespace,
    )
}
