// SPDX-License-Identifier: Apache-2.0
//! Which cgroup hierarchies a machine has and where this node's part of them begins.
//!
//! Not here: processes in them (`members`) and limits (`values`).

use std::path::{Path, PathBuf};

use cgroups_rs::fs as library;
use cgroups_rs::fs::{Cgroup, Hierarchy, Subsystem};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{CgroupError, PODS, PodCgroup, SHIMS};

/// Where distributions mount cgroups.
const MOUNT_ROOT: &str = "/sys/fs/cgroup";

/// Where the cgroup trees are and below which cgroup everything of this node goes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CgroupLayout {
    /// Mount point of cgroup v2.
    unified: PathBuf,
    /// v1 hierarchies of a hybrid machine; empty on pure v2.
    legacy: Vec<Legacy>,
    /// The cgroup below which the node's tree is, relative to the mount points; empty: the roots.
    base: PathBuf,
}

/// A mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Legacy {
    /// Controllers, or `name=systemd`.
    controllers: Vec<String>,
    point: PathBuf,
}

impl CgroupLayout {
    /// Looks at what is mounted below /sys/fs/cgroup. `root` is the agent's `--cgroup-root`: a cgroup as
    /// /proc/self/cgroup writes it (`/` or `/machine/knarr`), or a directory of the mounted v2 tree.
    pub fn detect(root: &Path) -> Result<CgroupLayout, CgroupError> {
        let is_unified =
            |path: &Path| statfs(path).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let mount_root = PathBuf::from(MOUNT_ROOT);
        let hybrid = mount_root.join("unified");
        let (unified, legacy) = if is_unified(&mount_root) {
            (mount_root.clone(), Vec::new())
        } else if is_unified(&hybrid) {
            (hybrid, legacy_mounts(&mount_root)?)
        } else {
            return Err(CgroupError::NoUnified(mount_root));
        };
        let base = root
            .strip_prefix(&unified)
            .or_else(|_| root.strip_prefix(&mount_root))
            .or_else(|_| root.strip_prefix("/"))
            .unwrap_or(root)
            .to_owned();
        if !base
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_)))
        {
            return Err(CgroupError::Unsafe(base));
        }
        Ok(CgroupLayout {
            unified,
            legacy,
            base,
        })
    }

    /// The node's part of the cgroup v2 tree: pods are below it, and so is everything that Service
    /// programs attached here see.
    pub fn unified_root(&self) -> PathBuf {
        self.unified.join(&self.base)
    }

    /// Whether controllers are in v1 hierarchies.
    pub(crate) fn is_hybrid(&self) -> bool {
        !self.legacy.is_empty()
    }

    /// Relative to the mount points, as libcontainer wants it.
    pub(crate) fn mount_relative(&self, cgroup: &PodCgroup) -> PathBuf {
        Path::new("/").join(&self.base).join(cgroup.path())
    }

    /// The directory in the v2 tree.
    pub(crate) fn unified_dir(&self, cgroup: &PodCgroup) -> PathBuf {
        self.unified_root().join(cgroup.path())
    }

    /// The directories in v1 hierarchies.
    pub(crate) fn legacy_dirs(&self, cgroup: &PodCgroup) -> Vec<PathBuf> {
        self.legacy_roots()
            .map(|root| root.join(cgroup.path()))
            .collect()
    }

    /// The directories of a hybrid machine, with the names of their hierarchies' mount points.
    pub(crate) fn named_dirs(&self, cgroup: &PodCgroup) -> Vec<(PathBuf, PathBuf)> {
        let points = self.legacy.iter().map(|l| &l.point);
        points
            .chain([&self.unified])
            .filter_map(|point| {
                let name = PathBuf::from(point.file_name()?);
                Some((name, point.join(&self.base).join(cgroup.path())))
            })
            .collect()
    }

    /// Makes the directories that libcontainer does not: those of hierarchies without a controller.
    pub(crate) fn create_named(&self, cgroup: &PodCgroup) -> Result<(), CgroupError> {
        for (_, dir) in self.named_dirs(cgroup) {
            make_dirs(&dir)?;
        }
        Ok(())
    }

    /// The directory where a controller's files of a cgroup are.
    pub(crate) fn controller_dir(&self, controller: &str, cgroup: &PodCgroup) -> Option<PathBuf> {
        if !self.is_hybrid() {
            return Some(self.unified_dir(cgroup));
        }
        let found = self
            .legacy
            .iter()
            .find(|l| l.controllers.iter().any(|c| c == controller))?;
        Some(found.point.join(&self.base).join(cgroup.path()))
    }

    fn legacy_roots(&self) -> impl Iterator<Item = PathBuf> {
        self.legacy.iter().map(|l| l.point.join(&self.base))
    }

    /// Every directory that may hold pods, per hierarchy, and the same relative to the base.
    pub(crate) fn pod_parents(&self) -> Vec<(PathBuf, PathBuf)> {
        let mut found = Vec::new();
        for root in [self.unified_root()].into_iter().chain(self.legacy_roots()) {
            for branch in [PODS, "kubepods/burstable", "kubepods/besteffort"] {
                found.push((root.join(branch), PathBuf::from(branch)));
            }
        }
        found
    }

    /// Makes a cgroup with its parents in every hierarchy.
    pub(crate) fn create(&self, cgroup: &PodCgroup) -> Result<Cgroup, CgroupError> {
        let path = self.base.join(cgroup.path());
        if self.is_hybrid() {
            make_dirs(&self.unified.join(&path))?;
        }
        self.library_create(&path)
    }

    /// A handle to a cgroup that exists.
    pub(crate) fn load(&self, path: &Path) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), self.base.join(path))
    }

    /// The pods' top cgroup.
    pub(crate) fn load_all_pods(&self) -> Cgroup {
        self.load(Path::new(PODS))
    }

    fn library_create(&self, path: &Path) -> Result<Cgroup, CgroupError> {
        Cgroup::new(Box::new(self.clone()), path).map_err(|source| CgroupError::Library {
            operation: "creating",
            path: path.to_owned(),
            source,
        })
    }

    /// Makes the cgroups that outlive pods.
    pub(crate) fn create_roots(&self) -> Result<(), CgroupError> {
        for branch in [PODS, "kubepods/burstable", "kubepods/besteffort"] {
            self.library_create(&self.base.join(branch))?;
        }
        if self.is_hybrid() {
            make_dirs(&self.unified_root().join(PODS).join("burstable"))?;
            make_dirs(&self.unified_root().join(PODS).join("besteffort"))?;
        }
        make_dirs(&self.outer_shims_dir())
    }

    /// The shims' cgroup outside of the pods, in the hierarchy that limits CPU.
    pub(crate) fn outer_shims_dir(&self) -> PathBuf {
        let cpu = self
            .legacy
            .iter()
            .find(|l| l.controllers.iter().any(|c| c == "cpu"));
        let point = cpu.map_or(&self.unified, |l| &l.point);
        point.join(&self.base).join(SHIMS)
    }
}

