// SPDX-License-Identifier: Apache-2.0
//! The conditions of this node's Node object, and the events about their changes.
//!
//! Not here: measuring and the object itself (the agent's `node`), what the scheduler makes of conditions.

/// kubelet's memory.available hard eviction threshold, in bytes.
const MEMORY_AVAILABLE_MIN: i64 = 100 << 20;
/// kubelet's nodefs.available hard eviction threshold, in percent.
const DISK_AVAILABLE_MIN_PERCENT: u64 = 10;
/// kubelet's nodefs.inodesFree hard eviction threshold, in percent.
const INODES_FREE_MIN_PERCENT: u64 = 5;
/// Process numbers that must be free, in percent.
const PIDS_FREE_MIN_PERCENT: u64 = 5;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Memory that programs can still get, in bytes.
    pub memory_available: i64,
    /// Free space of the data directory in percent.
    pub disk_free_percent: u64,
    /// Free inodes of the data directory in percent.
    pub inodes_free_percent: u64,
    /// Free process numbers in percent.
    pub pids_free_percent: u64,
}

/// Whether pods can have a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatapathState {
    /// Not yet.
    #[default]
    Down,
    /// They can.
    Up,
}

/// Whether the scheduler puts new pods on this node: `spec.unschedulable` of its Node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// It does.
    #[default]
    Schedulable,
    /// It does not.
    Unschedulable,
}

/// `type` of a condition of the Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// Little memory is left.
    MemoryPressure,
    /// Little space, or few inodes, are left on the disk.
    DiskPressure,
    /// Few process numbers are left.
    PidPressure,
    /// Pods can run.
    Ready,
}

impl ConditionKind {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionKind::MemoryPressure => "MemoryPressure",
            ConditionKind::DiskPressure => "DiskPressure",
            ConditionKind::PidPressure => "PIDPressure",
            ConditionKind::Ready => "Ready",
        }
    }
}

/// `reason` of a condition of the Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionReason {
    /// Memory is short.
    KubeletHasInsufficientMemory,
    /// There is enough memory.
    KubeletHasSufficientMemory,
    /// The disk is nearly full.
    KubeletHasDiskPressure,
    /// The disk has room.
    KubeletHasNoDiskPressure,
    /// Process numbers are short.
    KubeletHasInsufficientPid,
    /// There are enough process numbers.
    KubeletHasSufficientPid,
    /// The node takes pods.
    KubeletReady,
    /// The node takes no pods.
    KubeletNotReady,
}

impl ConditionReason {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            ConditionReason::KubeletHasInsufficientMemory => "KubeletHasInsufficientMemory",
            ConditionReason::KubeletHasSufficientMemory => "KubeletHasSufficientMemory",
            ConditionReason::KubeletHasDiskPressure => "KubeletHasDiskPressure",
            ConditionReason::KubeletHasNoDiskPressure => "KubeletHasNoDiskPressure",
            ConditionReason::KubeletHasInsufficientPid => "KubeletHasInsufficientPID",
            ConditionReason::KubeletHasSufficientPid => "KubeletHasSufficientPID",
            ConditionReason::KubeletReady => "KubeletReady",
            ConditionReason::KubeletNotReady => "KubeletNotReady",
        }
    }

    /// For people.
    fn message(self) -> &'static str {
        match self {
            ConditionReason::KubeletHasInsufficientMemory => {
                "kubelet has insufficient memory available"
            }
            ConditionReason::KubeletHasSufficientMemory => {
                "kubelet has sufficient memory available"
            }
            ConditionReason::KubeletHasDiskPressure => "kubelet has disk pressure",
            ConditionReason::KubeletHasNoDiskPressure => "kubelet has no disk pressure",
            ConditionReason::KubeletHasInsufficientPid => "kubelet has insufficient PID available",
            ConditionReason::KubeletHasSufficientPid => "kubelet has sufficient PID available",
            ConditionReason::KubeletReady => "kubelet is posting ready status",
            ConditionReason::KubeletNotReady => {
                "container runtime network not ready: the eBPF programs are not attached yet"
            }
        }
    }
}

/// A change of the Node that is worth an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// Little memory is left.
    InsufficientMemory,
    /// Enough is.
    SufficientMemory,
    /// The disk is nearly full.
    DiskPressure,
    /// It is not.
    NoDiskPressure,
    /// Few process numbers are left.
    InsufficientPid,
    /// Enough are.
    SufficientPid,
    /// Pods can run.
    Ready,
    /// They cannot.
    NotReady,
    /// The node gets new pods.
    Schedulable,
    /// It gets none.
    NotSchedulable,
}

impl NodeEvent {
    /// As the event's reason has it.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeEvent::InsufficientMemory => "NodeHasInsufficientMemory",
            NodeEvent::SufficientMemory => "NodeHasSufficientMemory",
            NodeEvent::DiskPressure => "NodeHasDiskPressure",
            NodeEvent::NoDiskPressure => "NodeHasNoDiskPressure",
            NodeEvent::InsufficientPid => "NodeHasInsufficientPID",
            NodeEvent::SufficientPid => "NodeHasSufficientPID",
            NodeEvent::Ready => "NodeReady",
            NodeEvent::NotReady => "NodeNotReady",
            NodeEvent::Schedulable => "NodeSchedulable",
            NodeEvent::NotSchedulable => "NodeNotSchedulable",
        }
    }
}

/// A condition as measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which one.
    pub kind: ConditionKind,
    /// Whether it is true.
    pub holds: bool,
    /// For programs.
    pub reason: ConditionReason,
    /// For people.
    pub message: &'static str,
}

