// SPDX-License-Identifier: Apache-2.0
//! Makes one container, in a child of the shim that ends when the container runs.
//!
//! libcontainer changes the process that calls it (oom score, dumpable, working directory) and may hang on
//! a broken image; none of that may happen to the shim. The container's first process becomes the shim's
//! child when this one ends, because the shim is a subreaper. The child has a mount namespace of its own,
//! so the container's overlay is never seen on the node and is gone with the container.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use knarr_pod::{MountSource, Privilege, Propagation, RootUser, Seccomp};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use procfs::process::Process;
use serde::{Deserialize, Serialize};

use super::bundle::{self, Facts};
use super::executor::Exec;
use super::user;
use crate::process::io_error;
use crate::protocol::{ShimConfig, StartRequest};
use crate::tree;

/// A program that was told to execute does so at once; only a hung file system takes longer.
const EXEC_WAIT_MS: u16 = 20_000;
/// The name libcontainer knows the container by, below its bundle's own directory.
const NAME: &str = "c";
/// More of a failing program's words is not shown.
const REPORT_BYTES_MAX: u64 = 16 << 10;

/// What the child tells the shim, one frame each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It exists; the shim has to know the process before it runs.
    Created { pid: i32 },
    /// Its program was executed.
    Started,
    /// It could not be.
    Failed { reason: FailedStep, message: String },
}

/// Which step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FailedStep {
    /// Making the container.
    Create,
    /// Executing its program.
    Start,
    /// What the pod asks for is not possible.
    Config,
}

/// Everything the child needs.
pub(super) struct Job<'a> {
    pub config: &'a ShimConfig,
    pub request: &'a StartRequest,
    pub pause_pid: i32,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub report: OwnedFd,
}

/// Runs in the forked child and ends it.
pub(super) fn run(job: Job<'_>) -> ! {
    let report = job.report.as_raw_fd();
    let keep = [job.stdout.as_raw_fd(), job.stderr.as_raw_fd(), report];
    let reporter = job.report.try_clone();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        // A shim that is killed takes this step with it: nobody would wait for the container.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
            .map_err(|e| (FailedStep::Create, format!("tying to the shim: {e}")))?;
        let mut keep = keep.to_vec();
        keep.extend(reporter.as_ref().map(AsRawFd::as_raw_fd));
        crate::sys::close_others(&keep)
            .map_err(|e| (FailedStep::Create, format!("closing descriptors: {e}")))?;
        make(job)
    }));
    let failed = match outcome {
        Ok(Ok(())) => crate::sys::exit_now(0),
        Ok(Err(failed)) => failed,
        Err(_) => (FailedStep::Create, "the runtime panicked".to_owned()),
    };
    if let Ok(reporter) = &reporter {
        let (reason, message) = failed;
        let _ = tell(reporter, &Report::Failed { reason, message });
    }
    crate::sys::exit_now(1)
}

fn tell(to: &OwnedFd, report: &Report) -> io::Result<()> {
    let frame = crate::protocol::encode(report)?;
    File::from(to.try_clone()?).write_all(&frame)
}

type Failed = (FailedStep, String);

fn make(job: Job<'_>) -> Result<(), Failed> {
    let Job {
        config,
        request,
        pause_pid,
        stdout,
        stderr,
        report,
    } = job;
    let spec = &request.spec;
    let create =
        |what: &'static str| move |e: io::Error| (FailedStep::Create, format!("{what}: {e}"));
    if let Seccomp::Profile(profile) = &spec.seccomp {
        return Err((
            FailedStep::Config,
            format!(
                "seccomp profile {profile:?} is asked for, but this node has no seccomp filters"
            ),
        ));
    }
    if config.spec.resources.cpu_quota_us.is_some() {
        let left = config.cgroup.leave_cpu_limits();
        left.map_err(|e| (FailedStep::Create, knarr_base::chain(&e)))?;
    }
    let bundle = config.bundle_dir(&spec.name, spec.attempt);
    let files = config.container_dir(&spec.name, spec.attempt);
    let rootfs = bundle.join("rootfs");
    leave_mount_namespace(request, &bundle).map_err(create("making a mount namespace"))?;
    std::fs::create_dir_all(&rootfs).map_err(create("making the root directory"))?;
    mount_rootfs(config, request, &files, &rootfs)
        .map_err(create("mounting the root file system"))?;
    set_oom_score(spec.oom_score_adj).map_err(create("setting oom_score_adj"))?;
    let root = tree::open_dir(&rootfs).map_err(create("opening the root file system"))?;
    let identity = user::look_up(&root, &spec.user.user).map_err(|e| (FailedStep::Config, e))?;
    if spec.user.root == RootUser::Refused && identity.uid == 0 {
        return Err((
            FailedStep::Config,
            "container has runAsNonRoot and image will run as root".to_owned(),
        ));
    }
    let mode = Mode::from_bits_truncate(0o755);
    tree::make_dirs_in_root(&root, Path::new(&spec.cwd), mode)
        .map_err(create("making the working directory"))?;
    drop(root);
    let sources = stage_mounts(request, &bundle)?;
    let termination_file =
        termination_file(request, &files).map_err(create("making the termination message file"))?;
    let facts = Facts {
        rootfs,
        identity,
        sources,
        termination_file,
        pause_pid,
        capabilities: own_capabilities().map_err(create("reading capabilities"))?,
        devices: if spec.privilege == Privilege::Privileged {
            device_nodes(Path::new("/dev"))
        } else {
            Vec::new()
        },
    };
    if config.cgroup.is_hybrid() {
        let cgroup = config.pod_cgroup.container(&spec.name, spec.attempt);
        cgroup
            .and_then(|c| config.cgroup.create_named(&c))
            .map_err(|e| (FailedStep::Create, knarr_base::chain(&e)))?;
    }
    let document = bundle::document(config, request, &facts)
        .and_then(|document| document.save(bundle.join("config.json")));
    document.map_err(|e| (FailedStep::Create, format!("writing config.json: {e}")))?;
    let (exec_read, exec_write) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| create("making a pipe")(e.into()))?;
    let mut container = build(&bundle, stdout, stderr, exec_write)?;
    let Some(pid) = container.pid() else {
        return Err((
            FailedStep::Create,
            "the container has no process".to_owned(),
        ));
    };
    let pid = pid.as_raw();
    let placed = place(config, request, pid);
    let told = placed.and_then(|()| tell(&report, &Report::Created { pid }));
    if let Err(e) = told {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        return Err(create("placing the container")(e));
    }
    container
        .start()
        .map_err(|e| (FailedStep::Start, knarr_base::chain(&e)))?;
    await_exec(exec_read).map_err(|message| (FailedStep::Start, message))?;
    tell(&report, &Report::Started).map_err(create("reporting"))
}

