// SPDX-License-Identifier: Apache-2.0
//! Rolls Deployments out, one planned step at a time. `knarr_control_plan::deployment` decides each step;
//! what a step changes wakes the loop for the next.

use std::sync::Arc;

use knarr_api::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use knarr_api::k8s_openapi::api::core::v1::ObjectReference;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Cache, DeleteParams, Object, Patch, Propagation};
use knarr_control_plan::deployment::{self, Action, NameTaken, SetRef, View};
use knarr_control_plan::owners::{Controller, new_controller_ref};
use knarr_control_plan::pods::PodView;
use serde_json::json;

use super::Context;
use super::pods::owned_by;
use super::replica_set::SetView;
use crate::clock;
use crate::informer::{self, Changed, Informer};
use crate::queue::{Outcome, Queue};

/// Deployments that are reconciled at once.
const WORKERS: usize = 4;

/// What the loops keep of a Deployment: enough to find those that a set without an owner could belong to.
pub(super) struct DeploymentView {
    selector: Selector,
}

struct Loop {
    context: Context,
    pods: Informer<PodView>,
    sets: Informer<SetView>,
    set_cache: Cache,
}

/// Follows Deployments; each change wakes the Deployment.
pub(super) fn follow(
    context: &Context,
    queue: &Queue<NamespacedName>,
) -> Result<Informer<DeploymentView>, ApiError> {
    let cache = context.client.cache_of::<Deployment>()?;
    let waiting = queue.clone();
    let view = |object: &Object| {
        let deployment: Deployment = object.parse().ok()?;
        let selector = Selector::from_object(Some(&deployment.spec.selector)).ok()?;
        Some(DeploymentView { selector })
    };
    let wake = move |changed: Changed<'_, DeploymentView>| waiting.add(changed.name.clone());
    Ok(informer::start(cache, context.shutdown.clone(), view, wake))
}

/// Runs the loop until shutdown. `queue` is filled by [`follow`], [`set_changed`] and [`pod_changed`].
pub(super) async fn run(
    context: Context,
    pods: Informer<PodView>,
    deployments: Informer<DeploymentView>,
    sets: Informer<SetView>,
    queue: Queue<NamespacedName>,
) {
    let set_cache = match context.client.cache_of::<ReplicaSet>() {
        Ok(cache) => cache,
        Err(error) => {
            tracing::error!(%error, "ReplicaSets are not served");
            return;
        }
    };
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        pods,
        sets,
        set_cache,
    });
    queue
        .work(WORKERS, shutdown, move |name| {
            let this = this.clone();
            async move { this.reconcile(&name).await }
        })
        .await;
}

/// Wakes the Deployment that controls a set, before or after the change, or those that could adopt it.
pub(super) fn set_changed(
    queue: &Queue<NamespacedName>,
    deployments: &Informer<DeploymentView>,
    changed: &Changed<'_, SetView>,
) {
    let namespace = changed.name.namespace.as_str();
    let views = [changed.old, changed.new].into_iter().flatten();
    for owner in views.filter_map(|view| view.owner.as_ref()) {
        if &*owner.kind == "Deployment" {
            queue.add(NamespacedName::new(namespace, &*owner.name));
        }
    }
    let Some(orphan) = changed.new.filter(|view| view.owner.is_none()) else {
        return;
    };
    let adopts = |deployment: &DeploymentView| deployment.selector.matches(&*orphan.labels);
    for (name, _) in deployments.select_in(namespace, adopts) {
        queue.add(name);
    }
}

/// A Deployment that recreates its pods waits for the old ones to be gone: the end of a pod wakes the
/// Deployment that controls its set.
pub(super) fn pod_changed(
    queue: &Queue<NamespacedName>,
    sets: &Informer<SetView>,
    changed: &Changed<'_, PodView>,
) {
    let has_run = changed.old.filter(|pod| !pod.phase.is_terminal());
    let ends = changed.new.is_none_or(|pod| pod.phase.is_terminal());
    let Some(old) = has_run.filter(|_| ends) else {
        return;
    };
    let Some(set) = old
        .controller
        .as_ref()
        .filter(|owner| &*owner.kind == "ReplicaSet")
    else {
        return;
    };
    let namespace = changed.name.namespace.as_str();
    let set = sets.view(&NamespacedName::new(namespace, &*set.name));
    if let Some(owner) = set.as_ref().and_then(|set| set.owner.as_ref()) {
        queue.add(NamespacedName::new(namespace, &*owner.name));
    }
}

impl Loop {
    async fn reconcile(&self, name: &NamespacedName) -> Outcome {
        match self.try_reconcile(name).await {
            Ok(outcome) => outcome,
            Err(error) => super::failed("the Deployment", name, &error),
        }
    }

