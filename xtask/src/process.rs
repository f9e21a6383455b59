// SPDX-License-Identifier: Apache-2.0
//! Processes that outlive one `cargo xtask` call. They are known by pid *and* start time, and both are
//! compared before a signal is sent: a pid alone may belong to another process by now.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How often an end that was asked for is looked for.
const POLL: Duration = Duration::from_millis(10);

/// One process, for as long as it lives and never anybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As seen in the machine's own PID namespace.
    pub pid: i32,
    /// Clock ticks after boot, from `/proc/PID/stat`.
    pub started: u64,
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        start_time(pid).map(|started| Self { pid, started })
    }

    /// Whether any of its threads still runs. A zombie does not.
    pub fn alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Sends a signal to this process and to no other.
    pub fn signal(self, signal: Signal) {
        if self.alive() {
            // It may have ended by itself in between, which is what the signal was for.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Kills it and waits until it is gone. False when it is still there after the limit.
    pub fn kill_and_wait(self, limit: Duration) -> bool {
        self.signal(Signal::SIGKILL);
        self.wait_gone(limit)
    }

    /// Waits until it is gone. False when it is still there after the limit.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }
}

/// None for a process that is gone or only waits to be reaped.
fn start_time(pid: i32) -> Option<u64> {
    start_time_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat` (proc(5)); none where the whole process is a zombie.
///
/// The state is that of the first thread alone. While another one is still held in the kernel, by a disk say, the
/// process keeps its sockets and file locks, and the program that takes over would be refused.
fn start_time_of(stat: &str) -> Option<u64> {
    // The command's name stands in parentheses and may hold anything, so fields are counted after the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if matches!(fields.first(), Some(&("Z" | "X"))) && threads <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests;
