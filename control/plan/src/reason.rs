// SPDX-License-Identifier: Apache-2.0
//! The reasons of events and conditions that the control plane writes: words that Kubernetes' users and programs know. Each
//! is written in this file only.
//!
//! Not here: messages, which are made where something is decided. Why a node does not take a pod is in `scheduler`.

/// `reason` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventReason {
    /// A Deployment made a set larger or smaller.
    ScalingReplicaSet,
    /// A Deployment could not make a set.
    ReplicaSetCreateError,
    /// A ReplicaSet made a pod.
    SuccessfulCreate,
    /// A ReplicaSet could not make a pod.
    FailedCreate,
    /// A ReplicaSet deleted a pod.
    SuccessfulDelete,
    /// A ReplicaSet could not delete a pod.
    FailedDelete,
    /// A pod has its node.
    Scheduled,
    /// No node takes a pod.
    FailedScheduling,
    /// A Node has come.
    RegisteredNode,
    /// A Node has gone.
    RemovingNode,
    /// A Node is not heard any more.
    NodeNotReady,
    /// A pod has to leave a node for its taint.
    TaintManagerEviction,
    /// No pod range is left for a Node.
    CidrNotAvailable,
    /// An object refers to an owner that cannot own it.
    OwnerRefInvalidNamespace,
}

impl EventReason {
    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ScalingReplicaSet => "ScalingReplicaSet",
            Self::ReplicaSetCreateError => "ReplicaSetCreateError",
            Self::SuccessfulCreate => "SuccessfulCreate",
            Self::FailedCreate => "FailedCreate",
            Self::SuccessfulDelete => "SuccessfulDelete",
            Self::FailedDelete => "FailedDelete",
            Self::Scheduled => "Scheduled",
            Self::FailedScheduling => "FailedScheduling",
            Self::RegisteredNode => "RegisteredNode",
            Self::RemovingNode => "RemovingNode",
            Self::NodeNotReady => "NodeNotReady",
            Self::TaintManagerEviction => "TaintManagerEviction",
            Self::CidrNotAvailable => "CIDRNotAvailable",
            Self::OwnerRefInvalidNamespace => "OwnerRefInvalidNamespace",
        }
    }
}

/// `reason` of a condition in the status of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConditionReason {
    /// A Deployment made its new set.
    NewReplicaSetCreated,
    /// A Deployment took a set that was there.
    FoundNewReplicaSet,
    /// A rollout gets on.
    ReplicaSetUpdated,
    /// A rollout is complete.
    NewReplicaSetAvailable,
    /// A rollout has had its time.
    ProgressDeadlineExceeded,
    /// A rollout waits.
    DeploymentPaused,
    /// It goes on.
    DeploymentResumed,
    /// Enough pods of a Deployment are available.
    MinimumReplicasAvailable,
    /// Too few are.
    MinimumReplicasUnavailable,
    /// A pod of a ReplicaSet could not be made.
    FailedCreate,
    /// A pod of a ReplicaSet could not be deleted.
    FailedDelete,
    /// A node is not heard any more.
    NodeStatusUnknown,
    /// A node was never heard.
    NodeStatusNeverUpdated,
    /// A pod's node is not heard any more.
    NodeNotReady,
    /// A pod had to leave its node for a taint.
    DeletionByTaintManager,
    /// A pod had no node that could end it.
    DeletionByPodGc,
    /// No node takes a pod.
    Unschedulable,
    /// A namespace's resources are known.
    ResourcesDiscovered,
    /// Their versions are known.
    ParsedGroupVersions,
    /// A namespace's content was deleted.
    ContentDeleted,
    /// Some of it could not be.
    ContentDeletionFailed,
    /// Nothing is left in a namespace.
    ContentRemoved,
    /// Something is.
    SomeResourcesRemain,
    /// Nothing in it waits for a finalizer.
    ContentHasNoFinalizers,
    /// Something does.
    SomeFinalizersRemain,
}

impl ConditionReason {
    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewReplicaSetCreated => "NewReplicaSetCreated",
            Self::FoundNewReplicaSet => "FoundNewReplicaSet",
            Self::ReplicaSetUpdated => "ReplicaSetUpdated",
            Self::NewReplicaSetAvailable => "NewReplicaSetAvailable",
            Self::ProgressDeadlineExceeded => "ProgressDeadlineExceeded",
            Self::DeploymentPaused => "DeploymentPaused",
            Self::DeploymentResumed => "DeploymentResumed",
            Self::MinimumReplicasAvailable => "MinimumReplicasAvailable",
            Self::MinimumReplicasUnavailable => "MinimumReplicasUnavailable",
            Self::FailedCreate => "FailedCreate",
            Self::FailedDelete => "FailedDelete",
            Self::NodeStatusUnknown => "NodeStatusUnknown",
            Self::NodeStatusNeverUpdated => "NodeStatusNeverUpdated",
            Self::NodeNotReady => "NodeNotReady",
            Self::DeletionByTaintManager => "DeletionByTaintManager",
            Self::DeletionByPodGc => "DeletionByPodGC",
            Self::Unschedulable => "Unschedulable",
            Self::ResourcesDiscovered => "ResourcesDiscovered",
            Self::ParsedGroupVersions => "ParsedGroupVersions",
            Self::ContentDeleted => "ContentDeleted",
            Self::ContentDeletionFailed => "ContentDeletionFailed",
            Self::ContentRemoved => "ContentRemoved",
            Self::SomeResourcesRemain => "SomeResourcesRemain",
            Self::ContentHasNoFinalizers => "ContentHasNoFinalizers",
            Self::SomeFinalizersRemain => "SomeFinalizersRemain",
        }
    }
}
