// SPDX-License-Identifier: Apache-2.0
//! A host for one test: own mount, network, cgroup, PID, UTS and IPC namespaces and an own cgroup subtree.
//!
//! The test executes itself again inside; what it leaves behind dies with the PID namespace, and a cgroup
//! that is left is a failure.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use knarr_pod::{
    Access, ContainerPhase, ContainerSpec, ContainerState, Escalation, ExitReason, IpcMode,
    LastWords, NetworkMode, PidMode, Privilege, QosClass, Resources, SandboxSpec, Seccomp,
    Shutdown, User,
};
use knarr_runtime::{CgroupLayout, Runtime, RuntimeConfig, Sandbox};

use crate::image;

/// Set in the process that runs inside.
const INSIDE: &str = "KNARR_TEST_HOST";
/// Made in the host's directory by a test that went through inside.
const RAN: &str = "ran-to-its-end";
/// The cgroup of the test itself where the machine's controllers are v2: a cgroup whose children have controllers holds
/// no process.
const OWN_CGROUP: &str = "test";
/// Tells the script where that is.
const OWN_CGROUP_DIR: &str = "KNARR_TEST_OWN_CGROUP";
/// The longest any test takes on a busy machine.
const TEST_WAIT: Duration = Duration::from_secs(120);

/// Runs a test in a host of its own.
pub fn on_host<F: Future<Output = Result<()>>>(test: impl FnOnce(Host) -> F) {
    run_on_host(Cgroup::AsOnThisMachine, test);
}

/// The same on a host that has nothing but cgroup v2. Where the machine's controllers are v1 the tree has
/// none: limits cannot be set there, everything else can be tried.
pub fn on_unified_host<F: Future<Output = Result<()>>>(test: impl FnOnce(Host) -> F) {
    run_on_host(Cgroup::UnifiedOnly, test);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cgroup {
    AsOnThisMachine,
    UnifiedOnly,
}

fn run_on_host<F: Future<Output = Result<()>>>(cgroup: Cgroup, test: impl FnOnce(Host) -> F) {
    if let Some(dir) = std::env::var_os(INSIDE) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = PathBuf::from(dir);
        let host = Host { dir: dir.clone() };
        host.mount_cgroups(cgroup).unwrap();
        mount_restricted(&host.run_dir()).unwrap();
        runtime.block_on(async {
            let tested = tokio::time::timeout(TEST_WAIT, test(host)).await;
            tested.expect("the test took too long").unwrap();
        });
        std::fs::write(dir.join(RAN), "").unwrap();
        return;
    }
    // libtest names a test's thread after the test.
    let thread = std::thread::current();
    run_inside(thread.name().unwrap()).unwrap();
}

/// Executes one test of this program again in a host of its own.
fn run_inside(name: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this test makes namespaces, cgroups and mounts; run it as root"
    );
    let dir = tempfile::tempdir()?;
    let cgroups = Cgroups::create(name);
    // The child moves itself into the subtree first, then enters the namespaces that hide the rest. The cgroup that it
    // is in when it enters the cgroup namespace is the host's root.
    let script = r#"
        while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 97; shift; done; shift
        exec unshare --cgroup -- /bin/sh -c '
            [ -z "$KNARR_TEST_OWN_CGROUP" ] || echo $$ > "$KNARR_TEST_OWN_CGROUP/cgroup.procs" || exit 97
            exec unshare --mount --net --uts --ipc --pid --fork --kill-child --mount-proc \
                --propagation private -- "$@"
        ' host "$@"
    "#;
    let status = Command::new("/bin/sh")
        .args(["-c", script, "host"])
        .args(&cgroups.dirs)
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, dir.path())
        .env(
            OWN_CGROUP_DIR,
            cgroups.own.as_deref().unwrap_or(Path::new("")),
        )
        .stdin(Stdio::null())
        .status()?;
    let left = cgroups.remove();
    ensure!(status.success(), "{name} failed inside its host: {status}");
    // A name that no test has runs none, and that is a success to libtest.
    ensure!(
        dir.path().join(RAN).exists(),
        "{name} did not run inside its host"
    );
    ensure!(left.is_empty(), "cgroups were left behind: {left:?}");
    Ok(())
}

#[test]
fn a_test_that_does_not_run_inside_its_host_has_failed() {
    let error = run_inside("harness::no_such_test").unwrap_err();
    assert!(error.to_string().contains("did not run"), "{error}");
}

/// The subtree of one test in every hierarchy.
struct Cgroups {
    dirs: Vec<PathBuf>,
    /// Where the test's own process is, if it may not be in one of them.
    own: Option<PathBuf>,
}