    async fn try_reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.context.client.sync().await?;
        self.sets.catch_up().await;
        self.pods.catch_up().await;
        let deployment = self
            .context
            .client
            .get::<Deployment>(name.namespace(), &name.name)
            .await;
        let mut deployment = match deployment {
            Ok(deployment) => deployment,
            Err(error) if error.is_not_found() => return Ok(Outcome::Done),
            Err(error) => return Err(error),
        };
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let of_others = |owner: &Controller| *owner.uid != *uid;
        let own = self.sets.select_in(&name.namespace, |view| {
            !view.owner.as_ref().is_some_and(of_others)
        });
        let read = |name: &NamespacedName| {
            let object = self.set_cache.get(&name.namespace, &name.name)?;
            object.parse::<ReplicaSet>().ok()
        };
        let sets: Vec<ReplicaSet> = own.iter().filter_map(|(name, _)| read(name)).collect();
        let runs = |uid: &String| {
            let pods = self.pods.indexed(&owned_by(uid));
            pods.iter().any(|pod| !pod.phase.is_terminal())
        };
        let uids = sets.iter().filter_map(|set| set.metadata.uid.clone());
        let sets_with_pods: Vec<String> = uids.filter(runs).collect();
        let view = View {
            deployment: &deployment,
            sets: &sets,
            sets_with_pods: &sets_with_pods,
        };
        let Ok(plan) = deployment::plan(view, clock::now()) else {
            return Ok(Outcome::Done);
        };
        for action in plan.actions {
            self.apply(&mut deployment, action).await?;
        }
        Ok(plan.again_after.map_or(Outcome::Done, Outcome::After))
    }

    async fn apply(&self, deployment: &mut Deployment, action: Action) -> Result<(), ApiError> {
        let client = &self.context.client;
        match action {
            Action::Adopt(set) => {
                let owner = new_controller_ref("apps/v1", "Deployment", &deployment.metadata);
                self.patch_set(deployment, &set, json!([owner])).await
            }
            Action::Release(set) => {
                let owner = json!({"$patch": "delete", "uid": deployment.metadata.uid});
                self.patch_set(deployment, &set, json!([owner])).await
            }
            Action::CreateSet(set) => match client.create(&*set).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_already_exists() => self.settle_name(deployment, &set).await,
                Err(error) => {
                    let message = format!("Failed to create new replica set: {error}");
                    self.context.recorder.warning(
                        about(deployment),
                        "ReplicaSetCreateError",
                        message,
                    );
                    Err(error)
                }
            },
            Action::UpdateSet(set) => client.update(&*set).await.map(|_| ()),
            Action::DeleteSet(set) => {
                let params = DeleteParams {
                    uid: Some(set.uid),
                    propagation: Some(Propagation::Background),
                    ..DeleteParams::default()
                };
                let namespace = deployment.metadata.namespace.as_deref();
                match client
                    .delete::<ReplicaSet>(namespace, &set.name, &params)
                    .await
                {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(()),
                }
            }
            Action::Annotate(annotations) => {
                let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
                let namespace = deployment.metadata.namespace.clone();
                let name = deployment.metadata.name.clone().unwrap_or_default();
                // By way of the status, as Kubernetes' controller does: the revision is no new generation.
                let patched: Deployment = client
                    .patch(namespace.as_deref(), &name, &patch, Some("status"))
                    .await?;
                // The status goes out with these: an old copy of the annotations would undo them.
                deployment.metadata = patched.metadata;
                Ok(())
            }
            Action::Status(status) => self.write_status(deployment, *status).await,
            Action::Event { reason, message } => {
                self.context
                    .recorder
                    .normal(about(deployment), reason, message);
                Ok(())
            }
        }
    }

    /// The name of the set to create is taken: by the same set, or by one that merely has the same hash.
    async fn settle_name(
        &self,
        deployment: &mut Deployment,
        set: &ReplicaSet,
    ) -> Result<(), ApiError> {
        let namespace = set.metadata.namespace.as_deref();
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let existing = self
            .context
            .client
            .get::<ReplicaSet>(namespace, name)
            .await?;
        match deployment::name_taken(deployment, &existing) {
            NameTaken::IsOurs => Ok(()),
            NameTaken::Collision(status) => self.write_status(deployment, *status).await,
        }
    }

    async fn write_status(
        &self,
        deployment: &mut Deployment,
        status: DeploymentStatus,
    ) -> Result<(), ApiError> {
        let mut updated = deployment.clone();
        updated.status = Some(status);
        let written = self.context.client.update_status(&updated).await?;
        deployment.metadata.resource_version = written.metadata.resource_version;
        Ok(())
    }

    async fn patch_set(
        &self,
        deployment: &Deployment,
        set: &SetRef,
        owners: serde_json::Value,
    ) -> Result<(), ApiError> {
        let patch =
            Patch::Strategic(json!({"metadata": {"uid": set.uid, "ownerReferences": owners}}));
        let namespace = deployment.metadata.namespace.as_deref();
        let client = &self.context.client;
        client
            .patch::<ReplicaSet>(namespace, &set.name, &patch, None)
            .await
            .map(|_| ())
    }
}

fn about(deployment: &Deployment) -> ObjectReference {
    super::reference("apps/v1", "Deployment", &deployment.metadata)
}
