// SPDX-License-Identifier: Apache-2.0
//! What becomes of a sandbox whose shim died: nobody reads its logs or waits for its processes any more,
//! so they are ended, and what is not known of them is said.

use std::io;

use knarr_pod::{ContainerPhase, ExitReason, Timestamp};

use crate::process::ProcessId;
use crate::protocol::{ShimConfig, ShimState, Snapshot};
use crate::tree::{Durability, write_file};

/// The exit code of a container whose end nobody saw (kubelet uses the same).
const EXIT_CODE_UNKNOWN: i32 = 137;
/// What is said of it.
pub(super) const SHIM_DIED: &str = "its shim died";

/// Kills what is left and writes down that it is over, so that every later agent says the same. `known` is
/// what `shim` had told: where it could not write, that is more than is in its file.
pub(super) fn settle(
    config: &ShimConfig,
    shim: ProcessId,
    known: Snapshot,
    reason: &str,
) -> io::Result<Snapshot> {
    let path = ShimConfig::state_path(&config.run_dir);
    let written = std::fs::read(&path)
        .and_then(|bytes| serde_json::from_slice::<ShimState>(&bytes).map_err(io::Error::from));
    if matches!(&written, Ok(state) if state.shim != shim) {
        // The pod has another sandbox already, and what runs in its cgroups belongs to that.
        return Ok(ended(known, reason, crate::clock::now()));
    }
    config
        .cgroup
        .signal_kill(&config.pod_cgroup)
        .map_err(io::Error::other)?;
    let mut state = match written {
        Ok(state) => state,
        // It was removed meanwhile, with whatever it had to tell.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(ended(known, reason, crate::clock::now()));
        }
        Err(e) => {
            tracing::warn!(uid = config.spec.uid, error = %e, "reading the end of a sandbox");
            return Ok(ended(known, reason, crate::clock::now()));
        }
    };
    let newest = newer(state.snapshot.clone(), known);
    let last = ended(newest, reason, crate::clock::now());
    if last != state.snapshot {
        state.snapshot = last.clone();
        // What has ended is not to wait for room on a full file system; a later agent finds the same again. Where the
        // directory is gone the sandbox was removed meanwhile, and nobody will look for its end.
        if let Err(e) = write_file(&path, &serde_json::to_vec(&state)?, Durability::Atomic)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(uid = config.spec.uid, error = %e, "writing the end of a sandbox");
        }
    }
    Ok(last)
}

fn newer(one: Snapshot, other: Snapshot) -> Snapshot {
    if other.version > one.version {
        other
    } else {
        one
    }
}

/// The same sandbox when nothing runs in it any more. One that is over stays as it is.
fn ended(mut snapshot: Snapshot, reason: &str, now: Timestamp) -> Snapshot {
    if snapshot.dead.is_some() && !snapshot.containers.iter().any(|c| c.is_live()) {
        return snapshot;
    }
    for container in &mut snapshot.containers {
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
    snapshot.dead = Some(reason.to_owned());
    snapshot.version += 1;
    snapshot
}

#[cfg(test)]
mod tests;
