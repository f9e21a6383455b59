// SPDX-License-Identifier: Apache-2.0
//! What is observed of a sandbox and its containers.
//!
//! Recorded by the shim in a file of the run directory before anybody is told; read by the agent.
//! Not here: Kubernetes' ContainerStatus, which the agent derives from these.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970, UTC. Serialises as a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// From the standard library's type; 1970 for everything before it.
    pub fn of(time: SystemTime) -> Timestamp {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// From milliseconds since 1970; 1970 for everything before it.
    pub fn from_millis(ms: i64) -> Timestamp {
        Timestamp(u64::try_from(ms).unwrap_or(0).saturating_mul(1_000_000))
    }

    /// As milliseconds since 1970.
    pub fn millis(self) -> i64 {
        i64::try_from(self.0 / 1_000_000).unwrap_or(i64::MAX)
    }

    /// `2026-01-02T03:04:05.000000006Z`: RFC 3339 with nine digits, as in CRI logs.
    pub fn rfc3339(self) -> String {
        let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0))
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.nanosecond()
        )
    }

    /// Reads RFC 3339 with any number of digits and any offset; `None` before 1970 and for anything else.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        u64::try_from(at.ok()?.unix_timestamp_nanos())
            .ok()
            .map(Timestamp)
    }

    /// As the standard library's type.
    pub fn system_time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.0)
    }
}

/// Why a container ended, in the words of `containerStatuses[].state.terminated.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String")]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Another exit code, or a signal.
    Error,
    /// The kernel killed a process of it for memory.
    OOMKilled,
    /// It was made but its program could not be executed (exit code 128).
    StartError,
    /// It could not be made (exit code 128).
    ContainerCannotRun,
    /// Its shim died; the exit code 137 is assumed.
    ContainerStatusUnknown,
    /// It vanished with its sandbox or at a reboot. Only plans say this.
    Unknown,
}

impl ExitReason {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            ExitReason::Completed => "Completed",
            ExitReason::Error => "Error",
            ExitReason::OOMKilled => "OOMKilled",
            ExitReason::StartError => "StartError",
            ExitReason::ContainerCannotRun => "ContainerCannotRun",
            ExitReason::ContainerStatusUnknown => "ContainerStatusUnknown",
            ExitReason::Unknown => "Unknown",
        }
    }

    /// Reads what [`ExitReason::as_str`] writes.
    pub fn parse(text: &str) -> Option<ExitReason> {
        let all = [
            ExitReason::Completed,
            ExitReason::Error,
            ExitReason::OOMKilled,
            ExitReason::StartError,
            ExitReason::ContainerCannotRun,
            ExitReason::ContainerStatusUnknown,
            ExitReason::Unknown,
        ];
        all.into_iter().find(|reason| reason.as_str() == text)
    }

    /// The process never ran: its program could not be started.
    pub fn never_ran(self) -> bool {
        matches!(
            self,
            ExitReason::StartError | ExitReason::ContainerCannotRun
        )
    }
}

/// A word of another version counts as [`ExitReason::Unknown`]: a state or record that cannot be read would cost its pod
/// everything else that stands there.
impl From<String> for ExitReason {
    fn from(text: String) -> Self {
        ExitReason::parse(&text).unwrap_or(ExitReason::Unknown)
    }
}

/// Why a container could not be started, in the words of `containerStatuses[].state.waiting.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartReason {
    /// It asks for something that this node cannot give.
    CreateContainerConfigError,
    /// It could not be made.
    CreateContainerError,
    /// It was made, and its program could not be executed.
    RunContainerError,
}

impl StartReason {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            StartReason::CreateContainerConfigError => "CreateContainerConfigError",
            StartReason::CreateContainerError => "CreateContainerError",
            StartReason::RunContainerError => "RunContainerError",
        }
    }

    /// What a shim said; a word that this version does not know counts as [`StartReason::CreateContainerError`].
    pub fn of(text: &str) -> StartReason {
        match text {
            "RunContainerError" => StartReason::RunContainerError,
            "CreateContainerConfigError" => StartReason::CreateContainerConfigError,
            _ => StartReason::CreateContainerError,
        }
    }
}

/// ```text
/// Created ──> Running ──> Exited
///    └──────────────────────^      (could not be made or executed)
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Being made.
    Created,
    /// Its program runs.
    Running {
        /// When the program was executed.
        started_at: Timestamp,
    },
    /// Over, with every line of its output in the log.
    Exited {
        /// Exit status; 128 + signal where a signal ended it.
        exit_code: i32,
        /// The signal that ended it, otherwise absent.
        signal: Option<i32>,
        /// Why.
        reason: ExitReason,
        /// Words for a person: an error of the runtime, or what it left in its termination message file.
        message: String,
        /// When it ran; the time it was made where it never did.
        started_at: Timestamp,
        /// When it was over.
        finished_at: Timestamp,
    },
}

/// One attempt of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Container name.
    pub name: String,
    /// The restart count.
    pub attempt: u32,
    /// 64 hexadecimal digits, unique. Kubernetes shows it as `knarr://ID`.
    pub id: String,
    /// Reference that was asked for.
    pub image: String,
    /// `sha256:...` of the image's configuration.
    pub image_id: String,
    /// Where it stands.
    pub phase: ContainerPhase,
    /// Process id on the node of its first process while it lives.
    pub pid: Option<i32>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl ContainerState {
    /// Whether its program runs or is about to.
    pub fn is_live(&self) -> bool {
        !matches!(self.phase, ContainerPhase::Exited { .. })
    }
}

/// Whether containers can be started in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// Yes.
    Ready,
    /// Its shim or its pause process died. It has to be destroyed; its containers are over.
    Dead {
        /// What died.
        reason: String,
    },
}

/// Processor and memory use of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupStats {
    /// Processor time in nanoseconds since the cgroup was made.
    pub cpu_ns: u64,
    /// Memory in bytes, page cache included.
    pub memory_bytes: u64,
    /// Memory in bytes without the page cache that can be dropped at once (cAdvisor's working set).
    pub working_set_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}
