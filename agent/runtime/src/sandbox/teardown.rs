// SPDX-License-Identifier: Apache-2.0
//! Takes a sandbox away, whole or in pieces: after a crash any part of it may be missing.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::SandboxError;
use crate::cgroup::CgroupLayout;
use crate::process::ProcessId;
use crate::protocol::{ShimConfig, ShimState};
use crate::tree;

/// How long a killed shim may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked at.
const KILL_POLL: Duration = Duration::from_millis(1);

/// Kills the shim and everything in the pod's cgroups, unmounts and removes. Blocking.
pub(crate) fn teardown(
    cgroup: &CgroupLayout,
    run_dir: &Path,
    uid: &str,
    shim: Option<ProcessId>,
) -> Result<(), SandboxError> {
    let failed = super::io("ending the shim in", run_dir);
    let recorded = || {
        let bytes = std::fs::read(ShimConfig::state_path(run_dir)).ok()?;
        let state: ShimState = serde_json::from_slice(&bytes).ok()?;
        Some(state.shim)
    };
    let shims = match shim.or_else(recorded) {
        Some(shim) => vec![shim],
        // It was killed, or killed its starter, before it had written its id down.
        None => shims_in(run_dir),
    };
    // The shim first: it could be making another container. Its child that does so dies with it.
    kill(&shims).map_err(failed)?;
    for pod in cgroup.pods() {
        if pod.uid() == Some(uid) {
            cgroup.kill_and_remove(&pod)?;
        }
    }
    tree::remove_tree(run_dir).map_err(super::io("removing", run_dir))
}

fn kill(shims: &[ProcessId]) -> io::Result<()> {
    let deadline = Instant::now() + KILL_WAIT;
    for shim in shims {
        shim.signal(libc::SIGKILL)?;
        while shim.is_alive() {
            if Instant::now() >= deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            std::thread::sleep(KILL_POLL);
        }
    }
    Ok(())
}

/// Processes whose last argument is this sandbox' directory: its shim, whatever is written about it, and
/// what is about to become one.
pub(crate) fn shims_in(run_dir: &Path) -> Vec<ProcessId> {
    let wanted = [b"\0", run_dir.as_os_str().as_bytes(), b"\0"].concat();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if command.ends_with(&wanted)
            && let Ok(process) = ProcessId::observe(pid)
        {
            found.push(process);
        }
    }
    found
}
