// SPDX-License-Identifier: Apache-2.0
//! Informers of the metadata of every object of every resource, for controllers that work on all of them: garbage
//! collection and the deletion of namespaces.
//!
//! One informer for each resource that the API serves, shared like any other. The set follows what is served: a resource
//! that comes gets an informer, and the objects of one that is not served any more count as gone. Views are what
//! `knarr_control_plan::garbage` needs of an object.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use knarr_apiserver::{ApiError, Client, GroupVersionResource, Object};
use knarr_control_plan::garbage::{self, Deleting, Item, Leaving, OwnerRef, ResourceName};
use tokio_util::sync::CancellationToken;

use crate::informer::{Change, Informer};
use crate::informers::Informers;

/// No controller needs the metadata of Events: they own nothing, nothing that matters owns them, and there are many.
const LEFT_OUT: &str = "events";

type Handler = Arc<dyn Fn(&Change<'_, Item>) + Send + Sync>;

struct Followed {
    informer: Informer<Item>,
    /// Cancelled when the resource is not served any more.
    unserved: CancellationToken,
}

#[derive(Default)]
struct State {
    by_resource: HashMap<GroupVersionResource, Followed>,
    handlers: Vec<Handler>,
}

/// The informers of all resources. Clones share them.
#[derive(Clone)]
pub struct MetadataInformers {
    client: Client,
    informers: Informers,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for MetadataInformers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataInformers")
            .field("resources", &self.state().by_resource.len())
            .finish_non_exhaustive()
    }
}

impl MetadataInformers {
    /// Those that all controllers share. Fails for a kind that is not served.
    pub fn of(informers: &Informers) -> Result<Self, ApiError> {
        informers.once(|client| Self::start(client, informers.clone()))
    }

    /// Starts an informer for each resource that is served, and follows what is served.
    fn start(client: Client, informers: Informers) -> Result<Self, ApiError> {
        let mut changes = client.resource_changes();
        let this = Self {
            client,
            informers,
            state: Arc::default(),
        };
        this.follow(served(&this.client))?;
        let following = this.clone();
        this.informers.supervise(async move {
            loop {
                changes.changed().await;
                if let Err(error) = following.follow(served(&following.client)) {
                    // Not served any more by the time that it was asked for, which is another change.
                    tracing::warn!(%error, "a resource is not followed");
                }
            }
        });
        Ok(this)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change of the state stops half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows these resources and no others.
    fn follow(&self, resources: HashSet<GroupVersionResource>) -> Result<(), ApiError> {
        let mut state = self.state();
        state.by_resource.retain(|resource, followed| {
            let is_served = resources.contains(resource);
            if !is_served {
                followed.unserved.cancel();
            }
            is_served
        });
        for resource in resources {
            if state.by_resource.contains_key(&resource) {
                continue;
            }
            let cache = self.client.cache(&resource)?;
            let name = ResourceName {
                group: resource.group.as_str().into(),
                version: resource.version.as_str().into(),
                resource: resource.resource.as_str().into(),
            };
            let view_of = Box::new(move |object: &Object| Some(item(&name, object)));
            let unserved = CancellationToken::new();
            let informer = self
                .informers
                .start(cache, view_of, |_| Vec::new(), unserved.clone());
            for handler in state.handlers.iter().cloned() {
                informer.subscribe(move |change| handler(change));
            }
            state
                .by_resource
                .insert(resource, Followed { informer, unserved });
        }
        Ok(())
    }

    fn all(&self) -> Vec<Informer<Item>> {
        let state = self.state();
        let followed = state.by_resource.values();
        followed.map(|followed| followed.informer.clone()).collect()
    }

    /// As [`Informer::subscribe`], for every object of every resource.
    pub fn subscribe(&self, handler: impl Fn(&Change<'_, Item>) + Send + Sync + 'static) {
        let handler: Handler = Arc::new(handler);
        let mut state = self.state();
        for followed in state.by_resource.values() {
            let handler = handler.clone();
            followed.informer.subscribe(move |change| handler(change));
        }
        state.handlers.push(handler);
    }

    /// Waits until the first list of each resource is in.
    pub async fn synced(&self) {
        join_all(self.all().iter().map(Informer::synced)).await;
    }

    /// As [`Informer::catch_up`], for every resource.
    pub async fn catch_up(&self) {
        join_all(self.all().iter().map(Informer::catch_up)).await;
    }
}

/// The resources to follow.
fn served(client: &Client) -> HashSet<GroupVersionResource> {
    let resources = client.resources().into_iter();
    let resources = resources.map(|(resource, _)| resource);
    resources
        .filter(|resource| resource.resource != LEFT_OUT)
        .collect()
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

#[cfg(test)]
mod tests;
