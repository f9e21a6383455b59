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

/// A condition as measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `type` of the condition.
    pub kind: &'static str,
    /// Whether it is true.
    pub holds: bool,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: &'static str,
}

/// The conditions of the Node.
pub fn conditions(pressure: &Pressure, datapath: DatapathState) -> [Condition; 4] {
    let memory = pressure.memory_available < MEMORY_AVAILABLE_MIN;
    let disk = pressure.disk_free_percent < DISK_AVAILABLE_MIN_PERCENT
        || pressure.inodes_free_percent < INODES_FREE_MIN_PERCENT;
    let pids = pressure.pids_free_percent < PIDS_FREE_MIN_PERCENT;
    let pick =
        |kind, holds, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
            let (reason, message) = if holds { yes } else { no };
            Condition {
                kind,
                holds,
                reason,
                message,
            }
        };
    [
        pick(
            "MemoryPressure",
            memory,
            (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available",
            ),
        ),
        pick(
            "DiskPressure",
            disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pick(
            "PIDPressure",
            pids,
            (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available",
            ),
            (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available",
            ),
        ),
        pick(
            "Ready",
            datapath == DatapathState::Up,
            ("KubeletReady", "kubelet is posting ready status"),
            (
                "KubeletNotReady",
                "container runtime network not ready: the eBPF programs are not attached yet",
            ),
        ),
    ]
}

/// The reason of the event about a condition that held `before`, or had not been looked at. As kubelet (v1.37): events tell
/// of memory, disk and process numbers at the start, and of readiness when it changes.
pub fn change(condition: &Condition, before: Option<bool>) -> Option<&'static str> {
    let is_told = match before {
        Some(before) => before != condition.holds,
        None => condition.kind != "Ready",
    };
    let reason = match (condition.kind, condition.holds) {
        ("MemoryPressure", true) => "NodeHasInsufficientMemory",
        ("MemoryPressure", false) => "NodeHasSufficientMemory",
        ("DiskPressure", true) => "NodeHasDiskPressure",
        ("DiskPressure", false) => "NodeHasNoDiskPressure",
        ("PIDPressure", true) => "NodeHasInsufficientPID",
        ("PIDPressure", false) => "NodeHasSufficientPID",
        ("Ready", true) => "NodeReady",
        ("Ready", false) => "NodeNotReady",
        _ => return None,
    };
    is_told.then_some(reason)
}

/// The reason of the event about a changed `spec.unschedulable`.
pub fn scheduling_change(before: Scheduling, now: Scheduling) -> Option<&'static str> {
    let reason = match now {
        Scheduling::Schedulable => "NodeSchedulable",
        Scheduling::Unschedulable => "NodeNotSchedulable",
    };
    (before != now).then_some(reason)
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
            all.iter().filter_map(|c| change(c, before)).collect()
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
            Some("NodeHasInsufficientMemory")
        );
        assert_eq!(change(&memory, Some(true)), None);
    }

    #[test]
    fn scheduling_is_told_when_it_changes() {
        use Scheduling::{Schedulable, Unschedulable};
        let told = [
            (Schedulable, Schedulable),
            (Schedulable, Unschedulable),
            (Unschedulable, Unschedulable),
            (Unschedulable, Schedulable),
        ]
        .map(|(before, now)| scheduling_change(before, now));
        let (yes, no) = (Some("NodeSchedulable"), Some("NodeNotSchedulable"));
        assert_eq!(told, [None, no, None, yes]);
    }

    #[test]
    fn pressure_becomes_a_condition_and_never_unready() {
        let holds = |pressure: &Pressure, kind: &str| {
            let all = conditions(pressure, DatapathState::Up);
            all.iter()
                .find(|c| c.kind == kind)
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
        assert!(all.iter().any(|c| c.kind == "Ready" && !c.holds));
    }
}
