// SPDX-License-Identifier: Apache-2.0
//! The agent's side of one pod's sandbox: a handle that talks to the shim and mirrors what it says.
//!
//! Not here: the shim itself. Made by `Runtime`, used by the agent's pod workers.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use knarr_base::blocking::{Panicked, run_or_fail};
use knarr_pod::{CgroupStats, ContainerState, SandboxState, StartReason};
use knarr_pod::{ContainerSpec, NetworkMode, SandboxSpec, Seccomp};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::id::new_id;
use crate::image::{ImageError, ImageStore};
use crate::path_name::is_name;
use crate::process::ProcessId;
use crate::protocol::{Failure, Reply, Request, ShimConfig, Snapshot, StartRequest};

mod connection;
mod known;
mod loss;
mod teardown;

use known::{Known, Learned};
pub(crate) use teardown::{shims_in, teardown};

/// A start takes as long as the shim's own bound, and some.
const START_WAIT: Duration = Duration::from_secs(150);
/// Everything else is answered at once; a shim that makes another container answers between two steps.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Between two tries to watch a shim that lives.
const RECONNECT_WAIT: Duration = Duration::from_millis(50);

/// Why something could not be done in a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The shim is gone or does not answer. Not retryable: the sandbox has to be destroyed.
    #[error("the shim of pod {uid} is gone: {reason}")]
    Dead {
        /// Pod UID.
        uid: String,
        /// What was seen.
        reason: String,
    },
    /// No container of that name and attempt.
    #[error("container {name} (attempt {attempt}) does not exist in pod {uid}")]
    NotFound {
        /// Pod UID.
        uid: String,
        /// Container name.
        name: String,
        /// Its attempt.
        attempt: u32,
    },
    /// The image is not in the store.
    #[error("image {reference:?} is not present on this node")]
    NoImage {
        /// As the container asks for it.
        reference: String,
    },
    /// The container could not be made or executed. It is among the containers as exited with the same
    /// reason and message, exit code 128.
    #[error("{message}")]
    Start {
        /// For `waiting.reason` or `terminated.reason`.
        reason: StartReason,
        /// For a person.
        message: String,
    },
    /// A call that waits for the disk panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The request is not possible; the text says why.
    #[error("{0}")]
    Refused(String),
    /// A file, socket or namespace.
    #[error("{operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    /// The image store.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// See the module's comment. Cheap to clone; dropping it stops nothing.
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
    /// Ends with the last handle.
    _watcher: Arc<Watcher>,
}

