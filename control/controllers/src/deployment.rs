// SPDX-License-Identifier: Apache-2.0
//! Rolls Deployments out, one planned step at a time. `knarr_control_plan::deployment` decides each step; what a step
//! changes adds the Deployment for the next.

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use knarr_api::k8s_openapi::api::core::v1::ObjectReference;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams, Object, Patch, Propagation};
use knarr_control_plan::deployment::{self, Action, NameTaken, SetRef, View};
use knarr_control_plan::owners::{self, new_controller_ref};
use knarr_control_plan::pods::PodView;
use knarr_control_plan::reason::EventReason;
use serde_json::json;

use crate::clock;
use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::{self, Change, Informer};
use crate::pods::owned_by;
use crate::queue::{Outcome, Queue};
use crate::recorder::{Recorder, reference};
use crate::replica_set::SetView;
use crate::shared::Shared;

const NAME: &str = "deployment-controller";
/// Deployments that are reconciled at once.
const WORKERS: usize = 4;

/// What the controllers keep of a Deployment: enough to find those that a set without an owner could belong to.
struct DeploymentView {
    selector: Selector,
}

impl informer::View for DeploymentView {
    type Kind = Deployment;

    fn of(object: &Object) -> Option<Self> {
        let deployment: Deployment = object.parse().ok()?;
        let selector = Selector::from_object(Some(&deployment.spec.selector)).ok()?;
        Some(Self { selector })
    }
}

struct Deployments {
    client: Client,
    recorder: Recorder,
    pods: Informer<PodView>,
    sets: Informer<SetView>,
}

/// Registers the controller.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let pods = shared.informers().of::<PodView>()?;
    let sets = shared.informers().of::<SetView>()?;
    let deployments = shared.informers().of::<DeploymentView>()?;
    let (adopters, sets_of_pods) = (deployments.clone(), sets.clone());
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches_itself(&deployments)
        .owns(&sets, "Deployment")
        .watches(&sets, move |queue, change| {
            if let Some(orphan) = change.new.filter(|set| set.owner.is_none()) {
                let selects = |view: &DeploymentView| view.selector.matches(&*orphan.labels);
                for (name, _) in adopters.select_in(&change.name.namespace, selects) {
                    queue.add(name);
                }
            }
        })
        .watches(&pods, move |queue, change| {
            queue_owner_of_ended(queue, &sets_of_pods, change);
        })
        .reconcile(Deployments {
            client: shared.client(),
            recorder: shared.recorder(NAME),
            pods,
            sets,
        }))
}

/// A Deployment that recreates its pods waits until the old ones have ended: the end of a pod adds the Deployment that
/// controls its set.
fn queue_owner_of_ended(
    queue: &Queue<NamespacedName>,
    sets: &Informer<SetView>,
    change: &Change<'_, PodView>,
) {
    let was_running = change.old.filter(|pod| !pod.phase.is_terminal());
    let has_ended = change.new.is_none_or(|pod| pod.phase.is_terminal());
    let set = was_running
        .filter(|_| has_ended)
        .and_then(|pod| pod.controller.as_ref())
        .filter(|owner| &*owner.kind == "ReplicaSet");
    let Some(set) = set else {
        return;
    };
    let namespace = change.name.namespace.as_str();
    let set = sets.view(&NamespacedName::new(namespace, &*set.name));
    if let Some(owner) = set.as_ref().and_then(|set| set.owner.as_ref()) {
        queue.add(NamespacedName::new(namespace, &*owner.name));
    }
}

#[async_trait]
impl Reconcile for Deployments {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.client.sync().await?;
        self.sets.catch_up().await;
        self.pods.catch_up().await;
        let deployment = self
            .client
            .get::<Deployment>(name.namespace(), &name.name)
            .await;
        let mut deployment = match deployment {
            Ok(deployment) => deployment,
            Err(error) if error.is_not_found() => return Ok(Outcome::Done),
            Err(error) => return Err(error),
        };
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let of_others = |owner: &owners::Controller| *owner.uid != *uid;
        let own = self.sets.select_in(&name.namespace, |view| {
            !view.owner.as_ref().is_some_and(of_others)
        });
        let read = |name: &NamespacedName| {
            let object = self.sets.object(name)?;
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
}

impl Deployments {
    async fn apply(&self, deployment: &mut Deployment, action: Action) -> Result<(), ApiError> {
        let client = &self.client;
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
                    let reason = EventReason::ReplicaSetCreateError;
                    self.recorder.warning(about(deployment), reason, message);
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
                self.recorder.normal(about(deployment), reason, message);
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
        let existing = self.client.get::<ReplicaSet>(namespace, name).await?;
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
        let written = self.client.update_status(&updated).await?;
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
        let client = &self.client;
        client
            .patch::<ReplicaSet>(namespace, &set.name, &patch, None)
            .await
            .map(|_| ())
    }
}

fn about(deployment: &Deployment) -> ObjectReference {
    reference("apps/v1", "Deployment", &deployment.metadata)
}
