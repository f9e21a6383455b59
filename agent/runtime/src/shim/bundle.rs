// SPDX-License-Identifier: Apache-2.0
//! The OCI runtime document of one container.
//!
//! Pure: facts in, the specification's own type out. Defaults are containerd's (v2.0 `oci.populateDefaultUnixSpec`), which is what
//! a container on Kubernetes sees. Not here: mounting the root file system (`creator`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use knarr_pod::{
    Access, Escalation, ImageGroups, IpcMode, MountSource, NetworkMode, PidMode, Privilege,
    Propagation, Resources,
};
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxCpu, LinuxDevice,
    LinuxDeviceCgroupBuilder, LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceType,
    LinuxPidsBuilder, LinuxResources, Mount, MountBuilder, Process, RootBuilder, Spec, UserBuilder,
};

use super::user::Identity;
use crate::protocol::{ShimConfig, StartRequest};

/// The version of the specification that the document follows.
const OCI_VERSION: &str = "1.2.0";
/// The search path of a container that is given none.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// containerd's default capabilities.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Every capability, in the kernel's order (linux/capability.h).
const CAPABILITIES_ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
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
    pub devices: Vec<LinuxDevice>,
}

/// The document.
pub(super) fn document(
    config: &ShimConfig,
    request: &StartRequest,
    facts: &Facts,
) -> Result<Spec, OciSpecError> {
    let spec = &request.spec;
    let root = RootBuilder::default()
        .path(facts.rootfs.clone())
        .readonly(spec.rootfs == Access::ReadOnly)
        .build()?;
    let mut document = Spec::default();
    // The type's own defaults are a container of its authors; every field that has one is set.
    document
        .set_version(OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_annotations(None)
        .set_process(Some(process(config, request, facts)?))
        .set_mounts(Some(mounts(config, request, facts)?))
        .set_linux(Some(linux(config, request, facts)?));
    Ok(document)
}

fn process(
    config: &ShimConfig,
    request: &StartRequest,
    facts: &Facts,
) -> Result<Process, OciSpecError> {
    let spec = &request.spec;
    let mut groups: BTreeSet<u32> = match spec.user.image_groups {
        ImageGroups::Merged => facts.identity.groups.iter().copied().collect(),
        ImageGroups::Ignored => BTreeSet::new(),
    };
    groups.extend(&spec.user.additional_gids);
    groups.insert(facts.identity.gid);
    let user = UserBuilder::default()
        .uid(facts.identity.uid)
        .gid(facts.identity.gid)
        .additional_gids(groups.into_iter().collect::<Vec<_>>())
        .build()?;
    let allowed: Capabilities = capabilities(
        spec.privilege,
        &spec.capabilities_add,
        &spec.capabilities_drop,
        facts.capabilities,
    )
    .into_iter()
    .collect();
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(allowed.clone()))
        .set_effective(Some(allowed.clone()))
        .set_permitted(Some(allowed))
        .set_inheritable(None)
        .set_ambient(None);
    let hostname = &config.spec.hostname;
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user)
        .set_args(Some(spec.args.clone()))
        .set_env(Some(environment(hostname, &spec.env, &facts.identity.home)))
        .set_cwd(PathBuf::from(&spec.cwd))
        .set_capabilities(Some(capabilities))
        .set_rlimits(None)
        .set_no_new_privileges(Some(spec.escalation == Escalation::Forbidden));
    Ok(process)
}

fn linux(
    config: &ShimConfig,
    request: &StartRequest,
    facts: &Facts,
) -> Result<Linux, OciSpecError> {
    let spec = &request.spec;
    let texts = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    let (masked, readonly, devices) = match spec.privilege {
        Privilege::Privileged => (None, None, Some(facts.devices.clone())),
        Privilege::Confined => (texts(&MASKED_PATHS), texts(&READONLY_PATHS), None),
    };
    let bidirectional = |m: &knarr_pod::Mount| m.propagation == Propagation::Bidirectional;
    let propagation = if spec.mounts.iter().any(bidirectional) {
        "shared"
    } else {
        "slave"
    };
    let container = config.pod_cgroup.container(&spec.name, spec.attempt);
    let cgroups_path = container.map(|c| config.cgroup.mount_relative(&c));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(config, facts.pause_pid)))
        .set_cgroups_path(cgroups_path.ok())
        .set_resources(Some(resources(&spec.resources, spec.privilege)?))
        .set_rootfs_propagation(Some(propagation.to_owned()))
        .set_devices(devices)
        .set_masked_paths(masked)
        .set_readonly_paths(readonly);
    Ok(linux)
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
) -> Vec<Capability> {
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
        .map(|(_, capability)| *capability)
        .filter(|capability| {
            let name = capability.to_string();
            // A name beats ALL: `drop: [ALL], add: [X]` leaves X, `add: [ALL], drop: [X]` all but X.
            if privilege == Privilege::Privileged {
                return true;
            }
            if named(drop, &name) {
                return false;
            }
            if named(add, &name) {
                return true;
            }
            let base = CAPABILITIES.contains(capability) && !listed(drop, &name);
            base || (listed(add, &name) && !named(drop, &name))
        })
        .collect()
}

