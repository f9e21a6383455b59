// SPDX-License-Identifier: Apache-2.0
//! Starts the pause process: new namespaces, host name, loopback, sysctls, then the tiny program.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use knarr_pod::{IpcMode, NetworkMode, PidMode};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use crate::cgroup::PAUSE;
use crate::process::ProcessId;
use crate::program::SealedProgram;
use crate::protocol::ShimConfig;
use crate::sys::{self, Forked};

/// nobody: pause needs no privilege.
const PAUSE_ID: u32 = 65_535;
/// Size of a pod's /dev/shm (containerd's default).
const SHM_OPTIONS: &str = "mode=1777,size=67108864";

/// Starts it and returns when the program runs.
pub(super) fn spawn(config: &ShimConfig) -> io::Result<ProcessId> {
    write_etc(config)?;
    mount_shm(config)?;
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // With a PID namespace of its own, the process that unshares cannot be the one that becomes pause:
    // its child is, as the namespace's first process. The child is reparented to the shim.
    let new_pid = config.spec.pid == PidMode::Pod;
    let child = match sys::fork()? {
        Forked::Parent(pid) => pid,
        Forked::Child => become_pause(config, &write, new_pid),
    };
    drop(write);
    let mut words = Vec::new();
    File::from(read).read_to_end(&mut words)?;
    let text = String::from_utf8_lossy(&words).into_owned();
    let pid = match text.strip_prefix("pid ") {
        Some(rest) => {
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None)?;
            let (pid, error) = rest.split_once('\n').unwrap_or((rest, ""));
            if !error.is_empty() {
                return Err(io::Error::other(error.to_owned()));
            }
            pid.parse().map_err(io::Error::other)?
        }
        None if text.is_empty() => child,
        None => {
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None)?;
            return Err(io::Error::other(text));
        }
    };
    ProcessId::observe(pid)
}

fn become_pause(config: &ShimConfig, errors: &OwnedFd, new_pid: bool) -> ! {
    let outcome = std::panic::catch_unwind(|| -> io::Result<()> {
        prepare(config, new_pid)?;
        if new_pid {
            // The inner child waits until it is in its cgroup: only out here its id means something.
            let (wait, go) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            match sys::fork()? {
                Forked::Parent(pid) => {
                    drop(wait);
                    let placed = join(config, pid);
                    write_all(errors, format!("pid {pid}\n").as_bytes())?;
                    placed?;
                    write_all(&go, b"!")?;
                    sys::exit_now(0)
                }
                Forked::Child => {
                    drop(go);
                    File::from(wait).read_exact(&mut [0])?;
                }
            }
        } else {
            join(
                config,
                i32::try_from(std::process::id()).map_err(io::Error::other)?,
            )?;
        }
        execute(&config.pause_root, errors)
    });
    let message = match outcome {
        Ok(Ok(())) => "the pause program could not be executed".to_owned(),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "panicked".to_owned(),
    };
    let _ = write_all(errors, message.as_bytes());
    sys::exit_now(1)
}

fn prepare(config: &ShimConfig, new_pid: bool) -> io::Result<()> {
    let spec = &config.spec;
    let mut flags = CloneFlags::CLONE_NEWNS;
    if spec.network == NetworkMode::Pod {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if spec.ipc == IpcMode::Pod {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    if new_pid {
        flags |= CloneFlags::CLONE_NEWPID;
    }
    unshare(flags)?;
    if spec.network == NetworkMode::Pod {
        nix::unistd::sethostname(&spec.hostname)?;
        sys::set_loopback_up()?;
    }
    for (name, value) in &spec.sysctls {
        set_sysctl(name, value)
            .map_err(|e| io::Error::other(format!("setting sysctl {name} to {value:?}: {e}")))?;
    }
    Ok(())
}

/// Only names of the pod's own namespaces reach here: the agent checks; the prefix is checked again.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let namespaced = [
        "net.",
        "kernel.shm",
        "kernel.msg",
        "kernel.sem",
        "fs.mqueue.",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix));
    // A slash stands for a dot in a part of the name (sysctl.d(5)), e.g. of a link.
    let file: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    if !namespaced || file.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(io::Error::other("it is not a namespaced sysctl"));
    }
    std::fs::write(Path::new("/proc/sys").join(file), value.as_bytes())
}

fn join(config: &ShimConfig, pid: i32) -> io::Result<()> {
    let cgroup = config.pod_cgroup.child(PAUSE).map_err(io::Error::other)?;
    config
        .cgroup
        .join_unified(&cgroup, pid)
        .map_err(|e| io::Error::other(knarr_base::chain(&e)))
}

/// Leaves everything behind and executes the program in a root that holds nothing.
fn execute(root: &Path, errors: &OwnedFd) -> io::Result<()> {
    let program = SealedProgram::new("pause", super::PAUSE_PROGRAM)?;
    nix::unistd::chdir(root)?;
    nix::unistd::chroot(".")?;
    nix::unistd::setgroups(&[])?;
    let (gid, uid) = (Gid::from_raw(PAUSE_ID), Uid::from_raw(PAUSE_ID));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    sys::reset_signals()?;
    sys::ignore_children()?;
    sys::close_others(&[errors.as_raw_fd(), program.fd().as_raw_fd()])?;
    Err(program.execute(&[c"/pause"]))
}

fn write_all(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    File::from(fd.try_clone()?).write_all(bytes)
}

/// The files of /etc that all containers of the pod share.
fn write_etc(config: &ShimConfig) -> io::Result<()> {
    let dir = config.etc_dir();
    std::fs::create_dir_all(&dir)?;
    let spec = &config.spec;
    let hostname = format!("{}\n", spec.hostname);
    for (name, contents) in [
        ("hosts", &spec.hosts),
        ("hostname", &hostname),
        ("resolv.conf", &spec.resolv_conf),
    ] {
        std::fs::write(dir.join(name), contents)?;
    }
    Ok(())
}

/// In the node's mount namespace, so that each container can bind it.
fn mount_shm(config: &ShimConfig) -> io::Result<()> {
    use nix::mount::{MsFlags, mount};
    if config.spec.ipc == IpcMode::Host {
        return Ok(());
    }
    let dir = config.shm_dir();
    std::fs::create_dir_all(&dir)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), &dir, Some("tmpfs"), flags, Some(SHM_OPTIONS))?;
    Ok(())
}
