// SPDX-License-Identifier: Apache-2.0
//! Processes by id and start time, so that an id that was given to another process is never mistaken.
//!
//! Called by the agent's side to find a shim again, and by both sides before they signal.

use std::io;

use procfs::ProcError;
use procfs::process::{Process, Stat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::sys;

/// The running kernel's own id.
pub(crate) fn boot_id() -> io::Result<String> {
    procfs::sys::kernel::random::boot_id().map_err(io_error)
}

/// A process that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Process id in the observer's namespace.
    pub pid: i32,
    /// Clock ticks since boot (proc(5), stat, field 22).
    pub start: u64,
}

impl ProcessId {
    /// Nobody: no process has a negative id.
    pub const NONE: ProcessId = ProcessId { pid: -1, start: 0 };

    /// The process that has this id now, dead ones that nobody has waited for included.
    pub fn observe(pid: i32) -> io::Result<ProcessId> {
        Ok(ProcessId {
            pid,
            start: stat(pid)?.starttime,
        })
    }

    /// The process that has this id now, and its parent's id.
    pub fn observe_with_parent(pid: i32) -> io::Result<(ProcessId, i32)> {
        let Stat {
            starttime: start,
            ppid,
            ..
        } = stat(pid)?;
        Ok((ProcessId { pid, start }, ppid))
    }

    /// Whether exactly this process still runs, be it only in another thread than its first.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_ok_and(|s| {
            let ended = matches!(s.state, 'Z' | 'X') && s.num_threads <= 1;
            s.starttime == self.start && !ended
        })
    }

    /// Sends a signal to exactly this process; nothing happens when it is gone.
    pub fn signal(self, signal: i32) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| signal > 0) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        // The descriptor is opened first and the start time read second: if the times agree, the
        // descriptor belongs to the process that was meant.
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if !self.is_alive() {
            return Ok(());
        }
        match sys::pidfd_signal(&fd, signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// `/proc/PID/stat`. The state is that of the first thread alone: `Z` once that has ended, also while others run.
fn stat(pid: i32) -> io::Result<Stat> {
    let process = Process::new(pid).map_err(io_error)?;
    process.stat().map_err(io_error)
}

/// What the standard library would have said.
pub(crate) fn io_error(error: ProcError) -> io::Error {
    match error {
        ProcError::PermissionDenied(_) => io::Error::from_raw_os_error(libc::EACCES),
        ProcError::NotFound(_) => io::Error::from_raw_os_error(libc::ENOENT),
        ProcError::Io(error, _) => error,
        ProcError::Incomplete(_) | ProcError::Other(_) | ProcError::InternalError(_) => {
            io::Error::new(io::ErrorKind::InvalidData, error)
        }
    }
}

#[cfg(test)]
mod tests;