#[derive(Debug)]
struct Inner {
    config: ShimConfig,
    images: ImageStore,
    shim: ProcessId,
    pause: ProcessId,
    known: Mutex<Known>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Watcher(tokio::task::JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    /// Wakes those that wait for changes, where there is one.
    fn tell(&self, learned: Learned) {
        if learned == Learned::Something {
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// Takes what a shim says, unless something newer was heard.
    fn observe(&self, new: Snapshot) {
        let learned = self.known().hear(new);
        self.tell(learned);
    }

    /// Takes what has become of a sandbox without a shim.
    fn settle(&self, last: Snapshot) {
        let learned = self.known().settle(last);
        self.tell(learned);
    }

    fn dead(&self, reason: impl Into<String>) -> SandboxError {
        SandboxError::Dead {
            uid: self.config.spec.uid.clone(),
            reason: reason.into(),
        }
    }

    /// Mirrors the shim until it is gone.
    async fn watch(self: Arc<Inner>) {
        while self.shim.is_alive() {
            if let Err(e) = self.watch_once().await {
                tracing::debug!(uid = self.config.spec.uid, error = %e, "watching a shim");
            }
            tokio::time::sleep(RECONNECT_WAIT).await;
        }
        let inner = self.clone();
        let lost = run_or_fail(move || {
            let known = inner.known().snapshot.clone();
            loss::settle(&inner.config, inner.shim, known, loss::SHIM_DIED)
        });
        match lost.await {
            Ok(snapshot) => self.settle(snapshot),
            Err(e) => {
                tracing::warn!(uid = self.config.spec.uid, error = %e, "settling a lost sandbox");
                let mut last = self.known().snapshot.clone();
                last.dead = Some(format!("{}, and {e}", loss::SHIM_DIED));
                self.settle(last);
            }
        }
    }

    async fn watch_once(&self) -> std::io::Result<()> {
        let mut stream = connection::connect(&self.config.run_dir).await?;
        connection::send(&mut stream, &Request::Watch).await?;
        loop {
            self.observe(connection::receive(&mut stream).await?.snapshot);
        }
    }

    async fn ask(&self, request: Request, wait: Duration) -> Result<(), SandboxError> {
        if let Some(reason) = self.known().snapshot.dead.clone() {
            return Err(self.dead(reason));
        }
        let asked = connection::ask(&self.config.run_dir, &request);
        let Reply { result, snapshot } = match tokio::time::timeout(wait, asked).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(e)) => return Err(self.dead(e.to_string())),
            Err(_) => return Err(self.dead(format!("no answer within {} s", wait.as_secs()))),
        };
        self.observe(snapshot);
        let (name, attempt) = match request {
            Request::Start(start) => (start.spec.name, start.spec.attempt),
            Request::Signal { name, attempt, .. }
            | Request::Kill { name, attempt }
            | Request::Remove { name, attempt } => (name, attempt),
            Request::Watch => (String::new(), 0),
        };
        result.map_err(|failure| match failure {
            Failure::NotFound => SandboxError::NotFound {
                uid: self.config.spec.uid.clone(),
                name,
                attempt,
            },
            Failure::Start { reason, message } => SandboxError::Start {
                reason: StartReason::of(&reason),
                message,
            },
            Failure::Refused(message) => SandboxError::Refused(message),
        })
    }
}

impl Sandbox {
    /// A handle to a sandbox whose shim runs, or ran.
    pub(crate) fn attach(
        config: ShimConfig,
        images: ImageStore,
        state: crate::protocol::ShimState,
    ) -> Sandbox {
        let inner = Arc::new(Inner {
            config,
            images,
            shim: state.shim,
            pause: state.pause,
            known: Mutex::new(Known::new(state.snapshot)),
            changes: watch::Sender::new(0),
        });
        let watcher = Watcher(tokio::spawn(inner.clone().watch()));
        Sandbox {
            inner,
            _watcher: Arc::new(watcher),
        }
    }

    /// Settles a sandbox whose shim is gone before anybody sees it.
    pub(crate) fn settle_if_dead(
        config: &ShimConfig,
        state: &mut crate::protocol::ShimState,
    ) -> std::io::Result<()> {
        let written_by = state.shim;
        if !state.boot_id.is_empty() && state.boot_id != crate::process::boot_id()? {
            // Nothing of it runs; numbers that no process can have keep anybody from being mistaken.
            state.shim = ProcessId::NONE;
            state.pause = ProcessId::NONE;
        }
        if !state.shim.is_alive() {
            let known = state.snapshot.clone();
            state.snapshot = loss::settle(config, written_by, known, loss::SHIM_DIED)?;
        }
        Ok(())
    }

    /// Pod UID.
    pub fn uid(&self) -> &str {
        &self.inner.config.spec.uid
    }

    /// What it was made from.
    pub fn spec(&self) -> &SandboxSpec {
        &self.inner.config.spec
    }

    /// 64 hexadecimal digits, unique.
    pub fn id(&self) -> &str {
        &self.inner.config.id
    }

    /// The pause process.
    pub fn pause_pid(&self) -> i32 {
        self.inner.pause.pid
    }

    /// The shim process.
    pub fn shim_pid(&self) -> i32 {
        self.inner.shim.pid
    }

    /// The pod's network namespace, opened after making sure that the pause process still is the one that
    /// was started. The node's own with `hostNetwork`.
    pub fn netns(&self) -> Result<OwnedFd, SandboxError> {
        let inner = &self.inner;
        let path = match inner.config.spec.network {
            NetworkMode::Host => PathBuf::from("/proc/self/ns/net"),
            NetworkMode::Pod => PathBuf::from(format!("/proc/{}/ns/net", inner.pause.pid)),
        };
        let opened = std::fs::File::open(&path).map_err(|source| SandboxError::Io {
            operation: "opening",
            path,
            source,
        })?;
        // Looked at after opening: if it lives now, the namespace that was opened is its own.
        if inner.pause.is_alive() {
            Ok(opened.into())
        } else {
            Err(inner.dead("the pause process is gone"))
        }
    }

