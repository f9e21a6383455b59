// SPDX-License-Identifier: Apache-2.0
//! Running something on a host: join its cgroups, then its namespaces, then execute. The programs under test are
//! started this way by `up`, and people's commands by `cargo xtask node NODE -- CMD`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, setns};

use super::boot::PID;
use super::cgroup;
use super::state::State;
use crate::process::Process;
use crate::{paths, run};

/// The first descriptor that systemd hands to a socket-activated program (sd_listen_fds(3)).
const FIRST_LISTEN_FD: i32 = 3;

/// What to run and where.
pub struct EnterRequest {
    /// The host's name.
    pub host: String,
    /// Append output to this file, do not wait, and print the process id.
    pub detach: Option<PathBuf>,
    /// A port on the machine's own loopback to hand in.
    pub listen: Option<u16>,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// The namespaces in the order of joining: the mount namespace last, because the others are found through /proc.
const NAMESPACES: [(&str, CloneFlags); 6] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Runs a command on a host with this terminal's input and output, and ends as it ends.
pub fn foreground(host: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    enter(&EnterRequest {
        host: host.to_owned(),
        detach: None,
        listen: None,
        command: command.to_vec(),
    })
}

/// Runs a command on a host from a process that goes on living outside, and returns what it prints.
pub fn output(host: &str, command: &[&str]) -> anyhow::Result<String> {
    run::stdout(
        Command::new("/proc/self/exe")
            .args(["lab-enter", host, "--"])
            .args(command),
    )
}

/// Starts a program on a host that goes on when this call has ended.
pub fn detached(
    host: &str,
    log: &Path,
    listen: Option<u16>,
    command: &[String],
) -> anyhow::Result<Process> {
    let mut enter = Command::new("/proc/self/exe");
    enter.args(["lab-enter", host, "--detach"]).arg(log);
    if let Some(port) = listen {
        enter.args(["--listen", &port.to_string()]);
    }
    let said = run::stdout(enter.arg("--").args(command))?;
    let pid = said
        .trim()
        .strip_prefix(PID)
        .and_then(|pid| pid.parse().ok())
        .with_context(|| format!("no process id in `{said}`"))?;
    Process::of(pid).with_context(|| {
        format!(
            "{} ended at once; see {}",
            command.first().map_or("the program", String::as_str),
            log.display()
        )
    })
}

/// The hidden command behind the functions above. It changes the calling process, which must have one thread.
pub fn enter(request: &EnterRequest) -> anyhow::Result<ExitCode> {
    let EnterRequest {
        host,
        detach,
        listen,
        command,
    } = request;
    let state = State::require()?;
    let Some(init) = state.host(host)?.init.filter(|init| init.alive()) else {
        bail!("{host} is stopped: start it with `cargo xtask node {host} --start-host`");
    };
    // Made before joining: these belong to the machine.
    let listener = listen.map(bind_loopback).transpose()?;
    let log = detach
        .as_ref()
        .map(|log| OpenOptions::new().create(true).append(true).open(log))
        .transpose()?;
    let mut program = prepare(command, listener)?;
    let directory = std::env::current_dir().ok();

    cgroup::join(&state.cgroup, &format!("{host}/{}", cgroup::SYSTEM))?;
    let mut namespaces = Vec::new();
    for (name, kind) in NAMESPACES {
        let path = format!("/proc/{}/ns/{name}", init.pid);
        namespaces.push((
            path.clone(),
            File::open(&path).with_context(|| format!("cannot open {path}"))?,
            kind,
        ));
    }
    for (path, file, kind) in namespaces {
        setns(file, kind).with_context(|| format!("cannot join {path}"))?;
    }
    if let Some(directory) = directory {
        // A host sees the same files apart from a few; where it does not see this folder, `/` is as good.
        let _ = std::env::set_current_dir(directory);
    }
    match log {
        Some(log) => {
            // A session of its own, so that the terminal's end does not end it.
            let _ = nix::unistd::setsid();
            let child = program
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot start {}", command[0]))?;
            println!("{PID}{}", child.id());
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let status = program
                .status()
                .with_context(|| format!("cannot start {} on {host}", command[0]))?;
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
        }
    }
}

fn prepare(command: &[String], listener: Option<TcpListener>) -> anyhow::Result<Command> {
    let (program, args) = command.split_first().context("no command given")?;
    let mut prepared = match &listener {
        None => run::command(program, args),
        Some(_) => {
            let mut prepared = Command::new("/proc/self/exe");
            prepared.args(["lab-listen", "--", program]).args(args);
            prepared
        }
    };
    if let Some(listener) = listener {
        prepared.stdin(Stdio::from(OwnedFd::from(listener)));
    }
    let mut path = OsString::from(paths::up_bin());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    path.push(":/usr/sbin:/sbin");
    prepared.env("PATH", path);
    Ok(prepared)
}

fn bind_loopback(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port))
        .with_context(|| format!("cannot listen on 127.0.0.1:{port}, which the kubeconfig names"))
}

/// Makes standard input descriptor 3 and becomes the program, as a socket-activated one (sd_listen_fds(3)).
pub fn listen(command: &[String]) -> anyhow::Result<()> {
    let (program, args) = command.split_first().context("no command given")?;
    let moved = fcntl(std::io::stdin(), FcntlArg::F_DUPFD(FIRST_LISTEN_FD))
        .context("cannot hand the socket on")?;
    if moved != FIRST_LISTEN_FD {
        bail!("descriptor {FIRST_LISTEN_FD} is taken, so the socket cannot be handed on");
    }
    let error = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "loopback")
        .env("LISTEN_PID", std::process::id().to_string())
        .exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}
