// SPDX-License-Identifier: Apache-2.0
//! The reasons of this node's events: each is a word that Kubernetes' users and programs know, and stands in one place.
//!
//! Not here: when something is worth an event, and its message.

use std::borrow::Cow;

use knarr_agent_plan::node::NodeEvent;
use knarr_agent_plan::reason::{FailureReason, SandboxReason, WaitingReason};
use knarr_datapath::overflow::OverflowReason;

/// `reason` of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventReason {
    /// A container's image is on the node.
    Pulled,
    /// A container exists.
    Created,
    /// Its program runs.
    Started,
    /// It is being stopped.
    Killing,
    /// It could not be made or executed.
    Failed,
    /// It is restarted, or its image pulled, later and later.
    BackOff,
    /// A probe failed.
    Unhealthy,
    /// A probe was answered by something that should be looked at.
    ProbeWarning,
    /// A pod's worker failed.
    FailedSync,
    /// The sandbox of a pod cannot be taken over.
    FailedPodSandBoxStatus,
    /// The agent starts.
    Starting,
    /// A Service, or a part of it, is not carried by this version.
    ServiceNotCarried,
    /// The kernel programs' maps could not be written.
    ServiceProgrammingFailed,
    /// Why a container waits.
    Waiting(WaitingReason),
    /// Why a sandbox could not be made.
    Sandbox(SandboxReason),
    /// Why a pod failed as a whole.
    Pod(FailureReason),
    /// What changed about the node.
    Node(NodeEvent),
    /// What had no room in the kernel programs.
    Overflow(OverflowReason),
}

impl EventReason {
    /// As it is written.
    pub fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            EventReason::Pulled => "Pulled",
            EventReason::Created => "Created",
            EventReason::Started => "Started",
            EventReason::Killing => "Killing",
            EventReason::Failed => "Failed",
            EventReason::BackOff => "BackOff",
            EventReason::Unhealthy => "Unhealthy",
            EventReason::ProbeWarning => "ProbeWarning",
            EventReason::FailedSync => "FailedSync",
            EventReason::FailedPodSandBoxStatus => "FailedPodSandBoxStatus",
            EventReason::Starting => "Starting",
            EventReason::ServiceNotCarried => "ServiceNotCarried",
            EventReason::ServiceProgrammingFailed => "ServiceProgrammingFailed",
            EventReason::Waiting(reason) => reason.as_str(),
            EventReason::Sandbox(reason) => reason.as_str(),
            EventReason::Pod(reason) => return reason.as_str(),
            EventReason::Node(event) => event.as_str(),
            EventReason::Overflow(reason) => reason.as_str(),
        })
    }
}