fn namespaces(config: &ShimConfig, pause_pid: i32) -> Vec<LinuxNamespace> {
    let spec = &config.spec;
    let new = |kind| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        namespace
    };
    let of_pause = |kind, name: &str| {
        let mut namespace = new(kind);
        namespace.set_path(Some(PathBuf::from(format!("/proc/{pause_pid}/ns/{name}"))));
        namespace
    };
    let mut list = vec![new(LinuxNamespaceType::Mount)];
    if spec.network == NetworkMode::Pod {
        list.push(of_pause(LinuxNamespaceType::Network, "net"));
        list.push(of_pause(LinuxNamespaceType::Uts, "uts"));
    }
    if spec.ipc == IpcMode::Pod {
        list.push(of_pause(LinuxNamespaceType::Ipc, "ipc"));
    }
    match spec.pid {
        PidMode::Container => list.push(new(LinuxNamespaceType::Pid)),
        PidMode::Pod => list.push(of_pause(LinuxNamespaceType::Pid, "pid")),
        PidMode::Host => {}
    }
    // On hybrid machines the container's v2 cgroup is joined after it is made, too late to be the root of
    // a namespace; containerd gives none there either.
    if !config.cgroup.is_hybrid() {
        list.push(new(LinuxNamespaceType::Cgroup));
    }
    list
}

fn resources(limits: &Resources, privilege: Privilege) -> Result<LinuxResources, OciSpecError> {
    let Resources {
        cpu_shares,
        cpu_quota_us,
        memory_bytes,
        pids,
    } = *limits;
    let all_devices = LinuxDeviceCgroupBuilder::default()
        .allow(privilege == Privilege::Privileged)
        .access("rwm")
        .build()?;
    let cpu = (cpu_shares.is_some() || cpu_quota_us.is_some()).then(|| {
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(cpu_shares)
            .set_quota(cpu_quota_us)
            .set_period(cpu_quota_us.map(|_| Resources::CPU_PERIOD_US));
        cpu
    });
    let memory = memory_bytes.map(|bytes| LinuxMemoryBuilder::default().limit(bytes).build());
    let pids = pids.map(|pids| LinuxPidsBuilder::default().limit(pids).build());
    let mut resources = LinuxResources::default();
    resources
        .set_devices(Some(vec![all_devices]))
        .set_cpu(cpu)
        .set_memory(memory.transpose()?)
        .set_pids(pids.transpose()?);
    Ok(resources)
}

fn mounts(
    config: &ShimConfig,
    request: &StartRequest,
    facts: &Facts,
) -> Result<Vec<Mount>, OciSpecError> {
    let spec = &request.spec;
    let sys = if spec.privilege == Privilege::Privileged {
        "rw"
    } else {
        "ro"
    };
    let special = |target: &str, kind: &str, options: &[&str]| {
        mount(kind, kind.as_ref(), target.as_ref(), options)
    };
    let mut list = vec![
        // Also with hostPID, as with runc: a bind of the node's /proc would bring what is mounted below it, binfmt_misc for
        // one, which stays writable below a read-only path.
        special("/proc", "proc", &["nosuid", "noexec", "nodev"])?,
        special(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
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
        )?,
        special("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        special("/sys", "sysfs", &["nosuid", "noexec", "nodev", sys])?,
    ];
    list.extend(cgroup_mounts(config, request, sys)?);
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
            )?);
        }
    }
    if let (Some(file), Some(target)) = (&facts.termination_file, &spec.termination_message_path) {
        list.push(bind(file, Path::new(target), &["rbind", "rprivate", "rw"])?);
    }
    for (wanted, source) in spec.mounts.iter().zip(&facts.sources) {
        let access = match wanted.access {
            Access::ReadWrite => "rw",
            Access::ReadOnly => "ro",
        };
        list.push(match &wanted.source {
            MountSource::Bind(_) | MountSource::BindWithin { .. } => {
                bind(source, &wanted.target, &["rbind", access])?
            }
            MountSource::Tmpfs { size_bytes } => {
                let size = size_bytes.map(|size| format!("size={size}"));
                let mut options = vec!["nosuid", "nodev", access, "mode=1777"];
                options.extend(size.as_deref());
                mount("tmpfs", "tmpfs".as_ref(), &wanted.target, &options)?
            }
        });
    }
    Ok(list)
}

/// /sys/fs/cgroup. On hybrid machines libcontainer would look for its own process in a /proc that may
/// number processes differently, so the container's directories are bound by name.
fn cgroup_mounts(
    config: &ShimConfig,
    request: &StartRequest,
    access: &str,
) -> Result<Vec<Mount>, OciSpecError> {
    let top = Path::new("/sys/fs/cgroup");
    if !config.cgroup.is_hybrid() {
        let options = ["nosuid", "noexec", "nodev", "relatime", access];
        return Ok(vec![mount("cgroup", "cgroup".as_ref(), top, &options)?]);
    }
    let spec = &request.spec;
    let Ok(cgroup) = config.pod_cgroup.container(&spec.name, spec.attempt) else {
        return Ok(Vec::new());
    };
    // Room for the mount points and nothing else.
    let tmpfs = ["nosuid", "noexec", "nodev", "mode=755", "size=64k"];
    let mut list = vec![mount("tmpfs", "tmpfs".as_ref(), top, &tmpfs)?];
    for (name, dir) in config.cgroup.named_dirs(&cgroup) {
        let options = ["bind", "nosuid", "noexec", "nodev", "relatime", access];
        list.push(bind(&dir, &top.join(name), &options)?);
    }
    Ok(list)
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    mount("bind", source, target, options)
}

fn mount(
    kind: &str,
    source: &Path,
    target: &Path,
    options: &[&str],
) -> Result<Mount, OciSpecError> {
    let options = options.iter().map(|option| (*option).to_owned());
    MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(target)
        .options(options.collect::<Vec<_>>())
        .build()
}

#[cfg(test)]
mod tests;
