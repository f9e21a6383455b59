// SPDX-License-Identifier: Apache-2.0
//! Deletes the content of namespaces that are being deleted, and then finalizes them.
//!
//! `knarr_control_plan::namespace` decides what the status says and when the namespace is empty. The end of each object
//! in a namespace adds the namespace again; there is no timer.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use knarr_api::k8s_openapi::api::core::v1::Namespace;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams, GroupVersionResource, Object};
use knarr_control_plan::namespace::{self, Content};

use crate::clock;
use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::View;
use crate::metadata::MetadataInformers;
use crate::queue::Outcome;
use crate::shared::Shared;

const NAME: &str = "namespace-controller";
/// Namespaces that are reconciled at once.
const WORKERS: usize = 2;
/// Deletions of one namespace under way at once: they share the store's commits.
const DELETIONS_MAX: usize = 32;
/// Errors that a condition names; the log has all of them.
const ERRORS_SHOWN_MAX: usize = 5;

/// What the controllers keep of a namespace.
pub(crate) struct NamespaceView {
    /// Its deletion was asked for.
    pub(crate) is_terminating: bool,
}

impl View for NamespaceView {
    type Kind = Namespace;

    fn of(object: &Object) -> Option<Self> {
        Some(Self {
            is_terminating: object.meta.is_deleting(),
        })
    }
}

struct Namespaces {
    client: Client,
}

/// Registers the controller.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let namespaces = shared.informers().of::<NamespaceView>()?;
    let metadata = MetadataInformers::of(shared.informers());
    let terminating = namespaces.clone();
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches(&namespaces, |queue, change| {
            if change.new.is_some_and(|view| view.is_terminating) {
                queue.add(change.name.clone());
            }
        })
        // The end of an object adds its namespace, if that is terminating.
        .watches_metadata(&metadata, move |queue, change| {
            if change.new.is_some() || change.name.namespace.is_empty() {
                return;
            }
            let namespace = NamespacedName::cluster(change.name.namespace.as_str());
            let view = terminating.view(&namespace);
            if view.is_some_and(|view| view.is_terminating) {
                queue.add(namespace);
            }
        })
        .reconcile(Namespaces {
            client: shared.client(),
        }))
}

#[async_trait]
impl Reconcile for Namespaces {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        match self.try_reconcile(&name.name).await {
            // It is gone.
            Err(error) if error.is_not_found() => Ok(Outcome::Done),
            result => result,
        }
    }
}

impl Namespaces {
    async fn try_reconcile(&self, name: &str) -> Result<Outcome, ApiError> {
        let client = &self.client;
        let mut current = client.get::<Namespace>(None, name).await?;
        if !namespace::is_terminating(&current) {
            return Ok(Outcome::Done);
        }
        client.sync().await?;
        let generation = client.resources_generation();
        let resources = client
            .resources()
            .into_iter()
            .filter(|(_, namespaced)| namespaced.0);
        let resources: Vec<GroupVersionResource> =
            resources.map(|(resource, _)| resource).collect();
        let mut errors = Vec::new();
        for resource in &resources {
            errors.extend(self.delete_all(resource, name).await?);
        }
        client.sync().await?;
        let mut content = Vec::new();
        for resource in &resources {
            content.push(self.count(resource, name)?);
        }
        if client.resources_generation() != generation {
            // What is served has changed, so a resource may be missing above.
            return Ok(Outcome::Retry);
        }
        for error in &errors {
            tracing::warn!(
                namespace = name,
                error,
                "something in a namespace was not deleted"
            );
        }
        errors.truncate(ERRORS_SHOWN_MAX);
        let plan = namespace::plan(&current, &content, &errors, clock::now());
        if let Some(conditions) = plan.conditions {
            current.status.get_or_insert_default().conditions = Some(conditions);
            client.update_status(&current).await?;
        }
        if plan.finalize {
            tracing::info!(namespace = name, "the namespace is empty and is finalized");
            client.finalize_namespace(name).await?;
        }
        Ok(if errors.is_empty() {
            Outcome::Done
        } else {
            Outcome::Retry
        })
    }

    /// The objects of a resource; none of one that has ceased to be served meanwhile.
    fn objects(
        &self,
        resource: &GroupVersionResource,
        namespace: &str,
    ) -> Result<Vec<Arc<Object>>, ApiError> {
        match self.client.cache(resource) {
            Ok(cache) => Ok(cache.list_namespace(namespace)),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Asks for the deletion of all objects of a resource; returns the errors.
    async fn delete_all(
        &self,
        resource: &GroupVersionResource,
        namespace: &str,
    ) -> Result<Vec<String>, ApiError> {
        let objects = self.objects(resource, namespace)?;
        let objects = objects
            .into_iter()
            .filter(|object| !object.meta.is_deleting());
        let deletions = objects.map(|object| async move {
            let params = DeleteParams {
                uid: Some(object.meta.uid.to_string()),
                ..DeleteParams::default()
            };
            let client = &self.client;
            client
                .delete_resource(resource, Some(namespace), &object.meta.name, &params)
                .await
        });
        let results = futures::stream::iter(deletions).buffer_unordered(DELETIONS_MAX);
        let refusals = results.filter_map(|result| async move {
            let error = result.err()?;
            // Gone or replaced meanwhile: the next reconcile sees it.
            (!error.is_not_found() && !error.is_conflict()).then(|| error.to_string())
        });
        Ok(refusals.collect().await)
    }

    fn count(&self, resource: &GroupVersionResource, namespace: &str) -> Result<Content, ApiError> {
        let objects = self.objects(resource, namespace)?;
        let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
        for finalizer in objects
            .iter()
            .flat_map(|object| object.meta.finalizers.iter())
        {
            *finalizers.entry(finalizer.to_string()).or_default() += 1;
        }
        Ok(Content {
            resource: resource.resource.clone(),
            group: resource.group.clone(),
            count: objects.len(),
            finalizers,
        })
    }
}
