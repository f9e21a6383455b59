// SPDX-License-Identifier: Apache-2.0
//! One container as its shim sees it: the child that makes it, its process, its pipes and its end.
//!
//! ```text
//! Making ──Created──> Making(process) ──Started──> Running ──reaped──> Over
//!    └───────────────────────Failed──────────────────────────────────^
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knarr_pod::{ContainerPhase, ContainerState, ExitReason};
use knarr_pod::{LastWords, PidMode, Shutdown};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::EXIT_CODE_NOT_STARTED;
use super::creator::{self, FailedStep, Report};
use crate::cgroup::PodCgroup;
use crate::logs;
use crate::logs::writer::{LogWriter, Pending, Stream};
use crate::process::ProcessId;
use crate::protocol::{Failure, ShimConfig, StartRequest, decode};
use crate::sys::{self, Forked};

/// A container that is not made by then is given up; a working one takes some 30 ms, on a node that is
/// starting a hundred at once some seconds.
const MAKING_MAX: Duration = Duration::from_secs(120);
/// What is kept of a termination message: its end (core/v1: 4096 bytes).
const TERMINATION_BYTES_MAX: u64 = 4096;
/// What is kept of the log where it stands in for one (core/v1 FallbackToLogsOnError).
const LOG_LINES_MAX: u64 = 80;
/// The same in bytes.
const LOG_BYTES_MAX: usize = 2048;
/// Read from a log pipe at once.
const PIPE_READ_BYTES: usize = 64 << 10;
/// A report holds a process' last words and no more.
const REPORT_BYTES_MAX: usize = 256 << 10;
/// Turns of reading one pipe before others are looked at.
const PIPE_TURNS: usize = 4;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(i32),
    /// By this signal, real-time signals included.
    Signaled(i32),
}

/// See the module's comment.
pub(super) struct Container {
    pub state: ContainerState,
    pub cgroup: PodCgroup,
    pub making: Option<Making>,
    process: Option<ProcessId>,
    log: Option<LogWriter>,
    pipes: Vec<LogPipe>,
    termination_file: Option<PathBuf>,
    /// The log, where its end stands in for last words.
    last_resort: Option<PathBuf>,
    /// The process ended before the child that made it.
    ended_early: Option<Ended>,
    /// How it is stopped when the machine goes down.
    pub shutdown: Shutdown,
}

/// The child that makes it.
pub(super) struct Making {
    pub pid: i32,
    pub pipe: OwnedFd,
    pub deadline: Instant,
    /// Connections that wait for the outcome.
    pub waiters: Vec<u64>,
    buffer: Vec<u8>,
    /// A process was named.
    created: bool,
    outcome: Option<Result<(), (FailedStep, String)>>,
}

/// What a report means at the point where it comes.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Created(ProcessId),
    Started,
    Failed(FailedStep, String),
    /// It cannot come from the child that makes the container.
    Refused(String),
    /// The outcome is known.
    Late,
}

impl Making {
    /// Until it executes the program, the container's process holds the pipe too, inside the image's root. So a report is
    /// taken only where it fits: one process, a descendant of ours in the container's own cgroup, and its start after it.
    fn judge(&mut self, report: Report, cgroup: &PodCgroup) -> Step {
        if self.outcome.is_some() {
            return Step::Late;
        }
        match report {
            Report::Created { .. } if self.created => {
                Step::Refused("the runtime named a second process".to_owned())
            }
            Report::Created { pid } => match self.own_process(pid, cgroup) {
                Ok(process) => {
                    self.created = true;
                    Step::Created(process)
                }
                Err(e) => Step::Refused(format!("process {pid} is not the container's: {e}")),
            },
            Report::Started if self.created => Step::Started,
            Report::Started => {
                Step::Refused("the runtime started a container without a process".to_owned())
            }
            Report::Failed { reason, message } => Step::Failed(reason, message),
        }
    }

