// SPDX-License-Identifier: Apache-2.0
//! The reconcile loops: one file each, around the plan of the same name in `knarr-control-plan`.
//!
//! Every loop is fed by informers over the watch cache, takes keys from a queue, plans, applies through the
//! API's in-process client, and writes status and events. None of them polls. Started by `lib.rs`.

use knarr_api::k8s_openapi::api::core::v1::ObjectReference;
use knarr_api::k8s_openapi::api::core::v1::Pod;
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_apiserver::{ApiError, Client, Object};
use knarr_control_plan::pods::PodView;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::informer;
use crate::queue::Queue;
use crate::recorder::Recorder;

mod deployment;
mod endpoint_mirror;
mod endpoint_slice;
mod endpoints;
mod replica_set;
mod scheduler;
mod services;

/// What every loop needs.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The API.
    pub(crate) client: Client,
    /// Ends the loop.
    pub(crate) shutdown: CancellationToken,
    /// Events, spoken as the loop.
    pub(crate) recorder: Recorder,
}

/// How an event names the object that it is about.
pub(crate) fn reference(api_version: &str, kind: &str, meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Starts every loop; they end at `shutdown`.
pub fn spawn_all(
    client: Client,
    shutdown: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), ApiError> {
    let recorder = Recorder::start(client.clone(), shutdown.clone());
    let context = |source: &'static str| Context {
        client: client.clone(),
        shutdown: shutdown.clone(),
        recorder: recorder.speaking_as(source),
    };
    let wake = services::Wake {
        slices: Queue::new(),
        endpoints: Queue::new(),
        mirror: Queue::new(),
    };
    let (set_queue, deployment_queue) = (Queue::new(), Queue::new());
    let services = services::follow_services(&context("endpoint-controller"), &wake)?;
    let slices = services::Slices::follow(&context("endpoint-slice-controller"), &wake)?;
    let pods = {
        let cache = client.cache_of::<Pod>()?;
        let (services, wake) = (services.clone(), wake.clone());
        let (sets, deployments) = (set_queue.clone(), deployment_queue.clone());
        let view = |object: &Object| Some(PodView::of(&object.parse::<Pod>().ok()?));
        informer::start(cache, shutdown.clone(), view, move |changed| {
            replica_set::pod_changed(&sets, &changed);
            deployment::pod_changed(&deployments, &changed);
            services::pod_changed(&services, &wake, &changed);
        })
    };
    tasks.spawn(scheduler::run(context("default-scheduler")));
    tasks.spawn(replica_set::run(
        context("replicaset-controller"),
        pods.clone(),
        set_queue,
    ));
    tasks.spawn(deployment::run(
        context("deployment-controller"),
        pods.clone(),
        deployment_queue,
    ));
    tasks.spawn(endpoint_slice::run(
        context("endpoint-slice-controller"),
        pods.clone(),
        services.clone(),
        slices.clone(),
        wake.slices,
    ));
    tasks.spawn(endpoints::run(
        context("endpoint-controller"),
        pods,
        services.clone(),
        wake.endpoints,
    ));
    let mirror = context("endpoint-slice-mirroring-controller");
    tasks.spawn(endpoint_mirror::run(mirror, services, slices, wake.mirror));
    Ok(())
}