impl Cgroups {
    fn create(name: &str) -> Cgroups {
        let name = name.replace("::", ".");
        let leaf = format!("knarr-runtime-test.{name}.{}", std::process::id());
        let (mut dirs, mut own) = (Vec::new(), None);
        for root in roots() {
            let dir = root.join(&leaf);
            std::fs::create_dir_all(&dir).unwrap();
            let controllers = std::fs::read_to_string(root.join("cgroup.controllers"));
            let controllers = controllers.unwrap_or_default();
            if !controllers.trim().is_empty() {
                // As systemd has it on a machine with nothing but v2; the rest is the runtime's to do.
                for controller in controllers.split_whitespace() {
                    let on = format!("+{controller}");
                    let _ = std::fs::write(root.join("cgroup.subtree_control"), on);
                }
                let dir = dir.join(OWN_CGROUP);
                std::fs::create_dir_all(&dir).unwrap();
                own = Some(dir);
            }
            for setting in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = std::fs::read_to_string(root.join(setting)) {
                    let _ = std::fs::write(dir.join(setting), value);
                }
            }
            dirs.push(dir);
        }
        Cgroups { dirs, own }
    }

    /// Removes the subtree; what the test should have removed itself is returned.
    fn remove(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        for dir in &self.dirs {
            // Processes of the ended namespaces are counted a moment longer.
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && remove_known(dir, &mut left).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        left.sort();
        left.dedup();
        left
    }
}

/// Removes a cgroup with the roots that the runtime keeps; anything else below it is noted.
fn remove_known(dir: &Path, left: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type()?.is_dir() {
            let name = entry.file_name();
            let known = [
                "kubepods",
                "burstable",
                "besteffort",
                "knarr-shims",
                OWN_CGROUP,
            ];
            if !known.iter().any(|k| name == *k) {
                left.push(entry.path());
            }
            remove_known(&entry.path(), left)?;
        }
    }
    std::fs::remove_dir(dir)
}

/// Mount points of the machine's cgroup hierarchies.
fn roots() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with("/sys/fs/cgroup"))
        .collect()
}

/// A tmpfs with the options that systemd gives /run, and `nodev` besides.
pub fn mount_restricted(dir: &Path) -> Result<()> {
    use nix::mount::{MsFlags, mount};
    std::fs::create_dir_all(dir)?;
    let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("run"), dir, Some("tmpfs"), flags, Some("mode=755"))
        .with_context(|| format!("mounting {dir:?}"))
}

/// See the module's comment.
pub struct Host {
    pub dir: PathBuf,
}

impl Host {
    /// Makes /sys/fs/cgroup show the subtree only, as on a machine of its own.
    fn mount_cgroups(&self, wanted: Cgroup) -> Result<()> {
        use nix::mount::{MsFlags, mount};
        let text = std::fs::read_to_string("/proc/self/mountinfo")?;
        let top = Path::new("/sys/fs/cgroup");
        let found: Vec<(PathBuf, String, String)> = text
            .lines()
            .filter_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let point = PathBuf::from(left.split(' ').nth(4)?);
                let mut right = right.split(' ');
                let kind = right.next()?.to_owned();
                let options = right.nth(1)?.trim_start_matches("rw,").to_owned();
                (kind.starts_with("cgroup") && point.starts_with(top))
                    .then_some((point, kind, options))
            })
            .collect();
        let none = MsFlags::empty();
        // Also where cgroup v2 is mounted right here: no file system is mounted over itself.
        mount(Some("tmpfs"), top, Some("tmpfs"), none, Some("mode=755"))?;
        if wanted == Cgroup::UnifiedOnly {
            mount(Some("cgroup"), top, Some("cgroup2"), none, None::<&str>)?;
            return Ok(());
        }
        for (point, kind, options) in found {
            std::fs::create_dir_all(&point)?;
            let options = (kind == "cgroup").then_some(options);
            mount(
                Some("cgroup"),
                &point,
                Some(kind.as_str()),
                none,
                options.as_deref(),
            )
            .with_context(|| format!("mounting {point:?}"))?;
        }
        Ok(())
    }

    /// The runtime's state directory, on a file system that nothing can be executed from.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub fn config(&self) -> RuntimeConfig {
        let layout = CgroupLayout::detect(Path::new("/")).unwrap();
        let exe = env!("CARGO_BIN_EXE_knarr-runtime-testshim");
        RuntimeConfig::new(self.dir.join("data"), self.run_dir(), layout, exe)
    }

    /// A runtime with the test image.
    pub async fn runtime(&self) -> Result<Runtime> {
        let runtime = Runtime::open(self.config()).await?;
        if runtime.images().get(image::NAME)?.is_none() {
            let layout = self.dir.join("layout");
            image::write_layout(&layout)?;
            runtime.images().import(&layout, None, &mut |_| {})?;
        }
        Ok(runtime)
    }

    /// Processes of this host other than the test's own and kernel leftovers.
    pub fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            let status = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let zombie = status.contains(") Z ");
            if pid != std::process::id() && !zombie && !status.is_empty() {
                found.push(status.split(") ").next().unwrap_or_default().to_owned());
            }
        }
        found
    }

    /// Nothing of a pod is left: processes, mounts, cgroups, run state.
    pub async fn assert_clean(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let processes = self.processes();
            let mounts: Vec<String> = std::fs::read_to_string("/proc/self/mountinfo")?
                .lines()
                .filter(|line| line.contains(self.dir.to_str().unwrap()))
                // The harness' own.
                .filter(|line| !line.contains(" - tmpfs run "))
                .map(str::to_owned)
                .collect();
            let run: Vec<_> = std::fs::read_dir(self.dir.join("run/sandboxes"))?.collect();
            let cgroups = pod_cgroups(Path::new("/sys/fs/cgroup"));
            if processes.is_empty() && mounts.is_empty() && run.is_empty() && cgroups.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "left behind: {processes:?} {mounts:?} {run:?} {cgroups:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn pod_cgroups(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if entry.file_name().to_string_lossy().starts_with("pod") {
                found.push(entry.path());
            }
            found.extend(pod_cgroups(&entry.path()));
        }
    }
    found
}

