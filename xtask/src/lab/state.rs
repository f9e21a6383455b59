// SPDX-License-Identifier: Apache-2.0
//! The book of what exists: `target/up/state.json`. An entry is written before the thing is made, so that `down`
//! finds it even when `up` was killed in between. One writer at a time, by a lock beside it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::HostKind;
use crate::paths;
use crate::process::Process;

/// Everything that `up` has made or was about to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The machine's boot: after another boot nothing of this exists any more.
    pub boot_id: String,
    /// The folder that this was written in: in a copy of it the lab belongs to the original.
    folder: Folder,
    /// The folder that holds the lab's cgroups, below each hierarchy's root.
    pub cgroup: String,
    /// Where the API is on the machine's own loopback.
    pub api_port: u16,
    /// `up` has come to its end.
    pub complete: bool,
    /// By name.
    pub hosts: BTreeMap<String, Host>,
    /// Virtual machines, by name: see `vm`.
    #[serde(default)]
    pub machines: BTreeMap<String, Option<Process>>,
    /// SHA-256 of each program that was started, by its name.
    pub programs: BTreeMap<String, String>,
}

/// A folder as the file system knows it: moving it keeps this, copying it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Folder {
    device: u64,
    inode: u64,
}

impl Folder {
    fn of(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let found =
            fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// What it is for.
    pub kind: HostKind,
    /// Its PID 1, once it runs.
    pub init: Option<Process>,
    /// The program that the host is for: knarr-control or knarr-agent.
    pub service: Option<Process>,
    /// How that program is started.
    pub command: Vec<String>,
}

impl State {
    /// A state with nothing in it.
    pub fn new(api_port: u16) -> anyhow::Result<Self> {
        Ok(Self {
            boot_id: boot_id()?,
            folder: Folder::of(&paths::up())?,
            cgroup: lab_cgroup(),
            api_port,
            complete: false,
            hosts: BTreeMap::new(),
            machines: BTreeMap::new(),
            programs: BTreeMap::new(),
        })
    }

    /// What was written last in this folder; none when nothing is up, or when the book came here with a copied folder.
    pub fn load() -> anyhow::Result<Option<Self>> {
        let path = path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let state: Self = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged; `cargo xtask down` removes it with everything that it names",
                path.display()
            )
        })?;
        // The processes that a copied book names belong to the original's lab.
        Ok((state.folder == Folder::of(&paths::up())?).then_some(state))
    }

    /// The running lab, or an error that says how to get one.
    pub fn require() -> anyhow::Result<Self> {
        match Self::load()? {
            Some(state) if state.boot_id == boot_id()? => Ok(state),
            _ => bail!("nothing is up: start it with `cargo xtask up`"),
        }
    }

    /// Replaces what was written before, in one step.
    pub fn save(&self) -> anyhow::Result<()> {
        let path = path();
        fs::create_dir_all(paths::up())?;
        let fresh = path.with_extension("json.new");
        // It holds a join token.
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The entry of a host, or an error that names those there are.
    pub fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.hosts.get(name).with_context(|| self.unknown(name))
    }

    /// The same, to change it.
    pub fn host_mut(&mut self, name: &str) -> anyhow::Result<&mut Host> {
        let unknown = self.unknown(name);
        self.hosts.get_mut(name).context(unknown)
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> anyhow::Result<&Host> {
        let host = self.host(name)?;
        if host.kind != HostKind::Node {
            bail!("{name} is no node; there are {}", self.nodes().join(", "));
        }
        Ok(host)
    }

    /// The nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        self.hosts
            .iter()
            .filter(|(_, host)| host.kind == HostKind::Node)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn unknown(&self, name: &str) -> String {
        format!(
            "there is no host {name}; there are {}",
            self.hosts.keys().cloned().collect::<Vec<_>>().join(", ")
        )
    }
}

/// Waits until no other call changes the lab, and keeps others out until it is dropped.
pub fn lock() -> anyhow::Result<Flock<File>> {
    fs::create_dir_all(paths::up())?;
    let path = paths::up().join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| anyhow::anyhow!("cannot lock {}: {errno}", path.display()))
}

/// Removes the book, as the last act of `down`.
pub fn remove() -> anyhow::Result<()> {
    match fs::remove_file(path()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether there is a book, be it this folder's own or one that was copied with the folder.
pub fn is_there() -> bool {
    path().exists()
}

fn path() -> PathBuf {
    paths::up().join("state.json")
}

/// Changes at each boot of the machine.
pub fn boot_id() -> anyhow::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read the machine's boot id")?
        .trim()
        .to_owned())
}

/// The name of this checkout's cgroup folder: two checkouts on one machine do not meet.
pub fn lab_cgroup() -> String {
    let digest = Sha256::digest(paths::up().as_os_str().as_encoded_bytes());
    format!("knarr-lab-{}", hex::encode(&digest[..4]))
}
