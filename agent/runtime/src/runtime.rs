// SPDX-License-Identifier: Apache-2.0
//! The runtime of a node: makes sandboxes, finds them again after a restart, removes what is not wanted.
//!
//! Not here: what happens inside a sandbox (`sandbox`, `shim`). Called by the agent.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use knarr_base::blocking::{Panicked, run_or_fail};
use knarr_pod::CgroupStats;
use knarr_pod::{IpcMode, LogPolicy, NetworkMode, SandboxSpec};

use crate::cgroup::CgroupLayout;
use crate::cgroup::PodCgroup;
use crate::id::new_id;
use crate::image::{ImageError, ImageStore};
use crate::path_name::is_name;
use crate::program::{SealedProgram, limits_of_volumes};
use crate::protocol::{FORMAT, Head, ShimConfig, ShimState};
use crate::sandbox::{Sandbox, SandboxError, shims_in, teardown};
use crate::shim::{PAUSE_PROGRAM, READY};
use crate::tree::{self, Durability, write_file};

mod prune;

/// A shim is ready within some 10 ms; on a node that starts a hundred at once within seconds.
const SHIM_READY_WAIT: Duration = Duration::from_secs(60);
/// Linux' limit of a host name.
const HOSTNAME_LEN_MAX: usize = 64;

/// Where the runtime keeps things.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Images, upper layers of containers, pods' volumes. On disk.
    pub data_dir: PathBuf,
    /// Sockets and run state. Best on tmpfs; empty after a reboot.
    pub run_dir: PathBuf,
    /// Logs of pods, as kubelet lays out /var/log/pods.
    pub log_dir: PathBuf,
    /// The cgroup tree.
    pub cgroup: CgroupLayout,
    /// The program that is executed as a pod's shim, as it is when the runtime opens.
    pub shim_exe: PathBuf,
    /// Arguments that make it one; [`crate::shim_main`] receives what comes after them.
    pub shim_args: Vec<OsString>,
    /// How much of each log is kept.
    pub log: LogPolicy,
}

impl RuntimeConfig {
    /// Logs in `data_dir/logs`, `shim_exe shim` as the shim, 5 log files of 10 MiB.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        run_dir: impl Into<PathBuf>,
        cgroup: CgroupLayout,
        shim_exe: impl Into<PathBuf>,
    ) -> RuntimeConfig {
        let data_dir = data_dir.into();
        RuntimeConfig {
            log_dir: data_dir.join("logs"),
            data_dir,
            run_dir: run_dir.into(),
            cgroup,
            shim_exe: shim_exe.into(),
            shim_args: vec!["shim".into()],
            log: LogPolicy::default(),
        }
    }
}

/// Why something could not be done with sandboxes as a whole.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A file or directory of the runtime.
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
    /// The image store.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    /// Programs that are not in a file cannot be executed here, so that no pod could start.
    #[error("cannot execute the pause program from memory (a sealed memfd), which every pod needs")]
    Executable(#[source] std::io::Error),
    /// A call that waits for the disk panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The request cannot be served; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The sandbox runs, and what is written about it cannot be read: another version of this program made
    /// it. It is left as it is until it is taken away with [`Runtime::destroy_sandbox`].
    #[error(
        "the sandbox of pod {uid} runs, but {path:?} cannot be read by this version ({message}): it is left \
         as it is; run the version that made it, or delete the pod"
    )]
    Unreadable {
        /// Pod UID.
        uid: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The shim did not come up.
    #[error("starting the shim of pod {uid}: {message}")]
    Shim {
        /// Pod UID.
        uid: String,
        /// Its last words.
        message: String,
    },
}

/// What [`Runtime::prune`] took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// UIDs of sandboxes, complete or not.
    pub sandboxes: Vec<String>,
    /// UIDs of pods whose directories were removed.
    pub pod_dirs: Vec<String>,
    /// Log directories.
    pub log_dirs: Vec<PathBuf>,
    /// Cgroups of pods, relative to the cgroup root.
    pub cgroups: Vec<PathBuf>,
    /// Mount points.
    pub mounts: Vec<PathBuf>,
}

