// SPDX-License-Identifier: Apache-2.0
//! Applies what agents report, through the API like any other client: same validation, same conflicts.
//!
//! A node speaks for itself and for the pods bound to it; anything else it says is refused and logged. What
//! a report may change is planned in `knarr_control_plan::feed`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use knarr_api::feed::{PodGone, PodReport};
use knarr_api::k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use knarr_api::k8s_openapi::api::core::v1::{Event, Node, Pod, PodStatus};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    MicroTime, ObjectMeta, OwnerReference,
};
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, DeleteParams};
use knarr_control_plan::feed::{
    OwnNode, must_show_heartbeat, own_event, own_node, plan_event, plan_node, plan_pod_status,
    show_heartbeat,
};
use knarr_controllers::Reflector;
use serde_json::Value;
use tonic::Status;

use super::Feed;
use crate::clock;

/// Where node Leases live, as Kubernetes has it.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// What a Lease says of its length, as kubelet's `--node-lease-duration-seconds` default.
const LEASE_SECONDS: i32 = 40;
/// How often a write is tried again after somebody else changed the object first.
const CONFLICTS_MAX: usize = 8;
/// A Node gets its pod range right after it is made; longer than this means that ranges have run out.
const POD_CIDR_WITHIN: Duration = Duration::from_secs(30);

/// The Node as an owner, as kubelet writes it: not as a controller, and without holding up the Node's deletion.
fn owner_reference(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }
}

fn unavailable(what: &str, error: &ApiError) -> Status {
    Status::unavailable(format!("{what}: {error}"))
}

impl Feed {
    /// Updates the Node, which joining has made, and waits for its pod ranges.
    pub(super) async fn register(&self, node: &str, json: &[u8]) -> Result<Vec<String>, Status> {
        let reported = own_node_of(node, json)?;
        self.sessions.reported(node, reported.clone());
        self.write_node(node, &reported)
            .await
            .map_err(|error| unavailable("cannot write the Node", &error))?;
        self.renew_lease(node)
            .await
            .map_err(|error| unavailable("cannot write the node's Lease", &error))?;
        self.pod_cidrs(node).await
    }

    async fn pod_cidrs(&self, node: &str) -> Result<Vec<String>, Status> {
        let cache = self.client.cache_of::<Node>();
        let cache = cache.map_err(|error| unavailable("Nodes are not served", &error))?;
        let mut nodes = Reflector::new(cache);
        let wait = async {
            loop {
                // Any change of any Node; the first is the list.
                nodes.next().await;
                let current = self.client.get::<Node>(None, node).await;
                let current =
                    current.map_err(|error| unavailable("cannot read the Node", &error))?;
                let cidrs = current
                    .spec
                    .and_then(|spec| spec.pod_cidrs)
                    .unwrap_or_default();
                if !cidrs.is_empty() {
                    return Ok(cidrs);
                }
            }
        };
        match tokio::time::timeout(POD_CIDR_WITHIN, wait).await {
            Ok(found) => found,
            Err(_) => Err(Status::resource_exhausted(format!(
                "node {node} got no pod range within {} s: the cluster's pod range is used up; see `kubectl describe node {node}`",
                POD_CIDR_WITHIN.as_secs()
            ))),
        }
    }

    /// A changed Node status.
    pub(super) async fn apply_node(&self, node: &str, json: &[u8]) {
        let reported = match own_node_of(node, json) {
            Ok(reported) => reported,
            Err(error) => {
                tracing::warn!(node, %error, "a node report is refused");
                return;
            }
        };
        self.sessions.reported(node, reported.clone());
        if let Err(error) = self.write_node(node, &reported).await {
            tracing::warn!(node, %error, "a node report was not applied");
            self.hear_again(node, &error);
        }
    }

    /// A heartbeat.
    pub(super) async fn heard(&self, node: &str) {
        if let Err(error) = self.renew_lease_in_memory(node).await {
            tracing::warn!(node, %error, "the node's Lease was not renewed");
        }
        self.show_heard(node).await;
    }

