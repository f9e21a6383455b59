// SPDX-License-Identifier: Apache-2.0
//! Deletes what its owners left behind. Decides nothing: `knarr_control_plan::garbage` does.
//!
//! Follows every resource but Events. What a plan says about absence is believed only after every cache
//! has been brought up to date and the plan still says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use knarr_api::k8s_openapi::api::core::v1::ObjectReference;
use knarr_apiserver::{ApiError, Client, DeleteParams, GroupVersionResource, Object, Patch};
use knarr_control_plan::garbage::{
    self, Action, Deleting, Graph, Item, Leaving, Misplaced, OwnerKind, OwnerRef, Propagation,
    ResourceName,
};
use serde_json::json;

use super::Context;
use crate::informer::{self, Informer};
use crate::queue::{Outcome, Queue};

/// Objects that are looked at together.
const WORKERS: usize = 4;
/// Nothing owns Events in a way that matters, and there are many.
const LEFT_OUT: &str = "events";

/// Called with the namespace of each object that is gone.
pub(super) type OnGone = Arc<dyn Fn(&str) + Send + Sync>;

struct Loop {
    context: Context,
    graph: Arc<Mutex<Graph>>,
    informers: Vec<Informer<Arc<Item>>>,
    served: HashMap<(String, String), OwnerKind>,
}

fn locked(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    // No change of the graph stops half-way.
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the loop until shutdown; tells `gone` of every object that is gone.
pub(super) async fn run(context: Context, gone: OnGone) {
    let graph: Arc<Mutex<Graph>> = Arc::default();
    let queue: Queue<Arc<str>> = Queue::new();
    let mut informers = Vec::new();
    let mut served = HashMap::new();
    for (resource, namespaced) in context.client.resources() {
        let kind = if namespaced.0 {
            OwnerKind::Namespaced
        } else {
            OwnerKind::Cluster
        };
        served.insert((resource.group.clone(), resource.resource.clone()), kind);
        if resource.resource == LEFT_OUT {
            continue;
        }
        match context.client.cache(&resource) {
            Ok(cache) => {
                let followed = follow(&context, cache, &resource, &graph, &queue, &gone);
                informers.push(followed);
            }
            Err(error) => tracing::error!(?resource, %error, "a resource is not followed"),
        }
    }
    for informer in &informers {
        informer.synced().await;
    }
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        graph,
        informers,
        served,
    });
    queue
        .work(WORKERS, shutdown, move |uid| {
            let this = this.clone();
            async move { this.reconcile(&uid).await }
        })
        .await;
}

fn follow(
    context: &Context,
    cache: knarr_apiserver::Cache,
    resource: &GroupVersionResource,
    graph: &Arc<Mutex<Graph>>,
    queue: &Queue<Arc<str>>,
    gone: &OnGone,
) -> Informer<Arc<Item>> {
    let name = ResourceName {
        group: resource.group.as_str().into(),
        version: resource.version.as_str().into(),
        resource: resource.resource.as_str().into(),
    };
    let (graph, queue, gone) = (graph.clone(), queue.clone(), gone.clone());
    let (client, recorder) = (context.client.clone(), context.recorder.clone());
    informer::start(
        cache,
        context.shutdown.clone(),
        move |object: &Object| Some(Arc::new(item(&name, object))),
        move |changed| {
            let mut look = Vec::new();
            let misplaced = {
                let mut graph = locked(&graph);
                // An object made anew under the same name is another object.
                let replaced = changed
                    .old
                    .filter(|old| changed.new.is_none_or(|new| new.uid != old.uid));
                if let Some(old) = replaced {
                    look.extend(graph.remove(&old.uid));
                }
                if let Some(new) = changed.new {
                    look.extend(graph.observe(Arc::clone(new)));
                }
                graph.take_misplaced()
            };
            for misplaced in misplaced {
                let about = about(&client, &misplaced.item);
                recorder.warning(about, Misplaced::REASON, misplaced.message());
            }
            look.into_iter().for_each(|uid| queue.add(uid));
            if changed.new.is_none() {
                gone(&changed.name.namespace);
            }
        },
    )
}

fn item(resource: &ResourceName, object: &Object) -> Item {
    let meta = &object.meta;
    let finalizers = || meta.finalizers.iter().map(|finalizer| &**finalizer);
    Item {
        uid: meta.uid.as_ref().into(),
        resource: resource.clone(),
        namespace: meta.namespace.as_ref().into(),
        name: meta.name.clone(),
        owners: meta
            .owners
            .iter()
            .map(|owner| OwnerRef {
                uid: owner.uid.as_ref().into(),
                api_version: owner.api_version.clone(),
                kind: owner.kind.clone(),
                name: owner.name.clone(),
                blocks: owner.block_owner_deletion,
            })
            .collect(),
        leaving: Leaving::of(Deleting(meta.is_deleting()), finalizers()),
        wants: garbage::wanted(finalizers()),
    }
}

impl Loop {
    fn plan(&self, uid: &str) -> Vec<Action> {
        let kind_of = |owner: &OwnerRef| {
            let group = owner
                .api_version
                .split_once('/')
                .map_or("", |(group, _)| group);
            let resource = garbage::guess_resource(&owner.kind);
            let served = self.served.get(&(group.to_owned(), resource));
            served.copied().unwrap_or(OwnerKind::Unknown)
        };
        locked(&self.graph).plan(uid, &kind_of)
    }

    async fn reconcile(&self, uid: &Arc<str>) -> Outcome {
        if self.plan(uid).is_empty() {
            return Outcome::Done;
        }
        match self.confirm_and_apply(uid).await {
            Ok(()) => Outcome::Done,
            Err(error) if error.is_not_found() => Outcome::Done,
            Err(error) => {
                if !error.is_conflict() {
                    tracing::warn!(%uid, %error, "an object was not collected");
                }
                Outcome::Retry
            }
        }
    }

    async fn confirm_and_apply(&self, uid: &Arc<str>) -> Result<(), ApiError> {
        if self.context.client.has_unreadable() {
            // An owner that cannot be read looks like one that is gone, a dependent like none. Either may be of any
            // kind, so all of them count.
            return Err(ApiError::internal(
                "stored objects cannot be read, so no owner is known to be gone; the log names them",
            ));
        }
        self.context.client.sync().await?;
        join_all(self.informers.iter().map(Informer::catch_up)).await;
        for action in self.plan(uid) {
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
                let client = &self.context.client;
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
        self.context
            .client
            .patch_resource(&resource, namespace, &item.name, &patch)
            .await
    }

    fn item(&self, uid: &str) -> Option<Arc<Item>> {
        locked(&self.graph).get(uid).cloned()
    }
}

/// What an event about `item` is about.
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
