// SPDX-License-Identifier: Apache-2.0
//! The lab's cgroups: one folder for the lab in each hierarchy of the machine, one in it for each host. Works on
//! machines with cgroup v2 alone and on hybrid ones, where every v1 hierarchy gets the same folders.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The leaf that holds a host's own processes, so that cgroup v2 lets controllers be enabled beside it.
pub const SYSTEM: &str = "system";
/// How long the kernel may take to end what was killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What to mount it with again.
    pub version: Version,
}

/// Of which kind a hierarchy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one that Service programs and freezing use.
    V2,
    /// One v1 controller or several, as mount data.
    V1(String),
}

/// The hierarchies of the machine, read from `/proc/self/mountinfo`.
pub fn hierarchies() -> anyhow::Result<Vec<Hierarchy>> {
    let mountinfo =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let found = parse(&mountinfo, &controllers);
    if !found
        .iter()
        .any(|hierarchy| hierarchy.version == Version::V2)
    {
        bail!(
            "no cgroup v2 is mounted: Knarr's Service programs are attached there. Mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
        );
    }
    Ok(found)
}

/// The pure part of [`hierarchies`].
pub fn parse(mountinfo: &str, controllers: &str) -> Vec<Hierarchy> {
    let known: BTreeSet<&str> = controllers
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(root), Some(mount), Some(&kind), Some(options)) =
            (left.get(3), left.get(4), right.first(), right.get(2))
        else {
            continue;
        };
        // From inside a cgroup namespace the hierarchy's own root is seen as `/..`; any other name is a part of it.
        if root.split('/').any(|part| !part.is_empty() && part != "..") {
            continue;
        }
        let version = match kind {
            "cgroup2" => Version::V2,
            "cgroup" => {
                let kept: Vec<&str> = options
                    .split(',')
                    .filter(|option| known.contains(option) || option.starts_with("name="))
                    .collect();
                let named_only = kept.iter().all(|option| option.starts_with("name="));
                Version::V1(if named_only {
                    format!("none,{}", kept.join(","))
                } else {
                    kept.join(",")
                })
            }
            _ => continue,
        };
        if !found.iter().any(|hierarchy| hierarchy.version == version) {
            found.push(Hierarchy {
                mount: PathBuf::from(mount),
                version,
            });
        }
    }
    found
}

/// Makes a host's folders in every hierarchy.
pub fn create(lab: &str, host: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let lab_dir = hierarchy.mount.join(lab);
        let host_dir = lab_dir.join(host);
        let system = host_dir.join(SYSTEM);
        for dir in [&lab_dir, &host_dir, &system] {
            make(&hierarchy, dir)?;
        }
        if hierarchy.version == Version::V2 {
            enable_controllers(&hierarchy.mount)?;
            enable_controllers(&lab_dir)?;
        }
    }
    Ok(())
}

/// Lets a host's own cgroups use the controllers. A folder of cgroup v2 that does so holds no process itself, so this
/// comes after the host's first process has moved on to the leaf.
pub fn hand_down(lab: &str, host: &str) -> anyhow::Result<()> {
    enable_controllers(&v2(lab, host)?)
}

fn make(hierarchy: &Hierarchy, dir: &Path) -> anyhow::Result<()> {
    if !dir.is_dir() {
        fs::create_dir(dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
    }
    let parent = dir.parent().unwrap_or(&hierarchy.mount);
    match &hierarchy.version {
        // A v1 cpuset takes no process before it has been told its CPUs and memory.
        Version::V1(options) if options.split(',').any(|option| option == "cpuset") => {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read_to_string(parent.join(file))?;
                fs::write(dir.join(file), value.trim())
                    .with_context(|| format!("cannot set {file} of {}", dir.display()))?;
            }
        }
        Version::V1(_) | Version::V2 => {}
    }
    Ok(())
}

/// Hands every controller that a cgroup v2 folder has down to its children.
fn enable_controllers(dir: &Path) -> anyhow::Result<()> {
    let available = fs::read_to_string(dir.join("cgroup.controllers"))?;
    for controller in available.split_whitespace() {
        // A controller that cannot be handed down (another user of the folder) is missed by the agent, which says so.
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
    Ok(())
}

/// Moves the calling process.
pub fn join(lab: &str, below: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies()? {
        let file = hierarchy.mount.join(lab).join(below).join("cgroup.procs");
        fs::write(&file, "0").with_context(|| format!("cannot join {}", file.display()))?;
    }
    Ok(())
}

/// Freezes a host and then kills everything in it, as if its power were lost; then removes its folders.
pub fn kill_and_remove(lab: &str, below: &str) -> anyhow::Result<()> {
    let all = hierarchies()?;
    for hierarchy in all
        .iter()
        .filter(|hierarchy| hierarchy.version == Version::V2)
    {
        let dir = hierarchy.mount.join(lab).join(below);
        if dir.is_dir() {
            freeze_and_kill(&dir)?;
        }
    }
    for hierarchy in &all {
        let dir = hierarchy.mount.join(lab).join(below);
        remove_tree(&dir)?;
    }
    Ok(())
}

fn freeze_and_kill(dir: &Path) -> anyhow::Result<()> {
    let set = |file: &str, value: &str| {
        let path = dir.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    };
    if processes(dir).is_empty() {
        return Ok(());
    }
    // Frozen first, so that nothing in it sees another part die.
    set("cgroup.freeze", "1")?;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end
        && !fs::read_to_string(dir.join("cgroup.events"))?.contains("frozen 1")
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    set("cgroup.kill", "1")?;
    let end = Instant::now() + EMPTY_LIMIT;
    while !processes(dir).is_empty() {
        if Instant::now() >= end {
            bail!(
                "processes {:?} in {} did not end when killed",
                processes(dir),
                dir.display()
            );
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Every process in a folder and below.
pub fn processes(dir: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for dir in tree(dir) {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    found
}

/// A folder and everything below, parents first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        open.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
        found.push(dir);
    }
    found
}

fn remove_tree(dir: &Path) -> anyhow::Result<()> {
    for dir in tree(dir).into_iter().rev() {
        let end = Instant::now() + EMPTY_LIMIT;
        // A folder whose last process is just being reaped is busy for a moment.
        while let Err(error) = fs::remove_dir(&dir) {
            if error.kind() == std::io::ErrorKind::NotFound {
                break;
            }
            if Instant::now() >= end {
                return Err(error).with_context(|| {
                    format!(
                        "cannot remove the cgroup {}; processes in it: {:?}",
                        dir.display(),
                        processes(&dir)
                    )
                });
            }
            std::thread::sleep(POLL);
        }
    }
    Ok(())
}

/// The lab's folders that exist, for `down` to check that none is left.
pub fn left(lab: &str) -> anyhow::Result<Vec<PathBuf>> {
    Ok(hierarchies()?
        .into_iter()
        .map(|hierarchy| hierarchy.mount.join(lab))
        .filter(|dir| dir.exists())
        .collect())
}

/// The cgroup v2 folder of something in the lab.
pub fn v2(lab: &str, below: &str) -> anyhow::Result<PathBuf> {
    hierarchies()?
        .into_iter()
        .find(|hierarchy| hierarchy.version == Version::V2)
        .map(|hierarchy| hierarchy.mount.join(lab).join(below))
        .context("no cgroup v2 is mounted")
}

#[cfg(test)]
mod tests;
