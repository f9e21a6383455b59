// SPDX-License-Identifier: Apache-2.0
//! Processes by id and start time, so that an id that was given to another process is never mistaken.
//!
//! Called by the agent's side to find a shim again, and by both sides before they signal.

use std::io;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::sys;

/// The running kernel's own id.
pub(crate) fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
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
            start: stat(pid)?.start,
        })
    }

    /// The process that has this id now, and its parent's id.
    pub fn observe_with_parent(pid: i32) -> io::Result<(ProcessId, i32)> {
        let Stat { start, parent, .. } = stat(pid)?;
        Ok((ProcessId { pid, start }, parent))
    }

    /// Whether exactly this process still runs, be it only in another thread than its first.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_ok_and(|s| {
            let ended = matches!(s.state, 'Z' | 'X') && s.threads <= 1;
            s.start == self.start && !ended
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

struct Stat {
    /// Of the first thread alone: `Z` once that has ended, whatever the others do.
    state: char,
    parent: i32,
    threads: u32,
    start: u64,
}

/// State, parent, number of threads and start time. The command's name may hold spaces and parentheses, so the last one counts.
fn stat(pid: i32) -> io::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let invalid = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "/proc/PID/stat is not as expected",
        )
    };
    let after = text.rfind(')').and_then(|at| text.get(at + 1..));
    let mut fields = after.ok_or_else(invalid)?.split_ascii_whitespace();
    let state = fields.next().and_then(|f| f.chars().next());
    // Field 3 is the state and 4 the parent; 20 is the sixteenth after that and 22 the second after that.
    let parent = fields.next().and_then(|f| f.parse().ok());
    let threads = fields.nth(15).and_then(|f| f.parse().ok());
    let start = fields.nth(1).and_then(|f| f.parse().ok());
    match (state, parent, threads, start) {
        (Some(state), Some(parent), Some(threads), Some(start)) => Ok(Stat {
            state,
            parent,
            threads,
            start,
        }),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests;
