// SPDX-License-Identifier: Apache-2.0
//! Reasons as Kubernetes writes them into statuses: why a container waits, why a pod failed as a whole.
//!
//! They are in the records on disk as the same words; a word of another version is read as the nearest one here. Why a
//! container ended is `knarr_pod::ExitReason`. Messages beside them are texts for people.

use std::borrow::Cow;

use knarr_pod::StartReason;
use serde::{Deserialize, Serialize};

/// `containerStatuses[].state.waiting.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "&'static str")]
pub enum WaitingReason {
    /// Nothing is wrong: it is not made yet.
    ContainerCreating,
    /// An init container has to end first.
    PodInitializing,
    /// It ended and waits for its next start.
    CrashLoopBackOff,
    /// Its program could not be executed.
    RunContainerError,
    /// It asks for something that this node cannot give.
    CreateContainerConfigError,
    /// It could not be made.
    CreateContainerError,
    /// Its image is not on the node, and no pull can bring it.
    ErrImagePull,
    /// As [`WaitingReason::ErrImagePull`], from the second time on.
    ImagePullBackOff,
    /// Its image is not on the node, and its pull policy is Never.
    ErrImageNeverPull,
    /// The node's image store cannot be read.
    ImageInspectError,
    /// Its image's name cannot be one.
    InvalidImageName,
}

impl WaitingReason {
    const ALL: [WaitingReason; 11] = [
        WaitingReason::ContainerCreating,
        WaitingReason::PodInitializing,
        WaitingReason::CrashLoopBackOff,
        WaitingReason::RunContainerError,
        WaitingReason::CreateContainerConfigError,
        WaitingReason::CreateContainerError,
        WaitingReason::ErrImagePull,
        WaitingReason::ImagePullBackOff,
        WaitingReason::ErrImageNeverPull,
        WaitingReason::ImageInspectError,
        WaitingReason::InvalidImageName,
    ];

    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitingReason::ContainerCreating => "ContainerCreating",
            WaitingReason::PodInitializing => "PodInitializing",
            WaitingReason::CrashLoopBackOff => "CrashLoopBackOff",
            WaitingReason::RunContainerError => "RunContainerError",
            WaitingReason::CreateContainerConfigError => "CreateContainerConfigError",
            WaitingReason::CreateContainerError => "CreateContainerError",
            WaitingReason::ErrImagePull => "ErrImagePull",
            WaitingReason::ImagePullBackOff => "ImagePullBackOff",
            WaitingReason::ErrImageNeverPull => "ErrImageNeverPull",
            WaitingReason::ImageInspectError => "ImageInspectError",
            WaitingReason::InvalidImageName => "InvalidImageName",
        }
    }

    /// The image is missing or cannot be looked at: an import may be all that the container waits for.
    pub fn awaits_image(self) -> bool {
        matches!(
            self,
            WaitingReason::ErrImagePull
                | WaitingReason::ImagePullBackOff
                | WaitingReason::ErrImageNeverPull
                | WaitingReason::ImageInspectError
        )
    }

    /// The reason is about the image.
    pub fn is_about_image(self) -> bool {
        self.awaits_image() || self == WaitingReason::InvalidImageName
    }
}

impl From<String> for WaitingReason {
    fn from(text: String) -> WaitingReason {
        let known = WaitingReason::ALL.into_iter().find(|r| r.as_str() == text);
        known.unwrap_or(WaitingReason::CreateContainerError)
    }
}

impl From<WaitingReason> for &'static str {
    fn from(reason: WaitingReason) -> &'static str {
        reason.as_str()
    }
}

impl From<StartReason> for WaitingReason {
    fn from(reason: StartReason) -> WaitingReason {
        match reason {
            StartReason::CreateContainerConfigError => WaitingReason::CreateContainerConfigError,
            StartReason::CreateContainerError => WaitingReason::CreateContainerError,
            StartReason::RunContainerError => WaitingReason::RunContainerError,
        }
    }
}

/// Why a sandbox could not be made; the reason of the event about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "&'static str")]
pub enum SandboxReason {
    /// Its namespaces, its address or its network.
    FailedCreatePodSandBox,
    /// A volume of the pod.
    FailedMount,
}

impl SandboxReason {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            SandboxReason::FailedCreatePodSandBox => "FailedCreatePodSandBox",
            SandboxReason::FailedMount => "FailedMount",
        }
    }
}

