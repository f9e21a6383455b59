// SPDX-License-Identifier: Apache-2.0
//! How a host comes to life. `boot` runs in the machine's namespaces, joins the host's cgroups, makes the new
//! namespaces and starts `init` as their PID 1; `init` mounts what a host has of its own, says `ready`, and then
//! only reaps. Both are hidden commands of xtask that `host::start` executes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::cgroup::{self, Version};
use super::{HostKind, UNREACHABLE, state};
use crate::run;

/// What `init` prints when the host is made.
pub const READY: &str = "ready";
/// What `boot` prints before the pid of `init`.
pub const PID: &str = "pid ";

/// Runs in the machine's namespaces and ends as soon as `init` is started.
pub fn boot(host: &str, kind: HostKind, home: &Path) -> anyhow::Result<()> {
    // An `up` that is killed takes a half-made host with it.
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot ask to end with the caller")?;
    let lab = state::lab_cgroup();
    // In this order: a cgroup namespace shows as its root what the process is in when it makes the namespace.
    cgroup::join(&lab, host)?;
    unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot make a cgroup namespace")?;
    cgroup::join(&lab, &format!("{host}/{}", cgroup::SYSTEM))?;
    cgroup::hand_down(&lab, host)?;
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID,
    )
    .context("cannot make the host's namespaces")?;
    let kind_name = clap::ValueEnum::to_possible_value(&kind).context("a host kind has a name")?;
    let child = Command::new("/proc/self/exe")
        .args(["lab-init", host, kind_name.get_name()])
        .arg(home)
        .spawn()
        .context("cannot start the host's first process")?;
    println!("{PID}{}", child.id());
    Ok(())
}

/// PID 1 of a host.
pub fn init(host: &str, kind: HostKind, home: &Path) -> anyhow::Result<()> {
    if std::process::id() != 1 {
        bail!("this is started by `cargo xtask up` and by nothing else");
    }
    mounts(kind, home)?;
    nix::unistd::sethostname(host).context("cannot set the host's name")?;
    loopback_and_routes()?;
    println!("{READY}");
    std::io::stdout().flush()?;
    reap_for_ever(home)
}

fn mounts(kind: HostKind, home: &Path) -> anyhow::Result<()> {
    // Read before /proc and /sys are covered.
    let hierarchies = cgroup::hierarchies()?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot keep mounts private")?;
    fresh("proc", "/proc", none)?;
    fresh("sysfs", "/sys", none)?;
    let unified = hierarchies.iter().any(|hierarchy| {
        hierarchy.version == Version::V2 && hierarchy.mount == Path::new("/sys/fs/cgroup")
    });
    if !unified {
        fresh("tmpfs", "/sys/fs/cgroup", Some("mode=755"))?;
    }
    for hierarchy in &hierarchies {
        let at = hierarchy
            .mount
            .to_str()
            .context("a cgroup mount has a name that is text")?;
        fs::create_dir_all(at).with_context(|| format!("cannot make {at}"))?;
        match &hierarchy.version {
            Version::V2 => fresh("cgroup2", at, none)?,
            Version::V1(options) => fresh("cgroup", at, Some(options))?,
        }
    }
    fresh("bpf", "/sys/fs/bpf", none)?;
    fresh("tmpfs", "/dev/shm", Some("mode=1777"))?;
    fresh("tmpfs", "/run", Some("mode=755"))?;
    fs::create_dir_all("/run/knarr")?;
    if let Some(at) = kind.data_mount() {
        // The machine's own /var/lib gets no new folder for this.
        let tmpfs = Some("tmpfs");
        mount(tmpfs, "/var/lib", tmpfs, MsFlags::empty(), Some("mode=755"))
            .context("cannot mount a tmpfs at /var/lib")?;
        fs::create_dir_all(at)?;
        let data = data_dir(home);
        mount(Some(&data), at, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot show {} at {at}", data.display()))?;
    }
    Ok(())
}

/// The part of a host's files that it sees itself.
pub fn data_dir(home: &Path) -> PathBuf {
    home.join("data")
}

/// With the options that systemd gives these places on a stock machine (v252, `mount_table` of mount-setup.c; Debian adds
/// `noexec` to /run): what does not work there must not work here.
fn fresh(kind: &str, at: &str, data: Option<&str>) -> anyhow::Result<()> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if at != "/dev/shm" {
        flags |= MsFlags::MS_NOEXEC;
    }
    mount(Some(kind), at, Some(kind), flags, data)
        .with_context(|| format!("cannot mount {kind} at {at}"))
}

fn loopback_and_routes() -> anyhow::Result<()> {
    run::quiet(&mut run::command("ip", ["link", "set", "lo", "up"]))?;
    for range in UNREACHABLE {
        let family = if range.contains(':') { "-6" } else { "-4" };
        run::quiet(&mut run::command(
            "ip",
            [family, "route", "add", "unreachable", range],
        ))?;
    }
    Ok(())
}

/// Takes every child that ends; processes whose parents have gone end up here.
fn reap_for_ever(home: &Path) -> anyhow::Result<()> {
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    // The process that started the host may wait for the end of what it captures; this process must not hold it open.
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(home.join("host.log"))?;
    nix::unistd::dup2_stderr(&log)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        signals.wait()?;
    }
}
