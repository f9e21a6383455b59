// SPDX-License-Identifier: Apache-2.0
//! Keeps every ReplicaSet at its number of pods. Decides nothing: `knarr_control_plan::replica_set` does.
//!
//! Before it plans, the controller makes sure that its views show every acknowledged write, its own included, so that a
//! stale view never creates a pod twice.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use knarr_api::k8s_openapi::api::apps::v1::ReplicaSet;
use knarr_api::k8s_openapi::api::core::v1::Pod;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams, Object, Patch};
use knarr_control_plan::owners::{self, controller_of, new_controller_ref};
use knarr_control_plan::pods::PodView;
use knarr_control_plan::reason::{ConditionReason, EventReason};
use knarr_control_plan::replica_set::{self, Failure, Plan, PodRef, View};
use serde_json::json;

use crate::clock;
use crate::controller::{Controller, Owned, Reconcile, Registration};
use crate::informer::{self, Informer};
use crate::pods::{orphans_in, owned_by};
use crate::queue::{Outcome, Queue};
use crate::recorder::{Recorder, reference};
use crate::shared::Shared;

const NAME: &str = "replicaset-controller";
/// Sets that are reconciled at once: their writes share the store's commits.
const WORKERS: usize = 8;
/// Longest message kept in a condition.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What the controllers keep of a set: enough to find the sets that a pod or a Deployment concerns.
pub(crate) struct SetView {
    uid: Box<str>,
    selector: Selector,
    /// Its labels, by which a Deployment adopts it.
    pub(crate) labels: Box<[(String, String)]>,
    /// Controller of the set itself, usually a Deployment.
    pub(crate) owner: Option<owners::Controller>,
}

impl informer::View for SetView {
    type Kind = ReplicaSet;

    fn of(object: &Object) -> Option<Self> {
        let set: ReplicaSet = object.parse().ok()?;
        Some(Self {
            uid: object.meta.uid.clone(),
            selector: replica_set::selector_of(&set).ok()?,
            labels: object.meta.labels.clone(),
            owner: controller_of(&set.metadata),
        })
    }
}

impl Owned for SetView {
    fn controller(&self) -> Option<&owners::Controller> {
        self.owner.as_ref()
    }
}

struct ReplicaSets {
    client: Client,
    recorder: Recorder,
    pods: Informer<PodView>,
    sets: Informer<SetView>,
}

/// Registers the controller.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let pods = shared.informers().of::<PodView>()?;
    let sets = shared.informers().of::<SetView>()?;
    let adopters = sets.clone();
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches_itself(&sets)
        .owns(&pods, "ReplicaSet")
        .watches(&pods, move |queue, change| {
            if let Some(orphan) = change.new.filter(|pod| pod.controller.is_none()) {
                add_adopters(queue, &adopters, orphan);
            }
        })
        .reconcile(ReplicaSets {
            client: shared.client(),
            recorder: shared.recorder(NAME),
            pods,
            sets,
        }))
}

/// Adds the sets that could adopt a pod without a controller.
fn add_adopters(queue: &Queue<NamespacedName>, sets: &Informer<SetView>, pod: &PodView) {
    if !pod.is_active() {
        return;
    }
    let selects = |set: &SetView| set.selector.matches(&*pod.labels);
    for (name, _) in sets.select_in(&pod.name.namespace, selects) {
        queue.add(name);
    }
}

#[async_trait]
impl Reconcile for ReplicaSets {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.client.sync().await?;
        self.pods.catch_up().await;
        let set = self
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

        self.client.sync().await?;
        self.pods.catch_up().await;
        let current = self.pods.indexed(&owned_by(&uid));
        let members: Vec<&PodView> = current.iter().map(Arc::as_ref).collect();
        let status = replica_set::plan_status(&set, &members, failure.as_ref(), now);
        if let Some(new) = status.status {
            let mut updated = set;
            updated.status = Some(new);
            self.client.update_status(&updated).await?;
        }
        Ok(match (failure, status.again_after) {
            (Some(_), _) => Outcome::Retry,
            // Adoption and release are planned again until they hold.
            (None, _) if unclaimed => Outcome::Retry,
            (None, Some(delay)) => Outcome::After(delay),
            (None, None) => Outcome::Done,
        })
    }
}

impl ReplicaSets {
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
        let recorder = &self.recorder;
        let about = || reference("apps/v1", "ReplicaSet", &set.metadata);
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
                self.client.create::<Pod>(&pod).await
            });
            for created in join_all(creations).await {
                match created {
                    Ok(pod) => {
                        let created = pod.metadata.name.unwrap_or_default();
                        recorder.normal(
                            about(),
                            EventReason::SuccessfulCreate,
                            format!("Created pod: {created}"),
                        );
                    }
                    // Nothing is needed there any more.
                    Err(error) if error.is_namespace_ending() => break 'creation,
                    Err(error) => {
                        recorder.warning(
                            about(),
                            EventReason::FailedCreate,
                            format!("Error creating: {error}"),
                        );
                        failure = Some(refused(ConditionReason::FailedCreate, &error));
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
                    let message = format!("Deleted pod: {name}");
                    recorder.normal(about(), EventReason::SuccessfulDelete, message);
                }
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => {
                    let message = format!("Error deleting: {error}");
                    recorder.warning(about(), EventReason::FailedDelete, message);
                    failure = Some(refused(ConditionReason::FailedDelete, &error));
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
        self.client
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
        let client = &self.client;
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

fn refused(reason: ConditionReason, error: &ApiError) -> Failure {
    let mut message = error.to_string();
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    message.truncate(end);
    Failure { reason, message }
}
