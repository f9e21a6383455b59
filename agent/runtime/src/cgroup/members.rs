// SPDX-License-Identifier: Apache-2.0
//! Processes of cgroups: putting them in, killing them all, removing what is empty.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knarr_pod::CgroupStats;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::make_dirs;
use super::{CgroupError, CgroupLayout, PodCgroup, SHIM, values};

/// How long killed processes may take to be gone. A process in an uninterruptible wait for a broken disk
/// takes longer than any bound; the caller tries again.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked at.
const KILL_POLL: Duration = Duration::from_millis(2);

impl CgroupLayout {
    /// Moves a process into a cgroup of the v2 tree, made where it is missing.
    pub(crate) fn join_unified(&self, cgroup: &PodCgroup, pid: i32) -> Result<(), CgroupError> {
        let dir = self.unified_dir(cgroup);
        make_dirs(&dir)?;
        join(&dir, pid)
    }

    /// Moves the calling process to a shim's cgroup: in the v2 tree, in v1 hierarchies that count what it uses, and in
    /// systemd's own, by which it knows whom to kill with a unit.
    pub(super) fn join_shim_dirs(&self, cgroup: &PodCgroup) -> Result<(), CgroupError> {
        const COUNTING: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "name=systemd"];
        let mut dirs = vec![self.unified_dir(cgroup)];
        dirs.extend(
            COUNTING
                .iter()
                .filter_map(|c| self.controller_dir(c, cgroup)),
        );
        dirs.sort();
        dirs.dedup();
        for dir in dirs {
            make_dirs(&dir)?;
            join(&dir, 0)?;
        }
        Ok(())
    }

    /// Moves the calling process out of what limits the CPU of its pod.
    pub(crate) fn leave_cpu_limits(&self) -> Result<(), CgroupError> {
        let dir = self.outer_shims_dir();
        make_dirs(&dir)?;
        join(&dir, 0)
    }

    /// SIGKILL for everything in a cgroup and below. Does not wait.
    pub(crate) fn signal_kill(&self, cgroup: &PodCgroup) -> Result<(), CgroupError> {
        let dir = self.unified_dir(cgroup);
        match std::fs::write(dir.join("cgroup.kill"), "1") {
            Ok(()) => {}
            // Kernels before 5.14 have no cgroup.kill: whoever is there is killed one by one, frozen so
            // that nobody forks away. A cgroup that is gone has nobody in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let _ = std::fs::write(dir.join("cgroup.freeze"), "1");
                kill_each(&dir);
                let _ = std::fs::write(dir.join("cgroup.freeze"), "0");
            }
            Err(source) => {
                return Err(CgroupError::Io {
                    operation: "killing",
                    path: dir,
                    source,
                });
            }
        }
        // A container that is being made is in v1 hierarchies before it is in the v2 tree.
        for dir in self.legacy_dirs(cgroup) {
            kill_each(&dir);
        }
        Ok(())
    }

    /// SIGKILL for every container of a pod and for pause, and not for the shim, which tells how they ended.
    pub(crate) fn signal_kill_contents(&self, pod: &PodCgroup) -> Result<(), CgroupError> {
        let mut names = Vec::new();
        for dir in [self.unified_dir(pod)]
            .into_iter()
            .chain(self.legacy_dirs(pod))
        {
            let found = children(&dir).into_iter();
            names.extend(found.filter_map(|child| child.file_name()?.to_str().map(str::to_owned)));
        }
        names.sort();
        names.dedup();
        for name in names.iter().filter(|name| *name != SHIM) {
            self.signal_kill(&pod.child(name)?)?;
        }
        Ok(())
    }

    fn members(&self, cgroup: &PodCgroup) -> Vec<i32> {
        let mut pids = processes(&self.unified_dir(cgroup));
        for dir in self.legacy_dirs(cgroup) {
            pids.extend(processes(&dir));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kills everything in a cgroup, waits until it is gone and removes the cgroup everywhere.
    pub(crate) fn kill_and_remove(&self, cgroup: &PodCgroup) -> Result<(), CgroupError> {
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            self.signal_kill(cgroup)?;
            let pids = self.members(cgroup);
            if pids.is_empty() && self.remove(cgroup)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(CgroupError::Busy {
                    path: cgroup.path().to_owned(),
                    pids,
                });
            }
            std::thread::sleep(KILL_POLL);
        }
    }

    /// Removes an empty cgroup and the ones below it. False when the kernel still counts a process in it.
    pub(crate) fn remove(&self, cgroup: &PodCgroup) -> Result<bool, CgroupError> {
        let mut gone = true;
        for dir in [self.unified_dir(cgroup)]
            .into_iter()
            .chain(self.legacy_dirs(cgroup))
        {
            gone &= remove_dirs(&dir).map_err(|source| CgroupError::Io {
                operation: "removing",
                path: dir,
                source,
            })?;
        }
        Ok(gone)
    }

    /// How often the kernel killed a process of a cgroup for memory.
    pub(crate) fn oom_kills(&self, cgroup: &PodCgroup) -> u64 {
        self.controller_dir("memory", cgroup)
            .map_or(0, |dir| values::oom_kills(&dir, self.is_hybrid()))
    }

    /// What a cgroup uses.
    pub(crate) fn stats(&self, cgroup: &PodCgroup) -> CgroupStats {
        values::stats(&self.load(cgroup.path()))
    }

    /// What all pods use.
    pub(crate) fn stats_all(&self) -> CgroupStats {
        values::stats(&self.load_all_pods())
    }

    /// The pods that have a cgroup in any hierarchy.
    pub(crate) fn pods(&self) -> Vec<PodCgroup> {
        let mut found: Vec<PathBuf> = Vec::new();
        for (parent, relative) in self.pod_parents() {
            for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                found.push(relative.join(entry.file_name()));
            }
        }
        found.sort();
        found.dedup();
        found
            .into_iter()
            .filter(|path| {
                path.iter()
                    .next_back()
                    .is_some_and(|n| n.as_encoded_bytes().starts_with(b"pod"))
            })
            .filter_map(|path| PodCgroup::try_from(path).ok())
            .collect()
    }
}

/// Writes to cgroup.procs; 0 means the caller.
fn join(dir: &Path, pid: i32) -> Result<(), CgroupError> {
    std::fs::write(dir.join("cgroup.procs"), pid.to_string()).map_err(|source| CgroupError::Io {
        operation: "adding a process to",
        path: dir.to_owned(),
        source,
    })
}

/// Processes of a directory and the ones below it. One that is gone has none.
fn processes(dir: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for child in children(dir) {
        pids.extend(processes(&child));
    }
    pids
}

fn kill_each(dir: &Path) {
    for pid in processes(dir) {
        // 0 stands for a process outside of our PID namespace; -1 and 0 would signal groups.
        if pid > 1 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// Removes directories bottom up. False: one is busy.
fn remove_dirs(dir: &Path) -> io::Result<bool> {
    let mut gone = true;
    for child in children(dir) {
        gone &= remove_dirs(&child)?;
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(gone),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(gone),
        Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(false),
        Err(e) => Err(e),
    }
}
