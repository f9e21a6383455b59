// SPDX-License-Identifier: Apache-2.0
//! What becomes of a sandbox whose shim died: nobody reads its logs or waits for its processes any more,
//! so they are ended, and what is not known of them is said.

use crate::protocol::{ShimConfig, ShimState, Snapshot};
use crate::state::{ContainerPhase, ExitReason, Timestamp};
use crate::tree::{Durability, write_file};
use std::io;

/// The exit code of a container whose end nobody saw (kubelet uses the same).
const EXIT_CODE_UNKNOWN: i32 = 137;

/// Kills what is left and writes down that it is over, so that every later agent says the same.
pub(super) fn settle(config: &ShimConfig, reason: &str) -> io::Result<Snapshot> {
    config
        .cgroup
        .signal_kill(&config.pod_cgroup)
        .map_err(io::Error::other)?;
    let path = ShimConfig::state_path(&config.run_dir);
    let mut state: ShimState = serde_json::from_slice(&std::fs::read(&path)?)?;
    if state.snapshot.dead.is_some() && !state.snapshot.containers.iter().any(|c| c.is_live()) {
        return Ok(state.snapshot);
    }
    let now = Timestamp::now();
    for container in &mut state.snapshot.containers {
        let started_at = match container.phase {
            ContainerPhase::Exited { .. } => continue,
            ContainerPhase::Created => container.created_at,
            ContainerPhase::Running { started_at } => started_at,
        };
        container.pid = None;
        container.phase = ContainerPhase::Exited {
            exit_code: EXIT_CODE_UNKNOWN,
            signal: None,
            reason: ExitReason::ContainerStatusUnknown,
            message: format!("The container's end was not seen: {reason}"),
            started_at,
            finished_at: now,
        };
    }
    state.snapshot.dead = Some(reason.to_owned());
    state.snapshot.version += 1;
    write_file(&path, &serde_json::to_vec(&state)?, Durability::Atomic)?;
    Ok(state.snapshot)
}
