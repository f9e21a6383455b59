// SPDX-License-Identifier: Apache-2.0
//! Empties namespaces that are being deleted, and lets them go.
//!
//! `knarr_control_plan::namespace` decides what to tell and when it is over. The loop is woken by the last
//! things in the namespace going, never by a timer.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use knarr_api::k8s_openapi::api::core::v1::Namespace;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, DeleteParams, GroupVersionResource, Object};
use knarr_control_plan::namespace::{self, Content};

use super::Context;
use crate::clock;
use crate::informer::{self, Informer};
use crate::queue::{Outcome, Queue};

/// Namespaces that are emptied together.
const WORKERS: usize = 2;
/// Deletions of one namespace under way at once: they share the store's commits.
const DELETIONS_MAX: usize = 32;
/// Refusals told in a condition; the rest is in the log.
const ERRORS_TOLD_MAX: usize = 5;

/// Names of namespaces to look at.
pub(super) type NamespaceQueue = Queue<String>;
/// Namespaces that are being deleted.
pub(super) type Terminating = Informer<()>;

struct Loop {
    context: Context,
}

/// Starts following namespaces on their way out; each is added to `queue`.
pub(super) fn follow(context: &Context, queue: &NamespaceQueue) -> Result<Terminating, ApiError> {
    let waiting = queue.clone();
    Ok(informer::start(
        context.client.cache_of::<Namespace>()?,
        context.shutdown.clone(),
        |object: &Object| object.meta.is_deleting().then_some(()),
        move |changed| {
            if changed.new.is_some() {
                waiting.add(changed.name.name.clone());
            }
        },
    ))
}

/// Wakes a terminating namespace that something has gone from.
pub(super) fn content_gone(queue: &NamespaceQueue, terminating: &Terminating, namespace: &str) {
    if !namespace.is_empty()
        && terminating
            .view(&NamespacedName::cluster(namespace))
            .is_some()
    {
        queue.add(namespace.to_owned());
    }
}

/// Runs the loop until shutdown. `queue` is filled by [`follow`] and [`content_gone`].
pub(super) async fn run(context: Context, queue: NamespaceQueue) {
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop { context });
    queue
        .work(WORKERS, shutdown, move |name| {
            let this = this.clone();
            async move { this.reconcile(&name).await }
        })
        .await;
}

impl Loop {
    async fn reconcile(&self, name: &str) -> Outcome {
        match self.try_reconcile(name).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_not_found() => Outcome::Done,
            Err(error) => {
                if !error.is_conflict() {
                    tracing::warn!(namespace = name, %error, "a namespace was not emptied");
                }
                Outcome::Retry
            }
        }
    }

    async fn try_reconcile(&self, name: &str) -> Result<Outcome, ApiError> {
        let client = &self.context.client;
        let mut current = client.get::<Namespace>(None, name).await?;
        if !namespace::is_terminating(&current) {
            return Ok(Outcome::Done);
        }
        client.sync().await?;
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
        for error in &errors {
            tracing::warn!(
                namespace = name,
                error,
                "something in a namespace was not deleted"
            );
        }
        errors.truncate(ERRORS_TOLD_MAX);
        let plan = namespace::plan(&current, &content, &errors, clock::now());
        if let Some(conditions) = plan.conditions {
            current.status.get_or_insert_default().conditions = Some(conditions);
            client.update_status(&current).await?;
        }
        if plan.finalize {
            tracing::info!(namespace = name, "the namespace is empty and goes");
            client.finalize_namespace(name).await?;
        }
        Ok(if errors.is_empty() {
            Outcome::Done
        } else {
            Outcome::Retry
        })
    }

    /// Asks for the deletion of all objects of a resource; returns the refusals.
    async fn delete_all(
        &self,
        resource: &GroupVersionResource,
        namespace: &str,
    ) -> Result<Vec<String>, ApiError> {
        let objects = self
            .context
            .client
            .cache(resource)?
            .list_namespace(namespace);
        let objects = objects
            .into_iter()
            .filter(|object| !object.meta.is_deleting());
        let deletions = objects.map(|object| async move {
            let params = DeleteParams {
                uid: Some(object.meta.uid.to_string()),
                ..DeleteParams::default()
            };
            let client = &self.context.client;
            client
                .delete_resource(resource, Some(namespace), &object.meta.name, &params)
                .await
        });
        let results = futures::stream::iter(deletions).buffer_unordered(DELETIONS_MAX);
        let refusals = results.filter_map(|result| async move {
            let error = result.err()?;
            // Gone or made anew meanwhile: the next look sees it.
            (!error.is_not_found() && !error.is_conflict()).then(|| error.to_string())
        });
        Ok(refusals.collect().await)
    }

    fn count(&self, resource: &GroupVersionResource, namespace: &str) -> Result<Content, ApiError> {
        let objects = self
            .context
            .client
            .cache(resource)?
            .list_namespace(namespace);
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
