// SPDX-License-Identifier: Apache-2.0
//! The end of a pod with its machine: SIGTERM to the shim stops the containers, and then the shim ends.
//!
//! ```text
//! Serving ──SIGTERM──> Ending: stop signals ──grace──> SIGKILL ──all reaped──> pause killed, shim over
//! ```
//!
//! At a shutdown systemd sends SIGTERM to every process that is left and waits for it. The agent has ended by then, so
//! no other program would stop a container that does not end by SIGTERM alone, such as the first process of a PID namespace
//! without a handler. Not here: the stop of a pod that is deleted (the agent's, by single requests).

use std::time::{Duration, Instant};

use super::Server;

/// The longest grace of a container. systemd waits 90 seconds for all processes of the machine before it kills them
/// (`DefaultTimeoutStopSec`), and the shim has to kill and to reap within that time.
const GRACE_MAX: Duration = Duration::from_secs(30);
/// What a request to start a container is answered with.
pub(super) const REFUSAL: &str = "the pod is being ended, since its shim was sent SIGTERM";

/// The pod is being ended.
#[derive(Debug)]
pub(super) struct Ending {
    since: Instant,
    /// Name and attempt of the containers that SIGKILL was sent to.
    killed: Vec<(String, u32)>,
}

impl Server {
    /// Asks every container to end. One that is only being made is given up. A second SIGTERM changes nothing.
    pub(super) fn begin_to_end(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let now = Instant::now();
        for container in &mut self.containers {
            match &mut container.making {
                Some(making) => making.deadline = now,
                // One that cannot be signalled is killed after its grace.
                None => drop(container.signal(container.shutdown.signal)),
            }
        }
        self.ending = Some(Ending {
            since: now,
            killed: Vec::new(),
        });
    }

    /// How long until the grace of a container is over.
    pub(super) fn next_kill(&self, now: Instant) -> Option<Duration> {
        let ending = self.ending.as_ref()?;
        let live = self.containers.iter().filter(|c| c.state.is_live());
        let waiting = live.filter(|c| !ending.has_killed(&c.state.name, c.state.attempt));
        waiting
            .map(|c| ending.deadline(c.shutdown.grace_seconds))
            .map(|deadline| deadline.saturating_duration_since(now))
            .min()
    }

    /// Kills the containers whose grace is over.
    pub(super) fn kill_stubborn(&mut self) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        let now = Instant::now();
        for container in self.containers.iter().filter(|c| c.state.is_live()) {
            let (name, attempt) = (&container.state.name, container.state.attempt);
            let is_due = ending.deadline(container.shutdown.grace_seconds) <= now;
            if !is_due || ending.has_killed(name, attempt) {
                continue;
            }
            ending.killed.push((name.clone(), attempt));
            // An error changes nothing: systemd kills what is left.
            let _ = container.signal(libc::SIGKILL);
            let _ = self.config.cgroup.signal_kill(&container.cgroup);
        }
    }

    /// Whether the pod has nothing but its pause process any more, after SIGTERM.
    pub(super) fn has_ended(&self) -> bool {
        let is_live = |c: &super::Container| c.making.is_some() || c.state.is_live();
        self.ending.is_some() && self.dying.is_empty() && !self.containers.iter().any(is_live)
    }
}

impl Ending {
    fn has_killed(&self, name: &str, attempt: u32) -> bool {
        let mut killed = self.killed.iter();
        killed.any(|(known, number)| known == name && *number == attempt)
    }

    fn deadline(&self, grace_seconds: u32) -> Instant {
        let grace = Duration::from_secs(grace_seconds.into());
        self.since + grace.min(GRACE_MAX)
    }
}
