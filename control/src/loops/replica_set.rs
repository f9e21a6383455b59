// SPDX-License-Identifier: Apache-2.0
//! Keeps every ReplicaSet at its number of pods. Decides nothing: `knarr_control_plan::replica_set` does.
//!
//! Before it plans, the loop makes sure that its views hold every write that was acknowledged, its own
//! included, so a stale picture never creates a pod twice.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::join_all;
use knarr_api::k8s_openapi::api::apps::v1::ReplicaSet;
use knarr_api::k8s_openapi::api::core::v1::Pod;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, DeleteParams, Object, Patch};
use knarr_control_plan::owners::{Controller, controller_of, new_controller_ref};
use knarr_control_plan::pods::PodView;
use knarr_control_plan::replica_set::{self, Failure, Plan, PodRef, View};
use serde_json::json;

use super::Context;
use super::pods::{orphans_in, owned_by};
use crate::clock;
use crate::informer::{self, Changed, Informer};
use crate::queue::{Outcome, Queue};

/// Sets that are reconciled at once: their writes share the store's commits.
const WORKERS: usize = 8;
/// Longest message kept in a condition.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What the loops keep of a set: enough to find the sets that a pod or a Deployment concerns.
pub(super) struct SetView {
    uid: Box<str>,
    selector: Selector,
    /// Its labels, by which a Deployment adopts it.
    pub(super) labels: Box<[(String, String)]>,
    /// Controller of the set itself, usually a Deployment.
    pub(super) owner: Option<Controller>,
}

struct Loop {
    context: Context,
    pods: Informer<PodView>,
    sets: Informer<SetView>,
}

/// Follows ReplicaSets; each change wakes the set and tells `changed`.
pub(super) fn follow(
    context: &Context,
    queue: &Queue<NamespacedName>,
    changed: impl Fn(&Changed<'_, SetView>) + Send + Sync + 'static,
) -> Result<Informer<SetView>, ApiError> {
    let view = |object: &Object| {
        let set: ReplicaSet = object.parse().ok()?;
        Some(SetView {
            uid: object.meta.uid.clone(),
            selector: replica_set::selector_of(&set).ok()?,
            labels: object.meta.labels.clone(),
            owner: controller_of(&set.metadata),
        })
    };
    let (cache, waiting) = (context.client.cache_of::<ReplicaSet>()?, queue.clone());
    let wake = move |change: Changed<'_, SetView>| {
        waiting.add(change.name.clone());
        changed(&change);
    };
    Ok(informer::start(cache, context.shutdown.clone(), view, wake))
}

/// Runs the loop until shutdown. `queue` is filled by [`follow`] and [`pod_changed`].
pub(super) async fn run(
    context: Context,
    pods: Informer<PodView>,
    sets: Informer<SetView>,
    queue: Queue<NamespacedName>,
) {
    sets.synced().await;
    pods.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        pods,
        sets,
    });
    // Pods that were seen before the sets.
    for pod in this.pods.select(|pod| pod.controller.is_none()) {
        wake_for_orphan(&queue, &this.sets, &pod);
    }
    let worker = this.clone();
    queue
        .work(WORKERS, shutdown, move |name| {
            let this = worker.clone();
            async move { this.reconcile(&name).await }
        })
        .await;
}

/// Wakes the sets that a pod's change concerns: its controller before and after, or those that could adopt it.
pub(super) fn pod_changed(
    queue: &Queue<NamespacedName>,
    sets: &Informer<SetView>,
    changed: &Changed<'_, PodView>,
) {
    let owners = [changed.old, changed.new].into_iter().flatten();
    let owners = owners.filter_map(|pod| pod.controller.as_ref());
    for owner in owners.filter(|owner| &*owner.kind == "ReplicaSet") {
        queue.add(NamespacedName::new(&*changed.name.namespace, &*owner.name));
    }
    if let Some(orphan) = changed.new.filter(|pod| pod.controller.is_none()) {
        wake_for_orphan(queue, sets, orphan);
    }
}

fn wake_for_orphan(queue: &Queue<NamespacedName>, sets: &Informer<SetView>, pod: &PodView) {
    if !pod.is_active() {
        return;
    }
    for (name, _) in sets.select_in(&pod.name.namespace, |set| {
        set.selector.matches(&*pod.labels)
    }) {
        queue.add(name);
    }
}

impl Loop {
    async fn reconcile(&self, name: &NamespacedName) -> Outcome {
        match self.try_reconcile(name).await {
            Ok(outcome) => outcome,
            Err(error) => super::failed("the ReplicaSet", name, &error),
        }
    }

    async fn try_reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.context.client.sync().await?;
        self.pods.catch_up().await;
        let set = self
            .context
            .client
            .get::<ReplicaSet>(name.namespace(), &name.name)
            .await;
        let set = match set {
            Ok(set) => set,
            Err(error) if error.is_not_found() => return Ok(Outcome::Done),
            Err(error) => return Err(error),
        };
        let Ok(selector) = replica_set::selector_of(&set) else {
            // The API refuses such a selector; a stored one selects nothing.
            return Ok(Outcome::Done);
        };
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let mut concerned = self.pods.indexed(&owned_by(&uid));
        let orphans = self.pods.indexed(&orphans_in(&name.namespace));
        concerned.extend(
            orphans
                .into_iter()
                .filter(|pod| selector.matches(&*pod.labels)),
        );
        let now = clock::now();
        let pods: Vec<&PodView> = concerned.iter().map(Arc::as_ref).collect();
        let related_on = self.related_on(name, &set);
        let view = View {
            set: &set,
            pods: &pods,
            related_on: &related_on,
        };
        let Ok(plan) = replica_set::plan(view, now) else {
            return Ok(Outcome::Done);
        };
        let Applied { failure, unclaimed } = self.apply(&set, &plan).await;

