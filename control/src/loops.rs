// SPDX-License-Identifier: Apache-2.0
//! The reconcile loops: one file each, around the plan of the same name in `knarr-control-plan`.
//!
//! Every loop is fed by informers over the watch cache, takes keys from a queue, plans, applies through the
//! API's in-process client, and writes status and events. None of them polls. Started by `lib.rs`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, Object};
use knarr_control_plan::pod_cidr::PodCidrs;
use knarr_control_plan::pods::PodView;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::feed::Heartbeats;
use crate::informer::{self, Changed, Informer};
use crate::queue::{Outcome, Queue};
use crate::recorder::Recorder;

mod deployment;
mod endpoint_mirror;
mod endpoint_slice;
mod endpoints;
mod expiry;
mod garbage;
mod namespace;
mod node_lifecycle;
mod nodes;
mod pod_cidr;
mod pod_gc;
mod pods;
mod replica_set;
mod scheduler;
mod service_account;
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

/// What a failed reconcile of `key` asks for. Failures that are part of ordinary life, because others write too,
/// are not worth a line in the log.
pub(crate) fn failed(what: &'static str, key: &dyn std::fmt::Display, error: &ApiError) -> Outcome {
    if error.is_namespace_ending() {
        return Outcome::Done;
    }
    if !(error.is_conflict() || error.is_not_found() || error.is_already_exists()) {
        tracing::warn!(key = %key, %error, "{what} was not reconciled");
    }
    Outcome::Retry
}

/// Reconciles the keys of `queue` until shutdown, with `reconcile` all there is to do for one; `what` is what a failure
/// is logged about.
async fn work<F, R>(
    queue: Queue<NamespacedName>,
    workers: usize,
    shutdown: CancellationToken,
    what: &'static str,
    reconcile: F,
) where
    F: Fn(NamespacedName) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    queue
        .work(workers, shutdown, move |key| {
            let reconciled = reconcile(key.clone());
            async move {
                match reconciled.await {
                    Ok(()) => Outcome::Done,
                    Err(error) => failed(what, &key, &error),
                }
            }
        })
        .await;
}

/// What the loops are told about the cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// When nodes were last heard.
    pub heartbeats: Arc<Heartbeats>,
    /// How long a node may be silent.
    pub grace: Duration,
    /// Ranges of pod addresses, none given out yet.
    pub pod_cidrs: PodCidrs,
    /// The cluster's CA certificates, for pods.
    pub ca_pem: String,
}

/// Starts every loop; they end at `shutdown`.
pub fn spawn_all(
    client: Client,
    settings: Settings,
    shutdown: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), ApiError> {
    let Settings {
        heartbeats,
        grace,
        pod_cidrs,
        ca_pem,
    } = settings;
    let recorder = Recorder::start(client.clone(), shutdown.clone(), tasks);
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
    let queues = Queues::default();
    let services = services::follow_services(&context("endpoint-controller"), &wake)?;
    let slices = services::Slices::follow(&context("endpoint-slice-controller"), &wake)?;
    let deployments = deployment::follow(&context("deployment-controller"), &queues.deployments)?;
    let (waiting, known) = (queues.deployments.clone(), deployments.clone());
    let changed = move |changed: &Changed<'_, replica_set::SetView>| {
        deployment::set_changed(&waiting, &known, changed);
    };
    let sets = replica_set::follow(&context("replicaset-controller"), &queues.sets, changed)?;
    let followed = Followed {
        services: services.clone(),
        sets: sets.clone(),
    };
    let (nodes, pods) = follow(&context("node-controller"), followed, &wake, &queues)?;
    let Queues {
        sets: set_queue,
        deployments: deployment_queue,
        silent_nodes,
        homeless_pods,
        unnumbered_nodes,
        namespaces,
    } = queues;
    tasks.spawn(scheduler::run(context("default-scheduler")));
    let sets_context = context("replicaset-controller");
    tasks.spawn(replica_set::run(
        sets_context,
        pods.clone(),
        sets.clone(),
        set_queue,
    ));
    let deployments_context = context("deployment-controller");
    tasks.spawn(deployment::run(
        deployments_context,
        pods.clone(),
        deployments,
        sets,
        deployment_queue,
    ));
    tasks.spawn(endpoint_slice::run(
        context("endpoint-slice-controller"),
        pods.clone(),
        services.clone(),
        slices.clone(),
        nodes.clone(),
        wake.slices,
    ));
    tasks.spawn(endpoints::run(
        context("endpoint-controller"),
        pods.clone(),
        services.clone(),
        wake.endpoints.clone(),
    ));
    let mirror = context("endpoint-slice-mirroring-controller");
    tasks.spawn(endpoint_mirror::run(
        mirror,
        services,
        slices,
        wake.mirror,
        wake.endpoints,
    ));
    // Read before anybody is served: every other Node comes later, and is told of.
    let known = node_lifecycle::Known::of(&client)?;
    tasks.spawn(node_lifecycle::run(
        context("node-controller"),
        heartbeats,
        grace,
        known,
        nodes.clone(),
        pods.clone(),
        silent_nodes,
    ));
    let homeless = context("pod-garbage-collector");
    tasks.spawn(pod_gc::run(homeless, nodes.clone(), pods, homeless_pods));
    let ranges = context("cidrAllocator");
    tasks.spawn(pod_cidr::run(ranges, nodes, pod_cidrs, unnumbered_nodes));
    let terminating = namespace::follow(&context("namespace-controller"), &namespaces)?;
    let emptied = namespaces.clone();
    tasks.spawn(garbage::run(
        context("garbage-collector-controller"),
        Arc::new(move |gone: &str| namespace::content_gone(&emptied, &terminating, gone)),
    ));
    tasks.spawn(namespace::run(context("namespace-controller"), namespaces));
    tasks.spawn(expiry::events(context("knarr-control")));
    tasks.spawn(expiry::tokens(context("token-cleaner")));
    tasks.spawn(service_account::run(
        context("service-account-controller"),
        ca_pem,
    ));
    Ok(())
}