impl From<String> for SandboxReason {
    fn from(text: String) -> SandboxReason {
        match text.as_str() {
            "FailedMount" => SandboxReason::FailedMount,
            _ => SandboxReason::FailedCreatePodSandBox,
        }
    }
}

impl From<SandboxReason> for &'static str {
    fn from(reason: SandboxReason) -> &'static str {
        reason.as_str()
    }
}

/// `status.reason` of a pod that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum FailureReason {
    /// It was active for longer than `activeDeadlineSeconds`.
    DeadlineExceeded,
    /// It outgrew a limit of the disk.
    Evicted,
    /// It selects other nodes.
    NodeAffinity,
    /// The node has not enough of this resource.
    OutOf(String),
    /// It is for another operating system.
    PodOSNotSupported,
    /// It sets a sysctl that the node does not allow.
    SysctlForbidden,
    /// What another version of this program wrote.
    Other(String),
}

impl FailureReason {
    /// As Kubernetes writes it.
    pub fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            FailureReason::DeadlineExceeded => "DeadlineExceeded",
            FailureReason::Evicted => "Evicted",
            FailureReason::NodeAffinity => "NodeAffinity",
            FailureReason::OutOf(resource) => return Cow::Owned(format!("OutOf{resource}")),
            FailureReason::PodOSNotSupported => "PodOSNotSupported",
            FailureReason::SysctlForbidden => "SysctlForbidden",
            FailureReason::Other(text) => text,
        })
    }
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.as_str())
    }
}

/// Why a condition of a pod's status does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionReason {
    /// The pod is over, and succeeded.
    PodCompleted,
    /// The pod is over, and failed.
    PodFailed,
    /// Init containers have not ended.
    ContainersNotInitialized,
    /// Containers are not ready.
    ContainersNotReady,
    /// A readiness gate does not hold.
    ReadinessGatesNotReady,
}

impl ConditionReason {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionReason::PodCompleted => "PodCompleted",
            ConditionReason::PodFailed => "PodFailed",
            ConditionReason::ContainersNotInitialized => "ContainersNotInitialized",
            ConditionReason::ContainersNotReady => "ContainersNotReady",
            ConditionReason::ReadinessGatesNotReady => "ReadinessGatesNotReady",
        }
    }
}

impl From<String> for FailureReason {
    fn from(text: String) -> FailureReason {
        match text.as_str() {
            "DeadlineExceeded" => FailureReason::DeadlineExceeded,
            "Evicted" => FailureReason::Evicted,
            "NodeAffinity" => FailureReason::NodeAffinity,
            "PodOSNotSupported" => FailureReason::PodOSNotSupported,
            "SysctlForbidden" => FailureReason::SysctlForbidden,
            other => match other.strip_prefix("OutOf") {
                Some(resource) => FailureReason::OutOf(resource.to_owned()),
                None => FailureReason::Other(text),
            },
        }
    }
}

impl From<FailureReason> for String {
    fn from(reason: FailureReason) -> String {
        reason.to_string()
    }
}

/// Why a pod failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFailure {
    /// `status.reason`.
    pub reason: FailureReason,
    /// `status.message`.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_written_and_read_as_kubernetes_words() {
        for reason in WaitingReason::ALL {
            let json = serde_json::to_string(&reason).expect("json");
            assert_eq!(json, format!("\"{}\"", reason.as_str()));
            assert_eq!(
                serde_json::from_str::<WaitingReason>(&json).ok(),
                Some(reason)
            );
        }
        for text in ["Evicted", "OutOfcpu", "OutOfhugepages-2Mi", "FromTheFuture"] {
            assert_eq!(FailureReason::from(text.to_owned()).to_string(), text);
        }
        assert_eq!(
            FailureReason::from("OutOfpods".to_owned()),
            FailureReason::OutOf("pods".to_owned())
        );
    }

    #[test]
    fn a_word_of_another_version_does_not_make_a_record_unreadable() {
        let read = |json| serde_json::from_str::<WaitingReason>(json).ok();
        assert_eq!(read("\"Later\""), Some(WaitingReason::CreateContainerError));
        let read = |json| serde_json::from_str::<SandboxReason>(json).ok();
        assert_eq!(
            read("\"Later\""),
            Some(SandboxReason::FailedCreatePodSandBox)
        );
    }
}