        self.context.client.sync().await?;
        self.pods.catch_up().await;
        let current = self.pods.indexed(&owned_by(&uid));
        let members: Vec<&PodView> = current.iter().map(Arc::as_ref).collect();
        let status = replica_set::plan_status(&set, &members, failure.as_ref(), now);
        if let Some(new) = status.status {
            let mut updated = set;
            updated.status = Some(new);
            self.context.client.update_status(&updated).await?;
        }
        Ok(match (failure, status.again_after) {
            (Some(_), _) => Outcome::Retry,
            // Adoption and release are planned again until they hold.
            (None, _) if unclaimed => Outcome::Retry,
            (None, Some(delay)) => Outcome::After(delay),
            (None, None) => Outcome::Done,
        })
    }

    /// Active pods on each node that belong to sets of the same owner.
    fn related_on(&self, name: &NamespacedName, set: &ReplicaSet) -> HashMap<Box<str>, usize> {
        let owner = controller_of(&set.metadata);
        let own_uid: Box<str> = set.metadata.uid.as_deref().unwrap_or_default().into();
        let mut uids = vec![own_uid];
        if owner.is_some() {
            let of_owner = |view: &SetView| view.owner == owner;
            let siblings = self.sets.select_in(&name.namespace, of_owner);
            uids.extend(siblings.into_iter().map(|(_, view)| view.uid.clone()));
        }
        uids.sort();
        uids.dedup();
        let related = uids
            .iter()
            .flat_map(|uid| self.pods.indexed(&owned_by(uid)));
        let related: Vec<_> = related.filter(|pod| pod.is_active()).collect();
        let mut counts = HashMap::new();
        for node in related.iter().filter_map(|pod| pod.node.clone()) {
            *counts.entry(node).or_default() += 1;
        }
        counts
    }

    async fn apply(&self, set: &ReplicaSet, plan: &Plan) -> Applied {
        let recorder = &self.context.recorder;
        let about = || super::reference("apps/v1", "ReplicaSet", &set.metadata);
        let mut failure = None;
        let mut unclaimed = false;
        for pod in &plan.adopt {
            unclaimed |= self.own(set, pod).await.is_err();
        }
        for pod in &plan.release {
            unclaimed |= self.disown(set, pod).await.is_err();
        }
        'creation: for batch in replica_set::slow_start_batches(plan.create) {
            let creations = (0..batch).map(|_| async {
                let pod = replica_set::new_pod(set);
                self.context.client.create::<Pod>(&pod).await
            });
            for created in join_all(creations).await {
                match created {
                    Ok(pod) => {
                        let created = pod.metadata.name.unwrap_or_default();
                        recorder.normal(
                            about(),
                            "SuccessfulCreate",
                            format!("Created pod: {created}"),
                        );
                    }
                    // Nothing is needed there any more.
                    Err(error) if error.is_namespace_ending() => break 'creation,
                    Err(error) => {
                        recorder.warning(
                            about(),
                            "FailedCreate",
                            format!("Error creating: {error}"),
                        );
                        failure = Some(refused("FailedCreate", &error));
                    }
                }
            }
            if failure.is_some() {
                break 'creation;
            }
        }
        let deletions = plan
            .delete
            .iter()
            .map(|pod| async move { (pod, self.delete(pod).await) });
        for (pod, deleted) in join_all(deletions).await {
            let name = &pod.name.name;
            match deleted {
                Ok(()) => {
                    recorder.normal(about(), "SuccessfulDelete", format!("Deleted pod: {name}"))
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    recorder.warning(about(), "FailedDelete", format!("Error deleting: {error}"));
                    failure = Some(refused("FailedDelete", &error));
                }
            }
        }
        Applied { failure, unclaimed }
    }

    async fn delete(&self, pod: &PodRef) -> Result<(), ApiError> {
        let params = DeleteParams {
            uid: Some(pod.uid.clone()),
            ..DeleteParams::default()
        };
        let PodRef { name, .. } = pod;
        self.context
            .client
            .delete::<Pod>(name.namespace(), &name.name, &params)
            .await
    }

    async fn own(&self, set: &ReplicaSet, pod: &PodRef) -> Result<(), ApiError> {
        let owner = new_controller_ref("apps/v1", "ReplicaSet", &set.metadata);
        let patch = json!({"metadata": {"uid": pod.uid, "ownerReferences": [owner]}});
        self.patch(pod, &Patch::Strategic(patch)).await
    }

    async fn disown(&self, set: &ReplicaSet, pod: &PodRef) -> Result<(), ApiError> {
        let owner = json!({"$patch": "delete", "uid": set.metadata.uid});
        let patch = json!({"metadata": {"uid": pod.uid, "ownerReferences": [owner]}});
        self.patch(pod, &Patch::Strategic(patch)).await
    }

    /// A pod that is gone, or is another one by now, needs nothing.
    async fn patch(&self, pod: &PodRef, patch: &Patch) -> Result<(), ApiError> {
        let PodRef { name, .. } = pod;
        let client = &self.context.client;
        match client
            .patch::<Pod>(name.namespace(), &name.name, patch, None)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => {
                tracing::warn!(pod = %name, %error, "an owner reference was not changed");
                Err(error)
            }
        }
    }
}

/// What came of a plan.
struct Applied {
    failure: Option<Failure>,
    /// A pod was not adopted or released.
    unclaimed: bool,
}

fn refused(reason: &'static str, error: &ApiError) -> Failure {
    let mut message = error.to_string();
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    message.truncate(end);
    Failure { reason, message }
}
