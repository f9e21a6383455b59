// SPDX-License-Identifier: Apache-2.0
//! A machine as the lab's book has it: a QEMU process in a cgroup of its own.
//!
//! Not here: making one and talking to it (`vm`).

use std::time::Duration;

use anyhow::bail;

use super::cgroup;
use crate::process::Process;

/// How long a killed emulator may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// Ends a machine of the lab `lab`. Called with the lab's lock held.
pub fn end_process(lab: &str, name: &str, process: Option<Process>) -> anyhow::Result<()> {
    if let Some(process) = process
        && !process.kill_and_wait(KILL_LIMIT)
    {
        bail!("QEMU of {name} (pid {}) does not end", process.pid);
    }
    cgroup::kill_and_remove(lab, &cgroup_name(name))
}

/// The name of a machine's cgroup in its lab.
pub fn cgroup_name(name: &str) -> String {
    format!("machine-{name}")
}