    /// Shows the heartbeat in the Node's conditions, now and then. A node that was taken for dead and is heard again gets
    /// its last reported status back.
    async fn show_heard(&self, node: &str) {
        let Ok(cache) = self.client.cache_of::<Node>() else {
            return;
        };
        let Some(object) = cache.get("", node) else {
            return;
        };
        let Ok(current) = object.parse::<Node>() else {
            return;
        };
        let lost = current
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let lost = lost
            .filter(|condition| condition.status == "Unknown")
            .count()
            > 0;
        let now = clock::now();
        if !lost && must_show_heartbeat(&current, now) {
            let show = |node: &mut Value| show_heartbeat(node, now);
            match self.client.write_in_memory::<Node>(None, node, show).await {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(node, %error, "the heartbeat time of the node's conditions was not changed");
                }
                _ => {}
            }
        }
        if !lost {
            return;
        }
        let Some(reported) = self.sessions.last_report(node) else {
            return;
        };
        tracing::info!(node, "the node is heard again");
        if let Err(error) = self.write_node(node, &reported).await {
            tracing::warn!(node, %error, "the node's status was not restored");
        }
        if let Err(error) = self.renew_lease(node).await {
            tracing::warn!(node, %error, "the node's Lease was not renewed");
        }
    }

    async fn write_node(&self, node: &str, reported: &Node) -> Result<(), ApiError> {
        let mut tries = 0;
        loop {
            match self.try_write_node(node, reported).await {
                Err(error) if error.is_conflict() && tries < CONFLICTS_MAX => tries += 1,
                result => return result,
            }
        }
    }

    async fn try_write_node(&self, node: &str, reported: &Node) -> Result<(), ApiError> {
        let mut current = self.client.get::<Node>(None, node).await?;
        let writes = plan_node(&current, reported, clock::now());
        if let Some(metadata) = writes.metadata {
            current = self.client.update(&metadata).await?;
        }
        if let Some(status) = writes.status {
            current.status = Some(status);
            self.client.update_status(&current).await?;
        }
        Ok(())
    }

    /// Renews the Lease without a write: a version and an event of its own, and nothing on the disk.
    async fn renew_lease_in_memory(&self, node: &str) -> Result<(), ApiError> {
        let now = serde_json::json!(MicroTime(clock::now()));
        let renewed = self
            .client
            .write_in_memory::<Lease>(Some(LEASE_NAMESPACE), node, |lease| {
                lease["spec"]["renewTime"] = now.clone();
            })
            .await;
        match renewed {
            // Deleted by somebody, while the node lives.
            Err(error) if error.is_not_found() => self.renew_lease(node).await,
            result => result,
        }
    }

    /// Writes the Lease as kubelet does: renewed now, and owned by the Node, so that it goes with it. A node that is not
    /// registered gets none.
    async fn renew_lease(&self, node: &str) -> Result<(), ApiError> {
        let owner = match self.client.get::<Node>(None, node).await {
            Ok(owner) => owner_reference(&owner),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let owners = Some(vec![owner]);
        let now = MicroTime(clock::now());
        let spec = LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        match self.client.get::<Lease>(Some(LEASE_NAMESPACE), node).await {
            Ok(mut lease) => {
                lease.spec = Some(spec);
                lease.metadata.owner_references = owners;
                match self.client.update(&lease).await {
                    // Whoever was first has written the same.
                    Err(error) if error.is_conflict() => Ok(()),
                    result => result.map(|_| ()),
                }
            }
            Err(error) if error.is_not_found() => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        namespace: Some(LEASE_NAMESPACE.to_owned()),
                        name: Some(node.to_owned()),
                        owner_references: owners,
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                match self.client.create(&lease).await {
                    Err(error) if error.is_already_exists() => Ok(()),
                    result => result.map(|_| ()),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A pod's status as its node sees it.
    pub(super) async fn apply_pod(&self, node: &str, report: PodReport) {
        let name = NamespacedName::new(report.namespace, report.name);
        if !self.hub.runs_on(&name, &report.uid, node) {
            // Usual right after a pod was removed: the node has not been told yet.
            tracing::debug!(node, pod = %name, uid = report.uid, "a report about a pod that is not this node's");
            return;
        }
        let reported: PodStatus = match serde_json::from_slice(&report.status_json) {
            Ok(reported) => reported,
            Err(error) => {
                tracing::warn!(node, pod = %name, %error, "a pod report cannot be read");
                return;
            }
        };
        for _ in 0..CONFLICTS_MAX {
            match self.try_write_pod(&name, &report.uid, &reported).await {
                Ok(()) => return,
                Err(error) if error.is_conflict() => {}
                Err(error) if error.is_not_found() => return,
                Err(error) => {
                    tracing::warn!(node, pod = %name, %error, "a pod report was not applied");
                    return self.hear_again(node, &error);
                }
            }
        }
        tracing::warn!(node, pod = %name, "a pod report was not applied: the pod kept changing");
        self.sessions.interrupt(node);
    }

    /// A report that could not be written now is not lost: the session ends, and on its next connection the
    /// agent says everything again. One that will never be taken is dropped.
    fn hear_again(&self, node: &str, error: &ApiError) {
        if error.is_retryable() {
            self.sessions.interrupt(node);
        }
    }

    async fn try_write_pod(
        &self,
        name: &NamespacedName,
        uid: &str,
        reported: &PodStatus,
    ) -> Result<(), ApiError> {
        let mut pod = self.client.get::<Pod>(name.namespace(), &name.name).await?;
        if pod.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let current = pod.status.take().unwrap_or_default();
        let Some(planned) = plan_pod_status(&current, reported) else {
            self.hub.reported(name, uid, &current);
            return Ok(());
        };
        self.hub.reported(name, uid, &planned);
        pod.status = Some(planned);
        self.client.update_status(&pod).await?;
        Ok(())
    }

    /// A deleted pod has ended on its node: its object goes.
    pub(super) async fn apply_gone(&self, node: &str, gone: PodGone) {
        let name = NamespacedName::new(gone.namespace, gone.name);
        if !self.hub.runs_on(&name, &gone.uid, node) {
            tracing::debug!(node, pod = %name, uid = gone.uid, "the end of a pod that is not this node's");
            return;
        }
        let params = DeleteParams {
            uid: Some(gone.uid),
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        match self
            .client
            .delete::<Pod>(name.namespace(), &name.name, &params)
            .await
        {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => {
                tracing::warn!(node, pod = %name, %error, "an ended pod was not removed");
                self.hear_again(node, &error);
            }
        }
    }

    /// An Event that the node saw; the same name again counts up.
    ///
    /// Events are best effort, as in Kubernetes: an agent says each once and hears nothing back, so one that cannot
    /// be written is lost. That is counted, and ends no session: a session's end makes the agent say its pods again,
    /// not its events.
    pub(super) async fn apply_event(&self, node: &str, event: Event) {
        let event = own_event(node, event);
        let result = match self.client.create(&event).await {
            Err(error) if error.is_already_exists() => self.count_up(node, &event).await,
            result => result.map(|_| ()),
        };
        if let Err(error) = result {
            if error.is_namespace_ending() {
                // It would go with its namespace at once.
                tracing::debug!(node, %error, "an event comes too late for its namespace");
                return;
            }
            // The store may be full.
            self.events_lost.fetch_add(1, Ordering::Relaxed);
            let (object, reason) = (&event.involved_object.name, &event.reason);
            tracing::warn!(node, ?object, ?reason, %error, "an event is lost: it could not be written");
        }
    }

    async fn count_up(&self, node: &str, event: &Event) -> Result<(), ApiError> {
        let namespace = event.metadata.namespace.as_deref();
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let existing = self.client.get::<Event>(namespace, name).await?;
        let Some(planned) = plan_event(&existing, event) else {
            tracing::warn!(
                node,
                namespace,
                name,
                "an event is refused: the one that has its name is about something else, or not from this node"
            );
            return Ok(());
        };
        self.client.update(&planned).await.map(|_| ())
    }

    /// Whether an event is about the node itself or about a pod that runs on it. Asked when the event arrives: what comes
    /// behind it may be the end of its pod.
    pub(super) fn may_report(&self, node: &str, event: &Event) -> bool {
        let about = &event.involved_object;
        match about.kind.as_deref() {
            Some("Node") => about.name.as_deref() == Some(node),
            Some("Pod") => {
                let namespace = about.namespace.clone().unwrap_or_default();
                let name = NamespacedName::new(namespace, about.name.clone().unwrap_or_default());
                let uid = about.uid.as_deref().unwrap_or_default();
                self.hub.runs_on(&name, uid, node)
            }
            _ => false,
        }
    }
}

/// What the node may say of what it reports.
fn own_node_of(node: &str, json: &[u8]) -> Result<Node, Status> {
    let reported: Node = serde_json::from_slice(json)
        .map_err(|error| Status::invalid_argument(format!("the Node cannot be read: {error}")))?;
    if reported.metadata.name.as_deref() != Some(node) {
        return Err(Status::permission_denied(format!(
            "node {node} may not report the Node {:?}",
            reported.metadata.name.as_deref().unwrap_or_default()
        )));
    }
    let OwnNode {
        node: reported,
        refused_labels,
    } = own_node(node, reported);
    for label in refused_labels {
        tracing::warn!(
            node,
            label,
            "a label is refused: a node may not give itself this one, or, as its hostname, another than its name; an admin sets others with `kubectl label node`"
        );
    }
    Ok(reported)
}
