// SPDX-License-Identifier: Apache-2.0
//! What the command line asks for, checked, and what only one agent of a machine may have.
//!
//! Not here: reading options (`config`). Called by `start` before anything else.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use knarr_agent_plan::sysctls::AllowedSysctls;
use knarr_datapath::{Datapath, DatapathConfig, MapSizes, ProgramLog, TcHook};
use knarr_pod::LogPolicy;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::config::{
    ConfigError, HEALTH_LISTEN_DEFAULT, MAX_PODS_DEFAULT, POD_PIDS_DEFAULT, RunOptions,
};
use crate::health::HealthListener;
use crate::join::JoinConfig;
use crate::machine::Machine;

/// How long the lock of an agent that was just killed may still be there.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// How often the lock is tried within [`LOCK_WITHIN`].
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Kubernetes' NodePort range, used until the control plane says its own.
const NODE_PORTS_DEFAULT: (u16, u16) = (30_000, 32_767);

/// What the command line asks for, read and checked before anything is made.
pub(super) struct Settings {
    pub options: RunOptions,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    pub join: JoinConfig,
    pub labels: Vec<(String, String)>,
    pub log: LogPolicy,
    pub sysctls: AllowedSysctls,
    pub datapath: DatapathConfig,
    /// The kernel programs.
    pub object: &'static [u8],
    pub max_pods: u32,
    pub pod_pids: Option<i64>,
}

impl Settings {
    pub fn read(options: &RunOptions, machine: &Machine) -> anyhow::Result<Settings> {
        Ok(Settings {
            data_dir: options.data_dir(),
            run_dir: options.run_dir(),
            join: JoinConfig::new(options, &machine.node_name)?,
            labels: options.labels()?,
            log: options.log_policy()?,
            sysctls: options.allowed_sysctls()?,
            datapath: datapath_config(options, machine)?,
            object: crate::object::datapath_object()?,
            max_pods: options.max_pods.unwrap_or(MAX_PODS_DEFAULT),
            pod_pids: Some(options.pod_pids.unwrap_or(POD_PIDS_DEFAULT)).filter(|n| *n > 0),
            options: options.clone(),
        })
    }
}

/// Makes the directories and takes what only one agent may have: the lock and the health port.
pub(super) async fn claim(settings: &Settings) -> anyhow::Result<(Flock<File>, HealthListener)> {
    let Settings {
        data_dir, run_dir, ..
    } = settings;
    // Before anything is made and the control plane is asked: it would not help to join.
    Datapath::check_bpf_root(&settings.datapath.bpf_root)?;
    crate::files::private_dir(data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    crate::files::private_dir(run_dir)
        .with_context(|| format!("cannot make the run directory {}", run_dir.display()))?;
    let lock = lock(data_dir).await?;
    let listen = settings.options.health_listen.as_deref();
    let listener = HealthListener::bind(listen.unwrap_or(HEALTH_LISTEN_DEFAULT)).await?;
    Ok((lock, listener))
}

/// One agent for each data directory.
async fn lock(data_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = data_dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let started = tokio::time::Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // The kernel needs a moment to close the files of an agent that was killed.
            Err((unlocked, _)) if started.elapsed() < LOCK_WITHIN => file = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => anyhow::bail!(
                "another agent uses {}; stop it, or give this one its own --data-dir and --run-dir",
                data_dir.display()
            ),
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

fn datapath_config(options: &RunOptions, machine: &Machine) -> Result<DatapathConfig, ConfigError> {
    let defaults = MapSizes::default();
    let wrong = |option, value: &str, what: &str| ConfigError::Value {
        option,
        value: value.to_owned(),
        what: what.to_owned(),
    };
    let log = match options.bpf_log.as_deref() {
        None | Some("off") => ProgramLog::Off,
        Some("warn") => ProgramLog::Warn,
        Some("debug") => ProgramLog::Debug,
        Some(other) => return Err(wrong("bpf-log", other, "is none of off, warn, debug")),
    };
    let tc_hook = match options.tc_hook.as_deref() {
        None | Some("auto") => TcHook::Auto,
        Some("classic") => TcHook::Classic,
        Some(other) => return Err(wrong("tc-hook", other, "is neither auto nor classic")),
    };
    Ok(DatapathConfig {
        bpf_root: options.bpf_root(),
        cgroup_root: machine.cgroups.unified_root(),
        uplinks: machine.uplinks.clone(),
        node_ip: machine.node_ip,
        cluster_cidr: None,
        node_ports: NODE_PORTS_DEFAULT,
        sizes: MapSizes {
            services: options.bpf_services.unwrap_or(defaults.services),
            backends: options.bpf_backends.unwrap_or(defaults.backends),
            tables: options.bpf_tables.unwrap_or(defaults.tables),
            affinity: options.bpf_affinity.unwrap_or(defaults.affinity),
            flows: options.bpf_flows.unwrap_or(defaults.flows),
            sockets: options.bpf_sockets.unwrap_or(defaults.sockets),
        },
        log,
        tc_hook,
    })
}