pub fn sandbox(uid: &str) -> SandboxSpec {
    SandboxSpec {
        uid: uid.to_owned(),
        namespace: "default".to_owned(),
        name: format!("pod-{uid}"),
        attempt: 0,
        hostname: format!("pod-{uid}"),
        qos: QosClass::BestEffort,
        resources: Resources::default(),
        network: NetworkMode::Pod,
        pid: PidMode::Container,
        ipc: IpcMode::Pod,
        hosts: "127.0.0.1\tlocalhost\n".to_owned(),
        resolv_conf: "nameserver 192.0.2.1\n".to_owned(),
        sysctls: Vec::new(),
    }
}

/// A container that runs a shell script.
pub fn shell(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        attempt: 0,
        image: image::NAME.to_owned(),
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: User::default(),
        mounts: Vec::new(),
        resources: Resources::default(),
        oom_score_adj: 1000,
        rootfs: Access::ReadWrite,
        privilege: Privilege::Confined,
        escalation: Escalation::Allowed,
        capabilities_add: Vec::new(),
        capabilities_drop: Vec::new(),
        seccomp: Seccomp::Unconfined,
        termination_message_path: Some("/dev/termination-log".to_owned()),
        last_words: LastWords::File,
        shutdown: Shutdown::default(),
    }
}

/// Waits until a container is over.
pub async fn exited(sandbox: &Sandbox, name: &str, attempt: u32) -> Result<ContainerState> {
    let mut changes = sandbox.changes();
    let wait = async {
        loop {
            changes.borrow_and_update();
            match sandbox.container(name, attempt) {
                Some(state) if !state.is_live() => return Ok(state),
                _ => changes.changed().await?,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .with_context(|| format!("{name} did not end: {:?}", sandbox.containers()))?
}

/// Exit code, reason and message.
pub fn outcome(state: &ContainerState) -> (i32, ExitReason, &str) {
    match &state.phase {
        ContainerPhase::Exited {
            exit_code,
            reason,
            message,
            ..
        } => (*exit_code, *reason, message),
        phase => panic!("{} is not over: {phase:?}", state.name),
    }
}

/// Runs a script to its end and returns exit code and output.
pub async fn run(sandbox: &Sandbox, spec: ContainerSpec) -> Result<(i32, String)> {
    let (name, attempt) = (spec.name.clone(), spec.attempt);
    sandbox.start_container(spec).await?;
    let state = exited(sandbox, &name, attempt).await?;
    Ok((outcome(&state).0, output(sandbox, &name, attempt)?))
}

/// What a container wrote, without the CRI prefixes.
pub fn output(sandbox: &Sandbox, name: &str, attempt: u32) -> Result<String> {
    let text = std::fs::read_to_string(sandbox.log_path(name, attempt))?;
    let mut out = String::new();
    for line in text.lines() {
        let mut fields = line.splitn(4, ' ').skip(2);
        let tag = fields.next().unwrap_or_default();
        out.push_str(fields.next().unwrap_or_default());
        if tag == "F" {
            out.push('\n');
        }
    }
    Ok(out)
}
