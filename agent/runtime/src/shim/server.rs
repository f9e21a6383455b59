// SPDX-License-Identifier: Apache-2.0
//! The shim's loop: one thread, one poll(2), everything it waits for in it.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::WaitOptions;

use super::client::Client;
use super::container::{Container, Ended};
use crate::cgroup::PodCgroup;
use crate::process::ProcessId;
use crate::protocol::{Failure, Reply, Request, ShimConfig, Snapshot, StartRequest};

mod ending;
mod saving;

use ending::Ending;
use saving::Saving;

/// Connections at once: the agent has one that watches and one for each request under way.
const CLIENTS_MAX: usize = 64;
/// How soon a cgroup that was still busy is tried again.
const CGROUP_RETRY: Duration = Duration::from_millis(5);
/// After so many tries it is left to the agent, which removes the whole pod's.
const CGROUP_TRIES_MAX: u32 = 400;
/// SIGTERM as signalfd(2) gives it.
const TERMINATE: u32 = Signal::SIGTERM as u32;

/// See the module's comment.
pub(super) struct Server {
    config: ShimConfig,
    listener: UnixListener,
    signals: SignalFd,
    own: ProcessId,
    pause: ProcessId,
    clients: Vec<Client>,
    next_client: u64,
    containers: Vec<Container>,
    /// Cgroups of ended containers that are not gone yet.
    dying: Vec<(PodCgroup, u32)>,
    snapshot: Snapshot,
    /// The containers are not as the snapshot says.
    dirty: bool,
    saving: Saving,
    /// Answers that go out after the state was saved.
    answers: Vec<(u64, Result<(), Failure>)>,
    /// Set once the machine goes down.
    ending: Option<Ending>,
}