/// See the module's comment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: RuntimeConfig,
    images: ImageStore,
    shim: SealedProgram,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::Io {
        operation,
        path,
        source,
    }
}

impl Runtime {
    /// Opens or makes the directories and the image store. Finds no sandboxes yet: call [`Runtime::adopt`].
    pub async fn open(config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        run_or_fail(move || {
            let exe = &config.shim_exe;
            let inner = Inner {
                images: ImageStore::open(&config.data_dir)?,
                shim: SealedProgram::of_file(exe).map_err(failed("executing", exe))?,
                config,
            };
            inner.make_dirs()?;
            inner.check_machine()?;
            inner.config.cgroup.create_roots()?;
            Ok(Runtime {
                inner: Arc::new(inner),
            })
        })
        .await
    }

    /// The images of this node.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// Where everything is kept.
    pub fn config(&self) -> &RuntimeConfig {
        &self.inner.config
    }

    /// Makes cgroups, namespaces and the pause process. The pod has no network yet: loopback is up, and
    /// [`Sandbox::netns`] is the namespace to put an interface into. Leaves nothing when it fails.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        check_sandbox(&spec)?;
        let inner = self.inner.clone();
        let config = run_or_fail(move || inner.prepare(spec)).await?;
        let started = self.inner.start_shim(&config).await;
        match started {
            Ok(state) => Ok(Sandbox::attach(config, self.inner.images.clone(), state)),
            Err(e) => {
                let layout = config.cgroup.clone();
                run_or_fail(move || {
                    let uid = &config.spec.uid;
                    teardown(&layout, &config.run_dir, uid, None).map_err(RuntimeError::from)
                })
                .await?;
                Err(e)
            }
        }
    }

    /// Finds the sandboxes that an agent before this one made. One whose shim died is among them, as
    /// [`knarr_pod::SandboxState::Dead`], with its containers killed and over. What is not a whole sandbox is
    /// removed, so that a new one can be made. One that runs and cannot be read is left alone and not among
    /// them: [`Runtime::adopt_one`] says what is wrong with it.
    pub async fn adopt(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let inner = self.inner.clone();
        let found = run_or_fail(move || {
            let mut found = Vec::new();
            for uid in list(&inner.sandboxes_dir())? {
                match inner.find(&uid) {
                    Ok(loaded) => found.extend(loaded),
                    Err(e @ RuntimeError::Unreadable { .. }) => tracing::error!(uid, "{e}"),
                    Err(e) => return Err(e),
                }
            }
            Ok(found)
        })
        .await?;
        Ok(found
            .into_iter()
            .map(|(config, state)| Sandbox::attach(config, self.inner.images.clone(), state))
            .collect())
    }

    /// As [`Runtime::adopt`], for one pod: none where there is no sandbox of it.
    pub async fn adopt_one(&self, uid: &str) -> Result<Option<Sandbox>, RuntimeError> {
        let (inner, uid) = (self.inner.clone(), uid.to_owned());
        let found = run_or_fail(move || {
            if is_name(&uid) {
                inner.find(&uid)
            } else {
                Ok(None)
            }
        })
        .await?;
        Ok(found.map(|(config, state)| Sandbox::attach(config, self.inner.images.clone(), state)))
    }

    /// Takes a sandbox away for which there is no handle, readable or not. Nothing there is fine.
    pub async fn destroy_sandbox(&self, uid: &str) -> Result<(), RuntimeError> {
        let (inner, uid) = (self.inner.clone(), uid.to_owned());
        run_or_fail(move || {
            let dir = inner.sandbox_dir(&uid);
            if is_name(&uid) && dir.exists() {
                Ok(teardown(&inner.config.cgroup, &dir, &uid, None)?)
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Removes every sandbox, pod directory, log directory, cgroup and mount of pods other than these UIDs.
    pub async fn prune(&self, keep: &[String]) -> Result<Pruned, RuntimeError> {
        let inner = self.inner.clone();
        let keep = keep.iter().cloned().collect();
        run_or_fail(move || inner.prune(&keep)).await
    }

    /// The directory of a pod on disk; it outlives sandboxes and ends with [`Runtime::remove_pod`].
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.inner.pods_dir().join(uid)
    }

    /// Where a volume of a pod belongs (see [`crate::volume`]). `plugin` is kubelet's name of the kind of
    /// volume, e.g. `kubernetes.io~empty-dir`.
    pub fn volume_dir(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir(uid).join("volumes").join(plugin).join(volume)
    }

    /// Removes a pod's directory with its volumes and its logs. The sandbox must be destroyed.
    pub async fn remove_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        let inner = self.inner.clone();
        let uid = uid.to_owned();
        run_or_fail(move || {
            if !is_name(&uid) {
                return Err(RuntimeError::Refused(format!("{uid:?} is no pod UID")));
            }
            if inner.sandbox_dir(&uid).exists() {
                return Err(RuntimeError::Refused(format!(
                    "pod {uid} still has a sandbox"
                )));
            }
            let dir = inner.pods_dir().join(&uid);
            tree::remove_tree(&dir).map_err(failed("removing", &dir))?;
            for name in list(&inner.config.log_dir)? {
                if name.rsplit_once('_').is_some_and(|(_, of)| of == uid) {
                    let dir = inner.config.log_dir.join(name);
                    tree::remove_tree(&dir).map_err(failed("removing", &dir))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The log file of one attempt of a container, for [`crate::logs::read`].
    pub fn log_path(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        container: &str,
        attempt: u32,
    ) -> PathBuf {
        pod_log_dir(&self.inner.config.log_dir, namespace, name, uid)
            .join(container)
            .join(format!("{attempt}.log"))
    }

    /// What all pods use together.
    pub fn stats(&self) -> CgroupStats {
        self.inner.config.cgroup.stats_all()
    }
}

/// kubelet's name of a pod's log directory.
fn pod_log_dir(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// Names in a directory; none if it does not exist.
fn list(dir: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("listing", dir)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("listing", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Refuses what would reach into places where it does not belong. [`Runtime::create_sandbox`] asks it first.
pub fn check_sandbox(spec: &SandboxSpec) -> Result<(), RuntimeError> {
    let refused = |what: String| Err(RuntimeError::Refused(what));
    if !is_name(&spec.uid) {
        return refused(format!("{:?} is no pod UID", spec.uid));
    }
    let is_dns = |name: &str| {
        !name.is_empty()
            && name.len() <= 253
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    };
    if !is_dns(&spec.name) || !is_name(&spec.namespace) {
        return refused(format!(
            "{:?}/{:?} is no pod name",
            spec.namespace, spec.name
        ));
    }
    if spec.hostname.len() > HOSTNAME_LEN_MAX {
        return refused(format!("hostname {:?} is too long", spec.hostname));
    }
    for (name, _) in &spec.sysctls {
        // What the pod shares with the node is not the pod's to set.
        let shared = if name.starts_with("net.") {
            spec.network == NetworkMode::Host
        } else {
            spec.ipc == IpcMode::Host
        };
        if shared {
            return refused(format!(
                "sysctl {name} is of a namespace that the pod shares with the node"
            ));
        }
    }
    Ok(())
}

impl Inner {
    fn sandboxes_dir(&self) -> PathBuf {
        self.config.run_dir.join("sandboxes")
    }

    fn sandbox_dir(&self, uid: &str) -> PathBuf {
        self.sandboxes_dir().join(uid)
    }

    fn pods_dir(&self) -> PathBuf {
        self.config.data_dir.join("pods")
    }

    fn pause_root(&self) -> PathBuf {
        self.config.run_dir.join("empty")
    }

    fn make_dirs(&self) -> Result<(), RuntimeError> {
        use std::os::unix::fs::PermissionsExt;
        for dir in [
            self.sandboxes_dir(),
            self.pods_dir(),
            self.config.log_dir.clone(),
        ] {
            std::fs::create_dir_all(&dir).map_err(failed("making", &dir))?;
        }
        // Sockets that command containers, and volumes with secrets.
        for dir in [self.sandboxes_dir(), self.pods_dir()] {
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(&dir, private).map_err(failed("protecting", &dir))?;
        }
        let empty = self.pause_root();
        std::fs::create_dir_all(&empty).map_err(failed("making", &empty))?;
        let closed = std::fs::Permissions::from_mode(0o555);
        std::fs::set_permissions(&empty, closed).map_err(failed("protecting", &empty))
    }

    /// What would keep every pod from starting is said now, and what pods will miss.
    fn check_machine(&self) -> Result<(), RuntimeError> {
        SealedProgram::new("pause", PAUSE_PROGRAM)
            .and_then(|program| program.check())
            .map_err(RuntimeError::Executable)?;
        let dir = &self.config.data_dir;
        for (option, effect) in limits_of_volumes(dir).map_err(failed("looking at", dir))? {
            tracing::warn!(
                "the data directory {} is on a file system mounted {option}: {effect}",
                dir.display()
            );
        }
        Ok(())
    }

    /// Cgroups, directories and the shim's configuration.
    fn prepare(&self, spec: SandboxSpec) -> Result<ShimConfig, RuntimeError> {
        let run_dir = self.sandbox_dir(&spec.uid);
        match std::fs::create_dir(&run_dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::Refused(format!(
                    "pod {} has a sandbox; destroy it first",
                    spec.uid
                )));
            }
            Err(e) => return Err(failed("making", &run_dir)(e)),
        }
        let pod_dir = self.pods_dir().join(&spec.uid);
        let config = ShimConfig {
            format: FORMAT,
            id: new_id().map_err(failed("reading", Path::new("/dev/urandom")))?,
            log_dir: pod_log_dir(&self.config.log_dir, &spec.namespace, &spec.name, &spec.uid),
            layers_dir: self.images.layers_dir(),
            pause_root: self.pause_root(),
            cgroup: self.config.cgroup.clone(),
            pod_cgroup: PodCgroup::pod(spec.qos, &spec.uid)?,
            log: self.config.log,
            pod_dir,
            run_dir,
            spec,
        };
        let made = self.populate(&config);
        if made.is_err() {
            let _ = config.cgroup.remove(&config.pod_cgroup);
            let _ = tree::remove_tree(&config.run_dir);
        }
        made.map(|()| config)
    }

    fn populate(&self, config: &ShimConfig) -> Result<(), RuntimeError> {
        for dir in [&config.pod_dir, &config.log_dir] {
            std::fs::create_dir_all(dir).map_err(failed("making", dir))?;
        }
        let path = ShimConfig::config_path(&config.run_dir);
        let bytes = serde_json::to_vec(config).map_err(|e| failed("writing", &path)(e.into()))?;
        write_file(&path, &bytes, Durability::Atomic).map_err(failed("writing", &path))?;
        let resources = &config.spec.resources;
        Ok(config.cgroup.create_pod(&config.pod_cgroup, resources)?)
    }

    /// Executes the shim and waits until it is ready.
    async fn start_shim(&self, config: &ShimConfig) -> Result<ShimState, RuntimeError> {
        let refused = |message: String| RuntimeError::Shim {
            uid: config.spec.uid.clone(),
            message,
        };
        // It outlives the agent by months; the agent's environment, and the secrets in it, are not its own.
        let starter = tokio::process::Command::from(self.shim.command())
            .args(&self.config.shim_args)
            .arg(&config.run_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed("executing", &self.config.shim_exe))?;
        let output = tokio::time::timeout(SHIM_READY_WAIT, starter.wait_with_output()).await;
        let output = match output {
            Ok(output) => output.map_err(|e| refused(e.to_string()))?,
            Err(_) => return Err(refused("it was not ready within 60 s".to_owned())),
        };
        let said = String::from_utf8_lossy(&output.stdout);
        if said.trim() != READY {
            let errors = String::from_utf8_lossy(&output.stderr);
            let words = [said.trim(), errors.trim()].join(" ");
            return Err(refused(words.trim().to_owned()));
        }
        let path = ShimConfig::state_path(&config.run_dir);
        let bytes = std::fs::read(&path).map_err(failed("reading", &path))?;
        serde_json::from_slice(&bytes).map_err(|e| failed("reading", &path)(e.into()))
    }

    /// The sandbox of a pod, if there is a whole one. What is left of one that cannot be taken over, and in
    /// which nothing runs under a shim any more, is removed.
    fn find(&self, uid: &str) -> Result<Option<(ShimConfig, ShimState)>, RuntimeError> {
        let dir = self.sandbox_dir(uid);
        if !dir.exists() {
            return Ok(None);
        }
        let why = match self.load(uid)? {
            Found::Whole(config, state) => return Ok(Some((*config, *state))),
            // No container is made before the state is written.
            Found::CutOff => "it was cut off while it was made".to_owned(),
            Found::Unreadable { path, message } => {
                if !shims_in(&dir).is_empty() {
                    return Err(RuntimeError::Unreadable {
                        uid: uid.to_owned(),
                        path,
                        message,
                    });
                }
                format!("{path:?} cannot be read ({message}), and its shim is gone")
            }
        };
        tracing::warn!(uid, why, "removing what is not a whole sandbox");
        teardown(&self.config.cgroup, &dir, uid, None)?;
        Ok(None)
    }

    /// What a sandbox' directory says. An error says nothing about its containers, which may be running.
    fn load(&self, uid: &str) -> Result<Found, RuntimeError> {
        let dir = self.sandbox_dir(uid);
        let (config, state) = (ShimConfig::config_path(&dir), ShimConfig::state_path(&dir));
        let mut state: ShimState = match read_json(&state)? {
            Read::Value(state) => state,
            Read::Missing => return Ok(Found::CutOff),
            Read::Foreign(message) => {
                let path = state;
                return Ok(Found::Unreadable { path, message });
            }
        };
        let unreadable = |message: String| {
            let path = config.clone();
            Ok(Found::Unreadable { path, message })
        };
        let config: ShimConfig = match read_json(&config)? {
            Read::Value(config) => config,
            Read::Missing => return unreadable("it does not exist".to_owned()),
            Read::Foreign(message) => return unreadable(message),
        };
        if config.spec.uid != uid {
            return unreadable(format!("it is about pod {}", config.spec.uid));
        }
        Sandbox::settle_if_dead(&config, &mut state).map_err(failed("settling", &dir))?;
        Ok(Found::Whole(Box::new(config), Box::new(state)))
    }
}

/// What is in a sandbox' directory.
enum Found {
    /// Everything.
    Whole(Box<ShimConfig>, Box<ShimState>),
    /// It was never finished, and nothing has run in it.
    CutOff,
    /// It was finished, by somebody who writes otherwise.
    Unreadable { path: PathBuf, message: String },
}

/// A file that is replaced as a whole.
enum Read<T> {
    Value(T),
    Missing,
    /// It is there, and its contents are not what this version writes.
    Foreign(String),
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Read<T>, RuntimeError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Read::Missing),
        Err(e) => return Err(failed("reading", path)(e)),
    };
    // The number first: a later layout may look like this one and mean something else.
    let foreign = |e: serde_json::Error| Read::Foreign(e.to_string());
    Ok(match serde_json::from_slice::<Head>(&bytes) {
        Err(e) => foreign(e),
        Ok(Head { format }) if format > FORMAT => Read::Foreign(format!(
            "its format is {format}, the newest known is {FORMAT}"
        )),
        Ok(_) => serde_json::from_slice(&bytes).map_or_else(foreign, Read::Value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Small {
        n: u32,
    }

    #[test]
    fn a_file_of_another_version_is_foreign_and_not_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let read = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            match read_json::<Small>(&path).unwrap() {
                Read::Value(small) => format!("n is {}", small.n),
                Read::Missing => "missing".to_owned(),
                Read::Foreign(message) => message,
            }
        };
        assert_eq!(read(None), "missing");
        assert_eq!(read(Some(r#"{"n": 1}"#)), "n is 1");
        assert_eq!(
            read(Some(r#"{"format": 1, "n": 2, "more": true}"#)),
            "n is 2"
        );
        assert_eq!(
            read(Some(r#"{"format": 2, "n": 3}"#)),
            "its format is 2, the newest known is 1"
        );
        assert!(read(Some(r#"{"format": 1}"#)).contains("missing field"));
        assert!(read(Some("")).contains("EOF"));
    }
}
