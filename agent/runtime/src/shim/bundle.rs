// SPDX-License-Identifier: Apache-2.0
//! The OCI runtime document of one container.
//!
//! Pure: facts in, JSON out. Defaults are containerd's (v2.0 `oci.populateDefaultUnixSpec`), which is what
//! a container on Kubernetes sees. Not here: mounting the root file system (`creator`).

use super::user::Identity;
use crate::protocol::{ShimConfig, StartRequest};
use knarr_pod::{
    Access, Escalation, ImageGroups, IpcMode, MountSource, NetworkMode, PidMode, Privilege,
    Propagation, Resources,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The search path of a container that is given none.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// containerd's default capabilities, without `CAP_`.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability, in the kernel's order (linux/capability.h).
const CAPABILITIES_ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What is known only when the container is made.
pub(super) struct Facts {
    pub rootfs: PathBuf,
    pub identity: Identity,
    /// Where each mount of the request is to be bound from, in order; unused for tmpfs.
    pub sources: Vec<PathBuf>,
    /// The termination message file on the node.
    pub termination_file: Option<PathBuf>,
    pub pause_pid: i32,
    /// A bit for each capability the shim has itself; more cannot be given.
    pub capabilities: u64,
    /// Device nodes of the node, for privileged containers.
    pub devices: Vec<DeviceNode>,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceNode {
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: &'static str,
    pub major: u64,
    pub minor: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The document.
pub(super) fn document(config: &ShimConfig, request: &StartRequest, facts: &Facts) -> Value {
    let spec = &request.spec;
    let privileged = spec.privilege == Privilege::Privileged;
    let capabilities: Vec<String> = capabilities(
        spec.privilege,
        &spec.capabilities_add,
        &spec.capabilities_drop,
        facts.capabilities,
    )
    .into_iter()
    .map(|name| format!("CAP_{name}"))
    .collect();
    let mut groups: BTreeSet<u32> = match spec.user.image_groups {
        ImageGroups::Merged => facts.identity.groups.iter().copied().collect(),
        ImageGroups::Ignored => BTreeSet::new(),
    };
    groups.extend(&spec.user.additional_gids);
    groups.insert(facts.identity.gid);
    let container = config.pod_cgroup.container(&spec.name, spec.attempt);
    let cgroups_path = container.map(|c| config.cgroup.mount_relative(&c));
    let mut document = json!({
        "ociVersion": "1.2.0",
        "root": { "path": facts.rootfs, "readonly": spec.rootfs == Access::ReadOnly },
        "process": {
            "terminal": false,
            "user": {
                "uid": facts.identity.uid,
                "gid": facts.identity.gid,
                "additionalGids": groups,
            },
            "args": spec.args,
            "env": environment(&config.spec.hostname, &request.spec.env, &facts.identity.home),
            "cwd": spec.cwd,
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "noNewPrivileges": spec.escalation == Escalation::Forbidden,
        },
        "mounts": mounts(config, request, facts),
        "linux": {
            "namespaces": namespaces(config, facts.pause_pid),
            "cgroupsPath": cgroups_path.ok(),
            "resources": resources(&spec.resources, spec.privilege),
            "rootfsPropagation": if spec.mounts.iter().any(|m| m.propagation == Propagation::Bidirectional) {
                "shared"
            } else {
                "slave"
            },
        },
    });
    if let Some(linux) = document.get_mut("linux").and_then(Value::as_object_mut) {
        if privileged {
            linux.insert("devices".to_owned(), devices(&facts.devices));
        } else {
            linux.insert("maskedPaths".to_owned(), json!(MASKED_PATHS));
            linux.insert("readonlyPaths".to_owned(), json!(READONLY_PATHS));
        }
    }
    document
}

/// What the pod gives, and PATH, HOSTNAME and HOME where it does not. An empty HOME counts as none, as with runc; without
/// one libcontainer would ask the C library inside the image, which loads code of the image.
fn environment(hostname: &str, given: &[String], home: &str) -> Vec<String> {
    // The last of several wins in libcontainer.
    let value = |name: &str| {
        let of = |e: &String| match e.strip_prefix(name)? {
            "" => Some(String::new()),
            rest => rest.strip_prefix('=').map(str::to_owned),
        };
        given.iter().rev().find_map(of)
    };
    let mut env = given.to_vec();
    if value("PATH").is_none() {
        env.insert(0, PATH_DEFAULT.to_owned());
    }
    if value("HOSTNAME").is_none() {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if value("HOME").is_none_or(|home| home.is_empty()) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// The default set or all, then what the pod adds and drops; never more than the shim has.
fn capabilities(
    privilege: Privilege,
    add: &[String],
    drop: &[String],
    available: u64,
) -> Vec<&'static str> {
    let listed = |list: &[String], name: &str| {
        list.iter().any(|entry| {
            let entry = entry.to_ascii_uppercase();
            entry == "ALL" || entry.strip_prefix("CAP_").unwrap_or(&entry) == name
        })
    };
    let named = |list: &[String], name: &str| {
        list.iter().any(|entry| {
            let entry = entry.to_ascii_uppercase();
            entry.strip_prefix("CAP_").unwrap_or(&entry) == name
        })
    };
    CAPABILITIES_ALL
        .iter()
        .enumerate()
        .filter(|(bit, _)| available >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .filter(|name| {
            // A name beats ALL: `drop: [ALL], add: [X]` leaves X, `add: [ALL], drop: [X]` all but X.
            if privilege == Privilege::Privileged {
                return true;
            }
            if named(drop, name) {
                return false;
            }
            if named(add, name) {
                return true;
            }
            let base = CAPABILITIES.contains(name) && !listed(drop, name);
            base || (listed(add, name) && !named(drop, name))
        })
        .collect()
}

fn namespaces(config: &ShimConfig, pause_pid: i32) -> Value {
    let spec = &config.spec;
    let of_pause = |name: &str| format!("/proc/{pause_pid}/ns/{name}");
    let mut list = vec![json!({ "type": "mount" })];
    if spec.network == NetworkMode::Pod {
        list.push(json!({ "type": "network", "path": of_pause("net") }));
        list.push(json!({ "type": "uts", "path": of_pause("uts") }));
    }
    if spec.ipc == IpcMode::Pod {
        list.push(json!({ "type": "ipc", "path": of_pause("ipc") }));
    }
    match spec.pid {
        PidMode::Container => list.push(json!({ "type": "pid" })),
        PidMode::Pod => list.push(json!({ "type": "pid", "path": of_pause("pid") })),
        PidMode::Host => {}
    }
    // On hybrid machines the container's v2 cgroup is joined after it is made, too late to be the root of
    // a namespace; containerd gives none there either.
    if !config.cgroup.is_hybrid() {
        list.push(json!({ "type": "cgroup" }));
    }
    Value::Array(list)
}

fn resources(limits: &Resources, privilege: Privilege) -> Value {
    let mut value = json!({
        "devices": [{ "allow": privilege == Privilege::Privileged, "access": "rwm" }],
    });
    let Some(map) = value.as_object_mut() else {
        return value;
    };
    let Resources {
        cpu_shares,
        cpu_quota_us,
        memory_bytes,
        pids,
    } = *limits;
    let mut cpu = serde_json::Map::new();
    if let Some(shares) = cpu_shares {
        cpu.insert("shares".to_owned(), json!(shares));
    }
    if let Some(quota) = cpu_quota_us {
        cpu.insert("quota".to_owned(), json!(quota));
        cpu.insert("period".to_owned(), json!(Resources::CPU_PERIOD_US));
    }
    if !cpu.is_empty() {
        map.insert("cpu".to_owned(), Value::Object(cpu));
    }
    if let Some(bytes) = memory_bytes {
        map.insert("memory".to_owned(), json!({ "limit": bytes }));
    }
    if let Some(pids) = pids {
        map.insert("pids".to_owned(), json!({ "limit": pids }));
    }
    value
}

fn devices(nodes: &[DeviceNode]) -> Value {
    nodes
        .iter()
        .map(|node| {
            json!({
                "path": node.path,
                "type": node.kind,
                "major": node.major,
                "minor": node.minor,
                "fileMode": node.mode,
                "uid": node.uid,
                "gid": node.gid,
            })
        })
        .collect()
}

fn mounts(config: &ShimConfig, request: &StartRequest, facts: &Facts) -> Value {
    let spec = &request.spec;
    let sys = if spec.privilege == Privilege::Privileged {
        "rw"
    } else {
        "ro"
    };
    let special = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut list = vec![
        // Also with hostPID, as with runc: a bind of the node's /proc would bring what is mounted below it, binfmt_misc for
        // one, which stays writable below a read-only path.
        special("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        special(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        special(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        special("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        special("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys]),
    ];
    list.extend(cgroup_mounts(config, request, sys));
    let shm = match config.spec.ipc {
        IpcMode::Pod => config.shm_dir(),
        IpcMode::Host => PathBuf::from("/dev/shm"),
    };
    let asked: BTreeSet<&Path> = spec.mounts.iter().map(|m| m.target.as_path()).collect();
    let mut provided: Vec<(PathBuf, &str)> = vec![(shm, "/dev/shm")];
    for (name, target) in [
        ("hosts", "/etc/hosts"),
        ("hostname", "/etc/hostname"),
        ("resolv.conf", "/etc/resolv.conf"),
    ] {
        provided.push((config.etc_dir().join(name), target));
    }
    for (source, target) in provided {
        if !asked.contains(Path::new(target)) {
            let access = match (spec.rootfs, target) {
                (Access::ReadOnly, target) if target.starts_with("/etc") => "ro",
                _ => "rw",
            };
            list.push(bind(
                &source,
                Path::new(target),
                &["rbind", "rprivate", access],
            ));
        }
    }
    if let (Some(file), Some(target)) = (&facts.termination_file, &spec.termination_message_path) {
        list.push(bind(file, Path::new(target), &["rbind", "rprivate", "rw"]));
    }
    for (mount, source) in spec.mounts.iter().zip(&facts.sources) {
        let access = match mount.access {
            Access::ReadWrite => "rw",
            Access::ReadOnly => "ro",
        };
        list.push(match &mount.source {
            MountSource::Bind(_) | MountSource::BindWithin { .. } => {
                bind(source, &mount.target, &["rbind", access])
            }
            MountSource::Tmpfs { size_bytes } => {
                let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), access.to_owned()];
                options.push("mode=1777".to_owned());
                options.extend(size_bytes.map(|size| format!("size={size}")));
                json!({
                    "destination": mount.target,
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": options,
                })
            }
        });
    }
    Value::Array(list)
}

/// /sys/fs/cgroup. On hybrid machines libcontainer would look for its own process in a /proc that may
/// number processes differently, so the container's directories are bound by name.
fn cgroup_mounts(config: &ShimConfig, request: &StartRequest, access: &str) -> Vec<Value> {
    let top = Path::new("/sys/fs/cgroup");
    let options = ["nosuid", "noexec", "nodev", "relatime", access];
    if !config.cgroup.is_hybrid() {
        return vec![json!({
            "destination": top, "type": "cgroup", "source": "cgroup", "options": options,
        })];
    }
    let spec = &request.spec;
    let Ok(cgroup) = config.pod_cgroup.container(&spec.name, spec.attempt) else {
        return Vec::new();
    };
    // Room for the mount points and nothing else.
    let tmpfs = ["nosuid", "noexec", "nodev", "mode=755", "size=64k"];
    let mut list = vec![json!({
        "destination": top, "type": "tmpfs", "source": "tmpfs", "options": tmpfs,
    })];
    for (name, dir) in config.cgroup.named_dirs(&cgroup) {
        let options = ["bind", "nosuid", "noexec", "nodev", "relatime", access];
        list.push(bind(&dir, &top.join(name), &options));
    }
    list
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Value {
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}

#[cfg(test)]
mod tests;