/// The queues that changes of pods and nodes fill.
#[derive(Default)]
struct Queues {
    sets: Queue<NamespacedName>,
    deployments: Queue<NamespacedName>,
    silent_nodes: node_lifecycle::NodeQueue,
    homeless_pods: pod_gc::Homeless,
    unnumbered_nodes: pod_cidr::NodeQueue,
    namespaces: namespace::NamespaceQueue,
}

/// What is followed before pods are, because a pod's change is looked up in it.
struct Followed {
    services: Informer<services::ServiceView>,
    sets: Informer<replica_set::SetView>,
}

/// Follows Nodes and Pods once for all loops.
fn follow(
    context: &Context,
    followed: Followed,
    wake: &services::Wake,
    queues: &Queues,
) -> Result<(nodes::Nodes, Informer<PodView>), ApiError> {
    let (client, shutdown) = (&context.client, &context.shutdown);
    // A node that goes concerns its pods, and pods are followed after nodes.
    let pods_of_nodes: Arc<OnceLock<Informer<PodView>>> = Arc::default();
    let (silent, homeless) = (queues.silent_nodes.clone(), queues.homeless_pods.clone());
    let (unnumbered, pods) = (queues.unnumbered_nodes.clone(), pods_of_nodes.clone());
    let cache = client.cache_of::<Node>()?;
    let nodes = informer::start(
        cache,
        shutdown.clone(),
        nodes::NodeView::of,
        move |changed| {
            node_lifecycle::node_changed(&silent, &changed);
            pod_cidr::node_changed(&unnumbered, &changed);
            if let Some(pods) = pods.get() {
                pod_gc::node_changed(&homeless, pods, &changed);
            }
        },
    );
    let cache = client.cache_of::<Pod>()?;
    let Followed { services, sets } = followed;
    let (wake, known) = (wake.clone(), nodes.clone());
    let (set_queue, deployments) = (queues.sets.clone(), queues.deployments.clone());
    let (silent, homeless) = (queues.silent_nodes.clone(), queues.homeless_pods.clone());
    let view = |object: &Object| Some(PodView::of(&object.parse::<Pod>().ok()?));
    let changed = move |changed: Changed<'_, PodView>| {
        replica_set::pod_changed(&set_queue, &sets, &changed);
        deployment::pod_changed(&deployments, &sets, &changed);
        services::pod_changed(&services, &wake, &changed);
        node_lifecycle::pod_changed(&silent, &known, &changed);
        pod_gc::pod_changed(&homeless, &known, &changed);
    };
    let pods = informer::start_indexed(cache, shutdown.clone(), pods::keys, view, changed);
    // Set once, here.
    let _ = pods_of_nodes.set(pods.clone());
    Ok((nodes, pods))
}

#[cfg(test)]
mod tests;