/// The conditions of the Node.
pub fn conditions(pressure: &Pressure, datapath: DatapathState) -> [Condition; 4] {
    let memory = pressure.memory_available < MEMORY_AVAILABLE_MIN;
    let disk = pressure.disk_free_percent < DISK_AVAILABLE_MIN_PERCENT
        || pressure.inodes_free_percent < INODES_FREE_MIN_PERCENT;
    let pids = pressure.pids_free_percent < PIDS_FREE_MIN_PERCENT;
    let ready = datapath == DatapathState::Up;
    let pick = |kind, holds, yes: ConditionReason, no: ConditionReason| {
        let reason = if holds { yes } else { no };
        Condition {
            kind,
            holds,
            reason,
            message: reason.message(),
        }
    };
    [
        pick(
            ConditionKind::MemoryPressure,
            memory,
            ConditionReason::KubeletHasInsufficientMemory,
            ConditionReason::KubeletHasSufficientMemory,
        ),
        pick(
            ConditionKind::DiskPressure,
            disk,
            ConditionReason::KubeletHasDiskPressure,
            ConditionReason::KubeletHasNoDiskPressure,
        ),
        pick(
            ConditionKind::PidPressure,
            pids,
            ConditionReason::KubeletHasInsufficientPid,
            ConditionReason::KubeletHasSufficientPid,
        ),
        pick(
            ConditionKind::Ready,
            ready,
            ConditionReason::KubeletReady,
            ConditionReason::KubeletNotReady,
        ),
    ]
}

/// The event about a condition that held `before`, or had not been looked at. As kubelet (v1.37): events tell of memory, disk
/// and process numbers at the start, and of readiness when it changes.
pub fn change(condition: &Condition, before: Option<bool>) -> Option<NodeEvent> {
    let has_event = match before {
        Some(before) => before != condition.holds,
        None => condition.kind != ConditionKind::Ready,
    };
    let event = match (condition.kind, condition.holds) {
        (ConditionKind::MemoryPressure, true) => NodeEvent::InsufficientMemory,
        (ConditionKind::MemoryPressure, false) => NodeEvent::SufficientMemory,
        (ConditionKind::DiskPressure, true) => NodeEvent::DiskPressure,
        (ConditionKind::DiskPressure, false) => NodeEvent::NoDiskPressure,
        (ConditionKind::PidPressure, true) => NodeEvent::InsufficientPid,
        (ConditionKind::PidPressure, false) => NodeEvent::SufficientPid,
        (ConditionKind::Ready, true) => NodeEvent::Ready,
        (ConditionKind::Ready, false) => NodeEvent::NotReady,
    };
    has_event.then_some(event)
}

/// The event about a changed `spec.unschedulable`.
pub fn scheduling_change(before: Scheduling, now: Scheduling) -> Option<NodeEvent> {
    let event = match now {
        Scheduling::Schedulable => NodeEvent::Schedulable,
        Scheduling::Unschedulable => NodeEvent::NotSchedulable,
    };
    (before != now).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Pressure = Pressure {
        memory_available: 1 << 30,
        disk_free_percent: 50,
        inodes_free_percent: 50,
        pids_free_percent: 50,
    };

    #[test]
    fn conditions_are_told_at_the_start_and_when_they_change() {
        let told = |datapath, before: Option<bool>| -> Vec<_> {
            let all = conditions(&FINE, datapath);
            all.iter()
                .filter_map(|c| change(c, before))
                .map(NodeEvent::as_str)
                .collect()
        };
        let fine = [
            "NodeHasSufficientMemory",
            "NodeHasNoDiskPressure",
            "NodeHasSufficientPID",
        ];
        assert_eq!(told(DatapathState::Down, None), fine);
        assert_eq!(told(DatapathState::Down, Some(false)), [""; 0]);
        assert_eq!(told(DatapathState::Up, Some(false)), ["NodeReady"]);
        let [memory, ..] = conditions(
            &Pressure {
                memory_available: 0,
                ..FINE
            },
            DatapathState::Up,
        );
        assert_eq!(
            change(&memory, Some(false)),
            Some(NodeEvent::InsufficientMemory)
        );
        assert_eq!(change(&memory, Some(true)), None);
    }

    #[test]
    fn scheduling_has_event_when_it_changes() {
        use Scheduling::{Schedulable, Unschedulable};
        let told = [
            (Schedulable, Schedulable),
            (Schedulable, Unschedulable),
            (Unschedulable, Unschedulable),
            (Unschedulable, Schedulable),
        ]
        .map(|(before, now)| scheduling_change(before, now).map(NodeEvent::as_str));
        let (yes, no) = (Some("NodeSchedulable"), Some("NodeNotSchedulable"));
        assert_eq!(told, [None, no, None, yes]);
    }

    #[test]
    fn pressure_becomes_a_condition_and_never_unready() {
        let holds = |pressure: &Pressure, kind: &str| {
            let all = conditions(pressure, DatapathState::Up);
            all.iter()
                .find(|c| c.kind.as_str() == kind)
                .expect("condition")
                .holds
        };
        assert!(!holds(&FINE, "MemoryPressure"));
        let tight = Pressure {
            memory_available: 1 << 20,
            disk_free_percent: 9,
            inodes_free_percent: 50,
            pids_free_percent: 1,
        };
        for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
            assert!(holds(&tight, kind), "{kind}");
        }
    }

    #[test]
    fn a_node_without_its_datapath_is_not_ready() {
        let all = conditions(&FINE, DatapathState::Down);
        assert!(
            all.iter()
                .any(|c| c.kind == ConditionKind::Ready && !c.holds)
        );
    }
}
