// SPDX-License-Identifier: Apache-2.0
//! What the controllers keep of a pod: a few hundred bytes instead of the parsed object.
//!
//! ReplicaSet, Deployment, EndpointSlice, Endpoints, node lifecycle and pod clean-up share this view; the
//! scheduler has its own ([`crate::scheduler::PodInfo`]), because it asks other questions.

use knarr_api::k8s_openapi::api::core::v1::{Pod, PodCondition, Toleration};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};
use knarr_api::names::NamespacedName;

use crate::owners::{Controller, controller_of};
use crate::reason::ConditionReason;

/// Annotation that ranks pods of one ReplicaSet for deletion, cheapest first.
pub const POD_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Reason of a `Ready=False` condition that speaks of the node and not of the pod.
pub const NODE_LOST: &str = ConditionReason::NodeNotReady.as_str();

/// Where a pod is in its life (`status.phase`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Phase {
    /// Accepted; not every container has been made.
    #[default]
    Pending,
    /// Its node cannot tell.
    Unknown,
    /// Bound, all containers made, at least one running or starting.
    Running,
    /// All containers ended well and will not start again.
    Succeeded,
    /// All containers ended, one badly, and will not start again.
    Failed,
}

impl Phase {
    /// Reads `status.phase`; what is missing or unknown to this version counts as pending.
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Running") => Self::Running,
            Some("Succeeded") => Self::Succeeded,
            Some("Failed") => Self::Failed,
            Some("Unknown") => Self::Unknown,
            _ => Self::Pending,
        }
    }

    /// True for a phase that a pod never leaves.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A port that a container names, for Services that refer to it by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// `ports[].name`
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// `ports[].containerPort`
    pub port: i32,
}

/// A pod as the controllers see it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodView {
    /// Namespace and name.
    pub name: NamespacedName,
    /// `metadata.uid`
    pub uid: Box<str>,
    /// Labels, sorted by key.
    pub labels: Box<[(String, String)]>,
    /// The controlling owner.
    pub controller: Option<Controller>,
    /// The node that it is bound to.
    pub node: Option<Box<str>>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Status and last change of the `Ready` condition; `None` where it is absent.
    pub ready: Option<Ready>,
    /// `metadata.deletionTimestamp`: the pod is on its way out.
    pub deleted_at: Option<Timestamp>,
    /// `metadata.creationTimestamp`
    pub created_at: Option<Timestamp>,
    /// Most restarts among its containers.
    pub restarts: i32,
    /// `status.podIPs`, or the single `status.podIP`.
    pub ips: Box<[Box<str>]>,
    /// Ports with names.
    pub named_ports: Box<[NamedPort]>,
    /// `spec.hostname` where the pod also names a subdomain, as DNS for headless Services needs it.
    pub hostname: Option<Box<str>>,
    /// `spec.subdomain`
    pub subdomain: Option<Box<str>>,
    /// The tolerations that may tolerate `NoExecute` taints.
    pub execute_tolerations: Box<[Toleration]>,
    /// Value of [`POD_DELETION_COST`].
    pub deletion_cost: i32,
}

/// The `Ready` condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Whether the status is `True`.
    pub is_true: bool,
    /// Its `lastTransitionTime`.
    pub since: Option<Timestamp>,
    /// Node lifecycle set it, because the pod's node sends no heartbeat ([`NODE_LOST`]).
    pub is_lost: bool,
}

/// The condition of a type, if the pod has it.
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Namespace and name of any object.
pub fn name_of(meta: &ObjectMeta) -> NamespacedName {
    NamespacedName::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

impl PodView {
    /// The view of `pod`.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let text = |value: &Option<String>| -> Option<Box<str>> {
            value
                .as_deref()
                .filter(|text| !text.is_empty())
                .map(Into::into)
        };
        let labels = meta.labels.iter().flatten();
        Self {
            name: name_of(meta),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
            controller: controller_of(meta),
            node: spec.and_then(|spec| text(&spec.node_name)),
            phase: Phase::parse(status.and_then(|status| status.phase.as_deref())),
            ready: condition(pod, "Ready").map(|ready| Ready {
                is_true: ready.status == "True",
                since: ready.last_transition_time.as_ref().map(|time| time.0),
                is_lost: ready.reason.as_deref() == Some(NODE_LOST),
            }),
            deleted_at: meta.deletion_timestamp.as_ref().map(|time| time.0),
            created_at: meta.creation_timestamp.as_ref().map(|time| time.0),
            restarts: restarts(pod),
            ips: ips(pod),
            named_ports: named_ports(pod),
            hostname: spec.and_then(|spec| text(&spec.hostname)),
            subdomain: spec.and_then(|spec| text(&spec.subdomain)),
            execute_tolerations: spec
                .and_then(|spec| spec.tolerations.as_ref())
                .into_iter()
                .flatten()
                .filter(|t| matches!(t.effect.as_deref(), None | Some("" | "NoExecute")))
                .cloned()
                .collect(),
            deletion_cost: meta
                .annotations
                .as_ref()
                .and_then(|annotations| annotations.get(POD_DELETION_COST))
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0),
        }
    }

    /// True when it is neither ended nor about to be: it counts as one of its set's replicas.
    pub fn is_active(&self) -> bool {
        !self.phase.is_terminal() && self.deleted_at.is_none()
    }

    /// True when the `Ready` condition is `True`.
    pub fn is_ready(&self) -> bool {
        self.ready.is_some_and(|ready| ready.is_true)
    }

    /// True when it has been ready for `min_ready_s` seconds.
    pub fn is_available(&self, min_ready_s: i32, now: Timestamp) -> bool {
        match self.ready {
            Some(Ready {
                is_true: true,
                since,
                ..
            }) => {
                min_ready_s <= 0
                    || since.is_some_and(|since| available_at(since, min_ready_s) <= now)
            }
            _ => false,
        }
    }

    /// When it will count as available if it stays ready; `None` when it is not ready or already is.
    pub fn becomes_available_at(&self, min_ready_s: i32, now: Timestamp) -> Option<Timestamp> {
        let ready = self
            .ready
            .filter(|ready| ready.is_true && min_ready_s > 0)?;
        Some(available_at(ready.since?, min_ready_s)).filter(|moment| *moment > now)
    }

    /// True when the controller is the one with this `uid`.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller
            .as_ref()
            .is_some_and(|controller| &*controller.uid == uid)
    }
}

fn available_at(since: Timestamp, min_ready_s: i32) -> Timestamp {
    since
        .saturating_add(SignedDuration::from_secs(min_ready_s.into()))
        .unwrap_or(Timestamp::MAX)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let main = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let all = main.into_iter().flatten().chain(init.into_iter().flatten());
    all.map(|container| container.restart_count)
        .max()
        .unwrap_or(0)
}

fn ips(pod: &Pod) -> Box<[Box<str>]> {
    let Some(status) = &pod.status else {
        return Box::default();
    };
    let many = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let many: Box<[Box<str>]> = many.filter(|ip| !ip.is_empty()).map(Into::into).collect();
    match &status.pod_ip {
        Some(ip) if many.is_empty() && !ip.is_empty() => Box::new([ip.as_str().into()]),
        _ => many,
    }
}

fn named_ports(pod: &Pod) -> Box<[NamedPort]> {
    let Some(spec) = &pod.spec else {
        return Box::default();
    };
    // Sidecars (init containers that restart always) serve as long as the pod does.
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.as_deref().filter(|name| !name.is_empty())?.into(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                port: port.container_port,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