/// Mounts made from here on stay in here. Where a volume's mounts have to show on the node, the tree
/// stays shared and only the mount below the bundle is cut off.
fn leave_mount_namespace(request: &StartRequest, bundle: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let bidirectional = |m: &knarr_pod::Mount| m.propagation == Propagation::Bidirectional;
    let none = None::<&str>;
    if !request.spec.mounts.iter().any(bidirectional) {
        let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        return Ok(mount(none, "/", none, flags, none)?);
    }
    let mut points = tree::mounts_below(Path::new("/"))?;
    points.retain(|point| bundle.starts_with(point));
    points.sort_by_key(|point| point.components().count());
    match points.last() {
        Some(point) => Ok(mount(none, point, none, MsFlags::MS_PRIVATE, none)?),
        None => Err(io::Error::other("the bundle is on no mount")),
    }
}

fn mount_rootfs(
    config: &ShimConfig,
    request: &StartRequest,
    files: &Path,
    rootfs: &Path,
) -> io::Result<()> {
    let (upper, work) = (files.join("upper"), files.join("work"));
    for dir in [&upper, &work] {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o755))?;
    let lower = request.layers.join(":");
    let layers = &config.layers_dir;
    let mounting =
        |options: &str| crate::image::overlay(layers, &lower, &upper, &work, rootfs, options);
    // The upper layer ends with the container, so nothing in it needs to be synced. Kernels before 5.10
    // do not know the option.
    match mounting(",volatile") {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => mounting(""),
        result => result,
    }?;
    nix::unistd::chdir("/")?;
    Ok(())
}

/// Lowering the score needs CAP_SYS_RESOURCE. A node without it (in a container) keeps its own score, as
/// containerd does with `restrict_oom_score_adj`.
fn set_oom_score(wanted: i32) -> io::Result<()> {
    let path = "/proc/self/oom_score_adj";
    match std::fs::write(path, wanted.to_string()) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Binds each source to a place of this namespace: a container that exchanges a part of the path for a
/// link afterwards changes nothing, and propagation is set here because libcontainer does not.
fn stage_mounts(request: &StartRequest, bundle: &Path) -> Result<Vec<PathBuf>, Failed> {
    let mut sources = Vec::new();
    for (index, wanted) in request.spec.mounts.iter().enumerate() {
        let found = match &wanted.source {
            MountSource::Tmpfs { .. } => {
                sources.push(PathBuf::new());
                continue;
            }
            MountSource::Bind(path) => {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                nix::fcntl::open(path, flags, Mode::empty()).map_err(|e| {
                    let target = wanted.target.display();
                    let text = format!("failed to mount {path:?} to \"{target}\": {}", e.desc());
                    (FailedStep::Create, text)
                })
            }
            MountSource::BindWithin { root, sub_path } => {
                open_within(root, sub_path).map_err(|e| {
                    let text = format!("failed to prepare subPath {sub_path:?}: {e}");
                    (FailedStep::Config, text)
                })
            }
        }?;
        let staged = bundle.join("mounts").join(index.to_string());
        stage(&found, &staged, wanted.propagation).map_err(|e| {
            let target = wanted.target.display();
            (
                FailedStep::Create,
                format!("failed to mount to \"{target}\": {e}"),
            )
        })?;
        sources.push(staged);
    }
    Ok(sources)
}

/// What a path inside a volume is; a directory is made where there is nothing.
fn open_within(root: &Path, sub_path: &Path) -> io::Result<OwnedFd> {
    let volume = tree::open_dir(root)?;
    match tree::open_in_root(&volume, sub_path, OFlag::O_PATH, Mode::empty()) {
        Err(nix::errno::Errno::ENOENT) => {
            // kubelet's mode of a subPath.
            tree::make_dirs_in_root(&volume, sub_path, Mode::from_bits_truncate(0o750))
        }
        found => Ok(found?),
    }
}

fn stage(source: &OwnedFd, staged: &Path, propagation: Propagation) -> io::Result<()> {
    if let Some(parent) = staged.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if File::from(source.try_clone()?).metadata()?.is_dir() {
        std::fs::create_dir_all(staged)?;
    } else {
        File::create(staged)?;
    }
    let none = None::<&str>;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&tree::fd_path(source)), staged, none, flags, none)?;
    let kind = match propagation {
        Propagation::Private => MsFlags::MS_PRIVATE,
        Propagation::HostToContainer => MsFlags::MS_SLAVE,
        Propagation::Bidirectional => return Ok(()),
    };
    mount(none, staged, none, MsFlags::MS_REC | kind, none)?;
    Ok(())
}