    /// Whether containers can be started.
    pub fn state(&self) -> SandboxState {
        match &self.inner.known().snapshot.dead {
            None => SandboxState::Ready,
            Some(reason) => SandboxState::Dead {
                reason: reason.clone(),
            },
        }
    }

    /// The containers, as last told by the shim; an answer to a request is never older than the request.
    pub fn containers(&self) -> Vec<ContainerState> {
        self.inner.known().snapshot.containers.clone()
    }

    /// One container.
    pub fn container(&self, name: &str, attempt: u32) -> Option<ContainerState> {
        let known = self.inner.known();
        let mut all = known.snapshot.containers.iter();
        all.find(|c| c.name == name && c.attempt == attempt)
            .cloned()
    }

    /// Wakes when [`Sandbox::containers`] or [`Sandbox::state`] may have changed. The number means nothing.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Makes and starts a container; returns when its program was executed. The same name and attempt
    /// again returns the state of the one that is there.
    pub async fn start_container(
        &self,
        spec: ContainerSpec,
    ) -> Result<ContainerState, SandboxError> {
        check_container(&spec)?;
        let (name, attempt) = (spec.name.clone(), spec.attempt);
        let inner = self.inner.clone();
        let request = run_or_fail(move || prepare(&inner, spec)).await?;
        self.inner
            .ask(Request::Start(Box::new(request)), START_WAIT)
            .await?;
        self.container(&name, attempt)
            .ok_or_else(|| self.inner.dead("it forgot a container that it started"))
    }

    /// Sends a signal to the container's first process. Nothing happens when it is over.
    pub async fn signal(&self, name: &str, attempt: u32, signal: i32) -> Result<(), SandboxError> {
        let request = Request::Signal {
            name: name.to_owned(),
            attempt,
            signal,
        };
        self.inner.ask(request, ANSWER_WAIT).await
    }

    /// SIGKILL for every process of the container.
    pub async fn kill(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        let request = Request::Kill {
            name: name.to_owned(),
            attempt,
        };
        self.inner.ask(request, ANSWER_WAIT).await
    }

    /// Removes the files of an exited container and forgets it. Its log stays. Can be called again after an
    /// error, and after the caller died half-way: until its files are gone it stays among the containers.
    pub async fn remove_container(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        if self.container(name, attempt).is_some_and(|c| !c.is_live()) {
            self.remove_files(name, attempt).await?;
        }
        let request = Request::Remove {
            name: name.to_owned(),
            attempt,
        };
        let removed = self.inner.ask(request, ANSWER_WAIT).await;
        if matches!(removed, Ok(()) | Err(SandboxError::NotFound { .. })) {
            // It may have been over for the shim already and not for this handle.
            self.remove_files(name, attempt).await?;
        }
        removed
    }

    async fn remove_files(&self, name: &str, attempt: u32) -> Result<(), SandboxError> {
        let dir = self.inner.config.container_dir(name, attempt);
        run_or_fail(move || crate::tree::remove_tree(&dir).map_err(io("removing", &dir))).await
    }

    /// Replaces the contents of /etc/hosts; running containers see it.
    pub async fn write_hosts(&self, contents: &str) -> Result<(), SandboxError> {
        let path = self.inner.config.etc_dir().join("hosts");
        let contents = contents.to_owned();
        // In place: containers have this very file mounted.
        run_or_fail(move || std::fs::write(&path, contents).map_err(io("writing", &path))).await
    }

    /// The log file of one attempt of a container.
    pub fn log_path(&self, name: &str, attempt: u32) -> PathBuf {
        self.inner.config.log_path(name, attempt)
    }

    /// The logs of all attempts of a container that are kept.
    pub fn log_dir(&self, name: &str) -> PathBuf {
        self.inner.config.log_dir.join(name)
    }

    /// Where a container writes to on the node's disk, volumes aside: its writable layer and its termination message, and
    /// its logs.
    pub fn disk_places(&self, name: &str, attempt: u32) -> [PathBuf; 2] {
        let own = self.inner.config.container_dir(name, attempt);
        [own, self.log_dir(name)]
    }