    /// The process with this id, if it is the container's first one. It may have ended already: its parent has not waited
    /// for it, or the shim has not.
    fn own_process(&self, pid: i32, cgroup: &PodCgroup) -> io::Result<ProcessId> {
        let (process, parent) = ProcessId::observe_with_parent(pid)?;
        // The child that makes it is its parent, and once that has ended the shim is.
        let shim = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        if parent != self.pid && parent != shim {
            let text = format!("its parent is process {parent}");
            return Err(io::Error::other(text));
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        if !cgroup.holds(&text) {
            return Err(io::Error::other("it is in another cgroup"));
        }
        if ProcessId::observe(pid)? == process {
            Ok(process)
        } else {
            Err(io::Error::other("it has ended"))
        }
    }
}

struct LogPipe {
    fd: OwnedFd,
    stream: Stream,
    pending: Pending,
}

/// Whether a pipe can give more.
enum Drained {
    Waiting,
    Ended,
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

impl Container {
    /// Forks the child that makes it.
    pub fn start(config: &ShimConfig, pause_pid: i32, request: &StartRequest) -> io::Result<Self> {
        let spec = &request.spec;
        let cgroup = config
            .pod_cgroup
            .container(&spec.name, spec.attempt)
            .map_err(io::Error::other)?;
        std::fs::create_dir_all(config.bundle_dir(&spec.name, spec.attempt))?;
        let log_path = config.log_path(&spec.name, spec.attempt);
        let log = LogWriter::open(log_path.clone(), config.log)?;
        // What cannot be removed now is tried again with the next attempt.
        let _ = logs::writer::remove_earlier(&log_path, spec.attempt);
        let (stdout_read, stdout) = pipe()?;
        let (stderr_read, stderr) = pipe()?;
        let (report_read, report) = pipe()?;
        let making = match sys::fork()? {
            Forked::Child => creator::run(creator::Job {
                config,
                request,
                pause_pid,
                stdout,
                stderr,
                report,
            }),
            Forked::Parent(pid) => Making {
                pid,
                pipe: report_read,
                deadline: Instant::now() + MAKING_MAX,
                waiters: Vec::new(),
                buffer: Vec::new(),
                created: false,
                outcome: None,
            },
        };
        let log_pipe = |fd, stream| LogPipe {
            fd,
            stream,
            pending: Pending::default(),
        };
        Ok(Container {
            state: ContainerState {
                name: spec.name.clone(),
                attempt: spec.attempt,
                id: request.id.clone(),
                image: spec.image.clone(),
                image_id: request.image_id.clone(),
                phase: ContainerPhase::Created,
                pid: None,
                created_at: crate::clock::now(),
            },
            cgroup,
            making: Some(making),
            process: None,
            log: Some(log),
            pipes: vec![
                log_pipe(stdout_read, Stream::Stdout),
                log_pipe(stderr_read, Stream::Stderr),
            ],
            termination_file: spec.termination_message_path.is_some().then(|| {
                config
                    .container_dir(&spec.name, spec.attempt)
                    .join("termination-log")
            }),
            last_resort: (spec.last_words == LastWords::FileOrLog)
                .then(|| config.log_path(&spec.name, spec.attempt)),
            ended_early: None,
            shutdown: spec.shutdown,
        })
    }

    /// Whether it is this one.
    pub fn is(&self, name: &str, attempt: u32) -> bool {
        self.state.name == name && self.state.attempt == attempt
    }

    /// Descriptors to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let making = self.making.iter().map(|m| m.pipe.as_fd());
        making.chain(self.pipes.iter().map(|p| p.fd.as_fd()))
    }

    /// Whether this process is its first one.
    pub fn is_process(&self, pid: i32) -> bool {
        self.process.is_some_and(|p| p.pid == pid)
    }