pub(super) fn make_dirs(path: &Path) -> Result<(), CgroupError> {
    std::fs::create_dir_all(path).map_err(|source| CgroupError::Io {
        operation: "creating",
        path: path.to_owned(),
        source,
    })
}

/// v1 hierarchies mounted below a directory. Read by hand: `procfs` does not keep the order of options.
fn legacy_mounts(mount_root: &Path) -> Result<Vec<Legacy>, CgroupError> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = std::fs::read_to_string(path).map_err(|source| CgroupError::Io {
        operation: "listing mounts of",
        path: path.to_owned(),
        source,
    })?;
    let mut found: Vec<Legacy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        if right.next() != Some("cgroup") {
            continue;
        }
        let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let controllers = right.nth(1).unwrap_or_default();
        let controllers: Vec<String> = controllers
            .split(',')
            .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
            .filter(|option| !option.starts_with("release_agent="))
            .map(str::to_owned)
            .collect();
        // A later mount at the same place hides an earlier one.
        found.retain(|l| l.point != point);
        if point.parent() == Some(mount_root) {
            found.push(Legacy { controllers, point });
        }
    }
    Ok(found)
}

impl Hierarchy for CgroupLayout {
    fn subsystems(&self) -> Vec<Subsystem> {
        let top = PathBuf::from("/");
        if !self.is_hybrid() {
            let root = || self.unified.clone();
            return vec![
                Subsystem::Cpu(library::cpu::CpuController::new(root(), top.clone(), true)),
                Subsystem::Mem(library::memory::MemController::new(
                    root(),
                    top.clone(),
                    true,
                )),
                Subsystem::Pid(library::pid::PidController::new(root(), top, true)),
            ];
        }
        let mut found = Vec::new();
        for Legacy { controllers, point } in &self.legacy {
            for controller in controllers {
                let (point, top) = (point.clone(), top.clone());
                found.push(match controller.as_str() {
                    "cpu" => Subsystem::Cpu(library::cpu::CpuController::new(point, top, false)),
                    "cpuacct" => {
                        Subsystem::CpuAcct(library::cpuacct::CpuAcctController::new(point, top))
                    }
                    "cpuset" => {
                        Subsystem::CpuSet(library::cpuset::CpuSetController::new(point, top, false))
                    }
                    "memory" => {
                        Subsystem::Mem(library::memory::MemController::new(point, top, false))
                    }
                    "pids" => Subsystem::Pid(library::pid::PidController::new(point, top, false)),
                    "devices" => {
                        Subsystem::Devices(library::devices::DevicesController::new(point, top))
                    }
                    "freezer" => Subsystem::Freezer(library::freezer::FreezerController::new(
                        point, top, false,
                    )),
                    "blkio" => {
                        Subsystem::BlkIo(library::blkio::BlkIoController::new(point, top, false))
                    }
                    "name=systemd" => Subsystem::Systemd(library::systemd::SystemdController::new(
                        point, top, false,
                    )),
                    _ => continue,
                });
            }
        }
        found
    }

    fn root(&self) -> PathBuf {
        self.unified.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        let parent = Path::new(path).parent().unwrap_or(Path::new(""));
        Cgroup::load(Box::new(self.clone()), parent)
    }

    fn v2(&self) -> bool {
        !self.is_hybrid()
    }
}