/// An empty file that anybody may write to.
fn termination_file(request: &StartRequest, files: &Path) -> io::Result<Option<PathBuf>> {
    if request.spec.termination_message_path.is_none() {
        return Ok(None);
    }
    let path = files.join("termination-log");
    File::create(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(Some(path))
}

fn own_capabilities() -> io::Result<u64> {
    let status = Process::myself().and_then(|own| own.status());
    Ok(status.map_err(io_error)?.capprm)
}

/// The node's devices, without what the container has its own of.
fn device_nodes(dir: &Path) -> Vec<LinuxDevice> {
    const OWN: [&str; 5] = [
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/fd",
        "/dev/console",
    ];
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if OWN.iter().any(|own| path == Path::new(own)) {
            continue;
        }
        let kind = metadata.file_type();
        if kind.is_dir() {
            found.extend(device_nodes(&path));
        } else if kind.is_char_device() || kind.is_block_device() {
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let mut device = LinuxDevice::default();
            device
                .set_path(path)
                .set_typ(if kind.is_char_device() {
                    LinuxDeviceType::C
                } else {
                    LinuxDeviceType::B
                })
                .set_major(number(nix::sys::stat::major(metadata.rdev())))
                .set_minor(number(nix::sys::stat::minor(metadata.rdev())))
                .set_file_mode(Some(metadata.mode() & 0o7777))
                .set_uid(Some(metadata.uid()))
                .set_gid(Some(metadata.gid()));
            found.push(device);
        }
    }
    found
}

fn build(
    bundle: &Path,
    stdout: OwnedFd,
    stderr: OwnedFd,
    exec_report: OwnedFd,
) -> Result<libcontainer::container::Container, Failed> {
    let failed =
        |e: libcontainer::error::LibcontainerError| (FailedStep::Create, knarr_base::chain(&e));
    let executor = Exec {
        report: std::rc::Rc::new(exec_report),
    };
    let state = bundle.join("lc");
    std::fs::create_dir_all(&state)
        .map_err(|e| (FailedStep::Create, format!("making {state:?}: {e}")))?;
    ContainerBuilder::new(NAME.to_owned(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(state)
        .map_err(failed)?
        .with_stdout(stdout)
        .with_stderr(stderr)
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(failed)
}

/// What libcontainer leaves out of the container's cgroups: the v2 tree on hybrid machines, where the
/// Service programs are, and device access on pure v2.
fn place(config: &ShimConfig, request: &StartRequest, pid: i32) -> io::Result<()> {
    let spec = &request.spec;
    let text = |e: crate::cgroup::CgroupError| io::Error::other(knarr_base::chain(&e));
    let cgroup = config
        .pod_cgroup
        .container(&spec.name, spec.attempt)
        .map_err(text)?;
    if config.cgroup.is_hybrid() {
        return config.cgroup.join_unified(&cgroup, pid).map_err(text);
    }
    if spec.privilege == Privilege::Confined {
        let dir = tree::open_dir(&config.cgroup.unified_dir(&cgroup))?;
        super::devices::confine(&dir)?;
    }
    Ok(())
}

/// The pipe ends without a word when the program was executed.
fn await_exec(pipe: OwnedFd) -> Result<(), String> {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(EXEC_WAIT_MS)) {
        Ok(0) => return Err("the program was not executed within 20 s".to_owned()),
        Ok(_) => {}
        Err(e) => return Err(format!("waiting for exec: {e}")),
    }
    let mut message = String::new();
    File::from(pipe)
        .take(REPORT_BYTES_MAX)
        .read_to_string(&mut message)
        .map_err(|e| format!("waiting for exec: {e}"))?;
    if message.is_empty() {
        Ok(())
    } else {
        Err(message)
    }
}