    /// Where all containers of the pod write to: /etc/hosts, /etc/hostname and /etc/resolv.conf.
    pub fn etc_dir(&self) -> PathBuf {
        self.inner.config.etc_dir()
    }

    /// What a container, or with `None` the whole pod, uses.
    pub fn stats(&self, container: Option<(&str, u32)>) -> Result<CgroupStats, SandboxError> {
        let config = &self.inner.config;
        let cgroup = match container {
            None => config.pod_cgroup.clone(),
            Some((name, attempt)) => config.pod_cgroup.container(name, attempt)?,
        };
        Ok(config.cgroup.stats(&cgroup))
    }

    /// Kills everything, removes namespaces, mounts, cgroups and run state. Logs and volumes stay. Can be
    /// called again after an error.
    pub async fn destroy(&self) -> Result<(), SandboxError> {
        let inner = self.inner.clone();
        // It waits for the kernel's cgroup lock, which others may hold for long.
        run_or_fail(move || {
            let config = &inner.config;
            let killed = config.cgroup.signal_kill_contents(&config.pod_cgroup);
            killed.map_err(SandboxError::from)
        })
        .await?;
        self.await_last_words().await;
        let inner = self.inner.clone();
        run_or_fail(move || {
            let config = &inner.config;
            teardown(
                &config.cgroup,
                &config.run_dir,
                &config.spec.uid,
                Some(inner.shim),
            )
        })
        .await?;
        let mut last = self.inner.known().snapshot.clone();
        last.dead = Some("it was destroyed".to_owned());
        self.inner.settle(last);
        Ok(())
    }

    /// The shim writes the rest of the logs and the exit codes; it is given a moment for it.
    async fn await_last_words(&self) {
        const LAST_WORDS_WAIT: Duration = Duration::from_secs(2);
        let mut changes = self.changes();
        let over = async {
            while self.containers().iter().any(ContainerState::is_live) {
                if self.state() != SandboxState::Ready && !self.inner.shim.is_alive() {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS_WAIT, over).await;
    }
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SandboxError {
    let path = path.to_owned();
    move |source| SandboxError::Io {
        operation,
        path,
        source,
    }
}

/// Refuses what would reach into places where it does not belong, or cannot be done. [`Sandbox::start_container`] asks it
/// first.
pub fn check_container(spec: &ContainerSpec) -> Result<(), SandboxError> {
    let config_error = |message: String| SandboxError::Start {
        reason: StartReason::CreateContainerConfigError,
        message,
    };
    if !is_name(&spec.name) {
        return Err(config_error(format!(
            "{:?} is no container name",
            spec.name
        )));
    }
    if spec.args.is_empty() {
        return Err(SandboxError::Start {
            reason: StartReason::CreateContainerError,
            message: "no command specified".to_owned(),
        });
    }
    if let Seccomp::Profile(profile) = &spec.seccomp {
        return Err(config_error(format!(
            "seccomp profile {profile:?} is asked for, but this node has no seccomp filters"
        )));
    }
    let relative = spec.mounts.iter().map(|m| m.target.as_path());
    let relative = relative
        .chain([Path::new(&spec.cwd)])
        .find(|p| !p.is_absolute());
    match relative {
        Some(path) => Err(config_error(format!("{path:?} is not an absolute path"))),
        None => Ok(()),
    }
}

/// Notes that the container uses the image and finds its layers.
fn prepare(inner: &Inner, spec: ContainerSpec) -> Result<StartRequest, SandboxError> {
    let protected = inner.images.protect()?;
    let image = inner
        .images
        .get(&spec.image)?
        .ok_or_else(|| SandboxError::NoImage {
            reference: spec.image.clone(),
        })?;
    let dir = inner.config.container_dir(&spec.name, spec.attempt);
    std::fs::create_dir_all(&dir).map_err(io("making", &dir))?;
    let marker = dir.join("image");
    std::fs::write(&marker, &image.id).map_err(io("writing", &marker))?;
    drop(protected);
    let layers = image
        .layers
        .iter()
        .rev()
        .filter_map(|layer| layer.file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    Ok(StartRequest {
        spec,
        id: new_id().map_err(io("reading", Path::new("/dev/urandom")))?,
        image_id: image.id,
        layers,
    })
}