    /// Sends a signal to its first process; nothing happens when there is none.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match self.process {
            Some(process) if self.state.is_live() => process.signal(signal),
            _ => Ok(()),
        }
    }

    /// Moves what the container wrote to its log.
    pub fn pump(&mut self) {
        let log = &mut self.log;
        self.pipes
            .retain_mut(|pipe| !matches!(drain(pipe, log, PIPE_TURNS), Drained::Ended));
    }

    /// Reads what the making child says. True when something changed.
    pub fn read_reports(&mut self) -> bool {
        let Some(making) = &mut self.making else {
            return false;
        };
        let mut chunk = [0; 4096];
        while making.buffer.len() <= REPORT_BYTES_MAX {
            match nix::unistd::read(&making.pipe, &mut chunk) {
                Ok(0) => break,
                Ok(n) => making
                    .buffer
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        let mut changed = false;
        loop {
            let report = match decode::<Report>(&mut making.buffer) {
                Ok(Some(report)) => report,
                Ok(None) if making.buffer.len() <= REPORT_BYTES_MAX => break,
                Ok(None) | Err(_) => {
                    making.buffer.clear();
                    Report::Failed {
                        reason: FailedStep::Create,
                        message: "the runtime's report cannot be read".to_owned(),
                    }
                }
            };
            changed = true;
            match making.judge(report, &self.cgroup) {
                Step::Created(process) => {
                    self.process = Some(process);
                    self.state.pid = Some(process.pid);
                }
                Step::Started => making.outcome = Some(Ok(())),
                Step::Failed(step, message) => {
                    making.outcome = Some(Err((step, message)));
                }
                Step::Refused(message) => {
                    // Our own child, which nobody else waits for: the id is its own.
                    let child = nix::unistd::Pid::from_raw(making.pid);
                    let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
                    making.outcome = Some(Err((FailedStep::Create, message)));
                }
                Step::Late => {}
            }
        }
        if let Some(Ok(())) = making.outcome
            && self.state.phase == ContainerPhase::Created
        {
            self.state.phase = ContainerPhase::Running {
                started_at: crate::clock::now(),
            };
        }
        changed
    }

    /// The making child was reaped: what to answer to those who wait.
    pub fn made(&mut self, config: &ShimConfig, ended: Ended) -> (Vec<u64>, Result<(), Failure>) {
        self.read_reports();
        let Some(making) = self.making.take() else {
            return (Vec::new(), Ok(()));
        };
        let outcome = making.outcome.unwrap_or_else(|| {
            let text = format!("making the container was cut short: {ended:?}");
            Err((FailedStep::Create, text))
        });
        let answer = match outcome {
            Ok(()) => {
                if let Some(ended) = self.ended_early.take() {
                    self.over(config, ended);
                }
                Ok(())
            }
            Err((step, message)) => {
                let (reason, waiting) = match step {
                    FailedStep::Start => (ExitReason::StartError, "RunContainerError"),
                    FailedStep::Create => (ExitReason::ContainerCannotRun, "CreateContainerError"),
                    FailedStep::Config => {
                        (ExitReason::ContainerCannotRun, "CreateContainerConfigError")
                    }
                };
                self.close_log();
                let _ = config.cgroup.signal_kill(&self.cgroup);
                self.finish(EXIT_CODE_NOT_STARTED, None, reason, message.clone());
                Err(Failure::Start {
                    reason: waiting.to_owned(),
                    message,
                })
            }
        };
        (making.waiters, answer)
    }

    /// Its first process was reaped.
    pub fn ended(&mut self, config: &ShimConfig, ended: Ended) {
        match &self.making {
            Some(_) => self.ended_early = Some(ended),
            None if self.state.is_live() => self.over(config, ended),
            None => {}
        }
    }

    fn over(&mut self, config: &ShimConfig, ended: Ended) {
        if config.spec.pid != PidMode::Container {
            // Nobody but the kernel of a PID namespace of its own would end what the program left behind.
            let _ = config.cgroup.signal_kill(&self.cgroup);
        }
        self.close_log();
        let (exit_code, signal) = match ended {
            Ended::Exited(code) => (code, None),
            Ended::Signaled(signal) => (128 + signal, Some(signal)),
        };
        let oom = exit_code != 0 && config.cgroup.oom_kills(&self.cgroup) > 0;
        let reason = match exit_code {
            _ if oom => ExitReason::OOMKilled,
            0 => ExitReason::Completed,
            _ => ExitReason::Error,
        };
        let message = self.last_words(exit_code);
        self.finish(exit_code, signal, reason, message);
    }

    fn finish(&mut self, exit_code: i32, signal: Option<i32>, reason: ExitReason, message: String) {
        let started_at = match self.state.phase {
            ContainerPhase::Running { started_at } => started_at,
            _ => self.state.created_at,
        };
        self.state.pid = None;
        self.process = None;
        self.state.phase = ContainerPhase::Exited {
            exit_code,
            signal,
            reason,
            message,
            started_at,
            finished_at: crate::clock::now(),
        };
    }

    /// Takes what is in the pipes now. Whoever still holds their other end is not part of the container.
    fn close_log(&mut self) {
        for mut pipe in self.pipes.drain(..) {
            drain(&mut pipe, &mut self.log, usize::MAX);
            if let Some(log) = &mut self.log {
                log.end(pipe.stream, &mut pipe.pending);
            }
        }
        self.log = None;
    }

    fn last_words(&self, exit_code: i32) -> String {
        let mut bytes = Vec::new();
        if let Some(path) = &self.termination_file {
            // One that cannot be read says nothing; the exit code is told all the same.
            bytes = read_end(path, TERMINATION_BYTES_MAX).unwrap_or_default();
        }
        if let Some(log) = &self.last_resort
            && exit_code != 0
            && bytes.is_empty()
        {
            // A log that cannot be read says nothing; the exit code is told all the same.
            bytes = logs::end(log, LOG_LINES_MAX, LOG_BYTES_MAX).unwrap_or_default();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The last bytes of a file.
fn read_end(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(bytes_max);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    // Bounded once more: whoever has it open may still write.
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn drain(pipe: &mut LogPipe, log: &mut Option<LogWriter>, turns: usize) -> Drained {
    let mut buffer = [0; PIPE_READ_BYTES];
    for _ in 0..turns {
        match nix::unistd::read(&pipe.fd, &mut buffer) {
            Ok(0) => {
                if let Some(log) = log {
                    log.end(pipe.stream, &mut pipe.pending);
                }
                return Drained::Ended;
            }
            Ok(n) => {
                if let Some(log) = log {
                    let data = buffer.get(..n).unwrap_or_default();
                    log.write(pipe.stream, &mut pipe.pending, data);
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => return Drained::Waiting,
            Err(_) => return Drained::Ended,
        }
    }
    Drained::Waiting
}

#[cfg(test)]
mod tests;