impl Server {
    pub fn new(config: ShimConfig, listener: UnixListener, pause: ProcessId) -> io::Result<Server> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        // systemd sends it to every process at shutdown. Stopping the agent's unit does not (`KillMode=process`), and the
        // agent ends a shim with SIGKILL.
        mask.add(Signal::SIGTERM);
        // Those of a terminal are ignored.
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGHUP);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let mut server = Server {
            signals: SignalFd::with_flags(&mask, flags)?,
            own: ProcessId::observe(i32::try_from(std::process::id()).map_err(io::Error::other)?)?,
            config,
            listener,
            pause,
            clients: Vec::new(),
            next_client: 0,
            containers: Vec::new(),
            dying: Vec::new(),
            snapshot: Snapshot::default(),
            dirty: false,
            saving: Saving::Due,
            answers: Vec::new(),
            ending: None,
        };
        server.take_snapshot();
        // A sandbox of which nothing is written cannot be found again.
        server.save()?;
        server.saving = Saving::Saved;
        Ok(server)
    }

    /// Runs until SIGKILL, or until the pod has ended after SIGTERM.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            self.accept();
            self.read_clients();
            for container in &mut self.containers {
                container.pump();
                self.dirty |= container.read_reports();
            }
            // A signal that came before the descriptor was read is seen here too.
            while let Ok(Some(received)) = self.signals.read_signal() {
                if received.ssi_signo == TERMINATE {
                    self.begin_to_end();
                }
            }
            self.reap();
            self.give_up_late();
            self.kill_stubborn();
            self.remove_cgroups();
            self.publish();
            self.clients.retain(|c| !c.is_closed());
            if self.has_ended() {
                // The last process of the pod. An error means that it has ended too.
                let _ = self.pause.signal(libc::SIGKILL);
                return Ok(());
            }
        }
    }

    fn wait(&self) -> io::Result<()> {
        let read = PollFlags::POLLIN;
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), read),
            PollFd::new(self.listener.as_fd(), read),
        ];
        for client in &self.clients {
            let flags = if client.wants_to_write() {
                read | PollFlags::POLLOUT
            } else {
                read
            };
            fds.push(PollFd::new(client.stream.as_fd(), flags));
        }
        for container in &self.containers {
            fds.extend(container.descriptors().map(|fd| PollFd::new(fd, read)));
        }
        let timeout = match self.next_deadline() {
            None => PollTimeout::NONE,
            // Rounded up, or the last millisecond would be spent spinning.
            Some(left) => {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let making = self
            .containers
            .iter()
            .filter_map(|c| c.making.as_ref())
            .map(|m| m.deadline.saturating_duration_since(Instant::now()));
        let retry = (!self.dying.is_empty()).then_some(CGROUP_RETRY);
        let saving = self.saving.wait(Instant::now());
        let stubborn = self.next_kill(Instant::now());
        making.chain(retry).chain(saving).chain(stubborn).min()
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= CLIENTS_MAX {
                continue;
            }
            if let Ok(client) = Client::new(self.next_client, stream) {
                self.next_client += 1;
                self.clients.push(client);
            }
        }
    }

    fn read_clients(&mut self) {
        let mut requests = Vec::new();
        for client in &mut self.clients {
            client.flush();
            for request in client.read() {
                if matches!(request, Request::Watch) {
                    client.watching = true;
                }
                requests.push((client.id, request));
            }
        }
        for (client, request) in requests {
            self.handle(client, request);
        }
    }

    fn handle(&mut self, client: u64, request: Request) {
        let result = match request {
            Request::Watch => Ok(()),
            Request::Start(request) => match self.start(client, &request) {
                Some(result) => result,
                // Answered when it runs.
                None => return,
            },
            Request::Signal {
                name,
                attempt,
                signal,
            } => self.find(&name, attempt).and_then(|c| {
                c.signal(signal)
                    .map_err(|e| Failure::Refused(format!("sending signal {signal}: {e}")))
            }),
            Request::Kill { name, attempt } => self.kill(&name, attempt),
            Request::Remove { name, attempt } => self.remove(&name, attempt),
        };
        self.answers.push((client, result));
    }

    fn find(&mut self, name: &str, attempt: u32) -> Result<&mut Container, Failure> {
        self.containers
            .iter_mut()
            .find(|c| c.is(name, attempt))
            .ok_or(Failure::NotFound)
    }

    fn start(&mut self, client: u64, request: &StartRequest) -> Option<Result<(), Failure>> {
        let spec = &request.spec;
        if let Ok(there) = self.find(&spec.name, spec.attempt) {
            return match &mut there.making {
                Some(making) => {
                    making.waiters.push(client);
                    None
                }
                None => Some(Ok(())),
            };
        }
        if let Some(why) = &self.snapshot.dead {
            return Some(Err(Failure::Refused(why.clone())));
        }
        if self.ending.is_some() {
            return Some(Err(Failure::Refused(ending::REFUSAL.to_owned())));
        }
        let pause = self.pause.pid;
        match Container::start(&self.config, pause, request) {
            Ok(mut container) => {
                if let Some(making) = &mut container.making {
                    making.waiters.push(client);
                }
                self.containers.push(container);
                self.dirty = true;
                None
            }
            Err(e) => Some(Err(Failure::Start {
                reason: "CreateContainerError".to_owned(),
                message: e.to_string(),
            })),
        }
    }

    fn kill(&mut self, name: &str, attempt: u32) -> Result<(), Failure> {
        let container = self.find(name, attempt)?;
        if !container.state.is_live() {
            return Ok(());
        }
        let cgroup = container.cgroup.clone();
        let refused =
            |e: &(dyn std::error::Error + 'static)| Failure::Refused(knarr_base::chain(e));
        container.signal(libc::SIGKILL).map_err(|e| refused(&e))?;
        self.config
            .cgroup
            .signal_kill(&cgroup)
            .map_err(|e| refused(&e))
    }

    fn remove(&mut self, name: &str, attempt: u32) -> Result<(), Failure> {
        if self.find(name, attempt)?.state.is_live() {
            return Err(Failure::Refused(format!(
                "container {name} (attempt {attempt}) is running"
            )));
        }
        let bundle = self.config.bundle_dir(name, attempt);
        crate::tree::remove_tree(&bundle)
            .map_err(|e| Failure::Refused(format!("removing {bundle:?}: {e}")))?;
        // Last, because what is in the list is removed again and what is not is not looked for.
        self.containers.retain(|c| !c.is(name, attempt));
        self.dirty = true;
        Ok(())
    }

    /// Waits for every child that has ended: containers, the children that make them, and what the pod's
    /// processes left to us.
    fn reap(&mut self) {
        loop {
            // nix knows no real-time signals, and would lose a process that one of them ended.
            let (pid, status) = match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(reaped)) => reaped,
                Err(rustix::io::Errno::INTR) => continue,
                Ok(None) | Err(_) => return,
            };
            let ended = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, Some(signal)) => Ended::Signaled(signal),
                (None, None) => continue,
            };
            self.reaped(pid.as_raw_nonzero().get(), ended);
        }
    }

    fn reaped(&mut self, pid: i32, ended: Ended) {
        if pid == self.pause.pid {
            self.snapshot.dead = Some(format!("the pause process ended: {ended:?}"));
            self.dirty = true;
            return;
        }
        let config = &self.config;
        for container in &mut self.containers {
            if container.making.as_ref().is_some_and(|m| m.pid == pid) {
                let (waiters, answer) = container.made(config, ended);
                self.answers
                    .extend(waiters.into_iter().map(|w| (w, answer.clone())));
                if self.ending.is_some() && container.state.is_live() {
                    // The others were asked to end when it was still being made.
                    let _ = container.signal(container.shutdown.signal);
                }
            } else if container.is_process(pid) {
                container.ended(config, ended);
            } else {
                continue;
            }
            if !container.state.is_live() {
                self.dying.push((container.cgroup.clone(), 0));
            }
            self.dirty = true;
            return;
        }
    }

    fn give_up_late(&mut self) {
        let now = Instant::now();
        for container in &mut self.containers {
            if let Some(making) = &container.making
                && making.deadline <= now
            {
                let _ = nix::sys::signal::kill(Pid::from_raw(making.pid), Signal::SIGKILL);
                let _ = self.config.cgroup.signal_kill(&container.cgroup);
            }
        }
    }

    fn remove_cgroups(&mut self) {
        let layout = &self.config.cgroup;
        self.dying.retain_mut(|(cgroup, tries)| {
            *tries += 1;
            // An error is left to the agent as well: it knows how to tell.
            matches!(layout.remove(cgroup), Ok(false)) && *tries < CGROUP_TRIES_MAX
        });
    }

    /// Saves what changed, then tells. What cannot be saved is told all the same: the agent has to know what
    /// runs and what is over, also where the file system of the run directory is full.
    fn publish(&mut self) {
        let changed = std::mem::take(&mut self.dirty);
        if changed {
            self.take_snapshot();
            self.saving = Saving::Due;
        }
        let now = Instant::now();
        if self.saving.is_due(now) {
            let saved = self.save();
            if let (Err(e), Saving::Due) = (&saved, self.saving) {
                // Into shim.log, which may be on the same full file system: no `eprintln`, it would panic.
                let text = "the state cannot be written and is written again later";
                let _ = writeln!(io::stderr(), "{text}: {e}");
            }
            self.saving = Saving::after(&saved, now);
        }
        let answers = std::mem::take(&mut self.answers);
        for (id, result) in answers {
            let reply = Reply {
                result,
                snapshot: self.snapshot.clone(),
            };
            if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
                client.send(&reply);
            }
        }
        if changed {
            let reply = Reply {
                result: Ok(()),
                snapshot: self.snapshot.clone(),
            };
            for client in self.clients.iter_mut().filter(|c| c.watching) {
                client.send(&reply);
            }
        }
    }

    fn take_snapshot(&mut self) {
        self.snapshot.version += 1;
        self.snapshot.containers = self.containers.iter().map(|c| c.state.clone()).collect();
    }

    fn save(&self) -> io::Result<()> {
        super::save(&self.config.run_dir, self.pause, self.own, &self.snapshot)
    }
}
