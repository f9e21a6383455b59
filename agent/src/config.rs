// SPDX-License-Identifier: Apache-2.0
//! What the operator decides: flags, environment, and the same names in a TOML file. A flag wins over the
//! environment, the environment over the file, the file over the default.
//!
//! Not here: what is found out about the machine (`machine`). Called by `cli`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::Args;
use knarr_agent_plan::secret::Secret;
use knarr_agent_plan::sysctls::{AllowedSysctls, BadPattern};
use knarr_api::quantity::Quantity;
use knarr_pod::LogPolicy;
use serde::Deserialize;

/// Where an agent keeps what has to outlive a reboot.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/knarr";
/// Where an agent keeps what a reboot ends anyway.
pub const RUN_DIR_DEFAULT: &str = "/run/knarr";
/// Where the BPF file system is mounted.
pub const BPF_ROOT_DEFAULT: &str = "/sys/fs/bpf";
/// The kubelet's own health port.
pub const HEALTH_LISTEN_DEFAULT: &str = "127.0.0.1:10248";
/// kubelet's maxPods.
pub const MAX_PODS_DEFAULT: u32 = 110;
/// One pod cannot use up the node's process numbers.
pub const POD_PIDS_DEFAULT: i64 = 4096;

/// The smallest log file: a few of the longest lines.
const LOG_BYTES_MIN: u64 = 64 << 10;

/// Options of `run`, as given. Every one can stand in the configuration file under its long name; `image`,
/// `service` and `datapath` read the same file for those that they share.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RunOptions {
    /// Configuration file (TOML) that may hold every option below by its long name.
    #[arg(long, env = "KNARR_AGENT_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Address of the control plane. Required.
    #[arg(long, env = "KNARR_AGENT_SERVER", value_name = "https://HOST:6443")]
    pub server: Option<String>,

    /// Join token; needed until the node has its certificate. `knarr-control token create` prints one.
    #[arg(
        long,
        env = "KNARR_AGENT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub token: Option<Secret>,

    /// Hash of the cluster CA's public key, printed beside the token; needed for the first join.
    #[arg(long, env = "KNARR_AGENT_CA_HASH", value_name = "sha256:HEX")]
    pub ca_hash: Option<String>,

    /// Name of this node. [default: the host's name]
    #[arg(long, env = "KNARR_AGENT_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// IPv4 address of this node. [default: the one from which the control plane is reached]
    #[arg(long, env = "KNARR_AGENT_NODE_IP", value_name = "IP")]
    pub node_ip: Option<Ipv4Addr>,

    /// Link through which the outside arrives; may be given several times. [default: the link that has
    /// the node's address]
    #[arg(
        long,
        env = "KNARR_AGENT_UPLINK",
        value_name = "LINK",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub uplink: Vec<String>,

    /// A label for the Node object; may be given several times.
    #[arg(
        long,
        env = "KNARR_AGENT_NODE_LABEL",
        value_name = "KEY=VALUE",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub node_label: Vec<String>,

    /// Images, logs, certificate and the last desired state. [default: /var/lib/knarr]
    #[arg(long, env = "KNARR_AGENT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// State that a reboot ends anyway; best on tmpfs. [default: /run/knarr]
    #[arg(long, env = "KNARR_AGENT_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// Where the BPF file system is mounted. [default: /sys/fs/bpf]
    #[arg(long, env = "KNARR_AGENT_BPF_ROOT", value_name = "DIR")]
    pub bpf_root: Option<PathBuf>,

    /// The cgroup v2 directory that this node may use; pods live below it and Services act on everything
    /// below it. [default: where cgroup v2 is mounted]
    #[arg(long, env = "KNARR_AGENT_CGROUP_ROOT", value_name = "PATH")]
    pub cgroup_root: Option<PathBuf>,

    /// Address or unix socket path of /healthz and /metrics; `off` for none. [default: 127.0.0.1:10248]
    #[arg(long, env = "KNARR_AGENT_HEALTH_LISTEN", value_name = "ADDR")]
    pub health_listen: Option<String>,

    /// Most pods this node takes. [default: 110]
    #[arg(long, env = "KNARR_AGENT_MAX_PODS", value_name = "N")]
    pub max_pods: Option<u32>,

    /// A sysctl that pods may set beside the safe ones, or the beginning of such with * at its end, e.g. kernel.msg*; may
    /// be given several times. [default: none]
    #[arg(
        long,
        env = "KNARR_AGENT_ALLOWED_UNSAFE_SYSCTLS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_many")]
    pub allowed_unsafe_sysctls: Vec<String>,

    /// Most processes and threads of one pod; 0 for no limit. [default: 4096]
    #[arg(long, env = "KNARR_AGENT_POD_PIDS", value_name = "N")]
    pub pod_pids: Option<i64>,

    /// Size at which a container's log file is rotated, e.g. 10Mi. [default: 10Mi]
    #[arg(
        long,
        env = "KNARR_AGENT_CONTAINER_LOG_MAX_SIZE",
        value_name = "QUANTITY"
    )]
    pub container_log_max_size: Option<String>,

    /// Most log files of one attempt of a container, at least 2; the attempt before keeps as many. [default: 5]
    #[arg(long, env = "KNARR_AGENT_CONTAINER_LOG_MAX_FILES", value_name = "N")]
    pub container_log_max_files: Option<u32>,

    /// CPU kept from pods, e.g. 100m. [default: 0]
    #[arg(long, env = "KNARR_AGENT_RESERVED_CPU", value_name = "QUANTITY")]
    pub reserved_cpu: Option<String>,

    /// Memory kept from pods, e.g. 256Mi. [default: 0]
    #[arg(long, env = "KNARR_AGENT_RESERVED_MEMORY", value_name = "QUANTITY")]
    pub reserved_memory: Option<String>,

    /// Most service ports in the eBPF maps, which begin small and grow to this. [default: 131072]
    #[arg(long, env = "KNARR_AGENT_BPF_SERVICES", value_name = "N")]
    pub bpf_services: Option<u32>,

    /// Most endpoints in the eBPF maps, which begin small and grow to this. [default: 524288]
    #[arg(long, env = "KNARR_AGENT_BPF_BACKENDS", value_name = "N")]
    pub bpf_backends: Option<u32>,

    /// Most chunks of consistent hash tables in the eBPF maps, which begin small and grow to this. [default: 262144]
    #[arg(long, env = "KNARR_AGENT_BPF_TABLES", value_name = "N")]
    pub bpf_tables: Option<u32>,

    /// Most clients remembered for sessionAffinity; room is made with the first such Service. [default: 65536]
    #[arg(long, env = "KNARR_AGENT_BPF_AFFINITY", value_name = "N")]
    pub bpf_affinity: Option<u32>,

    /// Most flows from outside; room is made with the first NodePort. [default: 65536]
    #[arg(long, env = "KNARR_AGENT_BPF_FLOWS", value_name = "N")]
    pub bpf_flows: Option<u32>,
    /// Most sockets connected to a Service whose getpeername() answers the Service. [default: 65536]
    #[arg(long, env = "KNARR_AGENT_BPF_SOCKETS", value_name = "N")]
    pub bpf_sockets: Option<u32>,

    /// What the eBPF programs write into this log: off, warn or debug. [default: off]
    #[arg(long, env = "KNARR_AGENT_BPF_LOG", value_name = "LEVEL")]
    pub bpf_log: Option<String>,

    /// How packet programs are attached: auto or classic. [default: auto]
    #[arg(long, env = "KNARR_AGENT_TC_HOOK", value_name = "HOOK")]
    pub tc_hook: Option<String>,

    /// What is logged, as a tracing filter, e.g. info or knarr_agent=debug. [default: info]
    #[arg(long, env = "KNARR_AGENT_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// A list in the file may be a single text.
fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(d)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML or names an option that does not exist.
    #[error("the configuration file {path} is wrong")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// An option that has no default is missing.
    #[error("--{option} is missing; {help}")]
    Missing {
        /// Long name.
        option: &'static str,
        /// What to do.
        help: &'static str,
    },
    /// A value means nothing.
    #[error("--{option}: {value:?} {what}")]
    Value {
        /// Long name.
        option: &'static str,
        /// As given.
        value: String,
        /// What is wrong with it.
        what: String,
    },
}

impl RunOptions {
    /// Puts the file's values where neither flag nor environment says anything.
    pub fn with_file(self) -> Result<RunOptions, ConfigError> {
        let Some(path) = self.config.clone() else {
            return Ok(self);
        };
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        let file: RunOptions = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path,
            source: Box::new(source),
        })?;
        Ok(self.or(file))
    }

    fn or(self, file: RunOptions) -> RunOptions {
        let list = |own: Vec<String>, other: Vec<String>| if own.is_empty() { other } else { own };
        RunOptions {
            config: self.config,
            server: self.server.or(file.server),
            token: self.token.or(file.token),
            ca_hash: self.ca_hash.or(file.ca_hash),
            node_name: self.node_name.or(file.node_name),
            node_ip: self.node_ip.or(file.node_ip),
            uplink: list(self.uplink, file.uplink),
            node_label: list(self.node_label, file.node_label),
            data_dir: self.data_dir.or(file.data_dir),
            run_dir: self.run_dir.or(file.run_dir),
            bpf_root: self.bpf_root.or(file.bpf_root),
            cgroup_root: self.cgroup_root.or(file.cgroup_root),
            health_listen: self.health_listen.or(file.health_listen),
            max_pods: self.max_pods.or(file.max_pods),
            allowed_unsafe_sysctls: list(self.allowed_unsafe_sysctls, file.allowed_unsafe_sysctls),
            pod_pids: self.pod_pids.or(file.pod_pids),
            container_log_max_size: self.container_log_max_size.or(file.container_log_max_size),
            container_log_max_files: self
                .container_log_max_files
                .or(file.container_log_max_files),
            reserved_cpu: self.reserved_cpu.or(file.reserved_cpu),
            reserved_memory: self.reserved_memory.or(file.reserved_memory),
            bpf_services: self.bpf_services.or(file.bpf_services),
            bpf_backends: self.bpf_backends.or(file.bpf_backends),
            bpf_tables: self.bpf_tables.or(file.bpf_tables),
            bpf_affinity: self.bpf_affinity.or(file.bpf_affinity),
            bpf_flows: self.bpf_flows.or(file.bpf_flows),
            bpf_sockets: self.bpf_sockets.or(file.bpf_sockets),
            bpf_log: self.bpf_log.or(file.bpf_log),
            tc_hook: self.tc_hook.or(file.tc_hook),
            log: self.log.or(file.log),
        }
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        path_or(&self.data_dir, DATA_DIR_DEFAULT)
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        path_or(&self.run_dir, RUN_DIR_DEFAULT)
    }

    /// The BPF file system.
    pub fn bpf_root(&self) -> PathBuf {
        path_or(&self.bpf_root, BPF_ROOT_DEFAULT)
    }

    /// The control plane's host and port.
    pub fn server(&self) -> Result<Server, ConfigError> {
        let text = self.server.as_deref().ok_or(ConfigError::Missing {
            option: "server",
            help: "give the control plane's address, e.g. --server https://10.0.0.1:6443 (the whole \
                   join command is printed by `knarr-control token create` there)",
        })?;
        Server::parse(text).ok_or_else(|| ConfigError::Value {
            option: "server",
            value: text.to_owned(),
            what: "is no address such as https://10.0.0.1:6443".to_owned(),
        })
    }

    /// What pods may set.
    pub fn allowed_sysctls(&self) -> Result<AllowedSysctls, ConfigError> {
        AllowedSysctls::with(&self.allowed_unsafe_sysctls).map_err(|bad| {
            let BadPattern { pattern, error } = bad;
            ConfigError::Value {
                option: "allowed-unsafe-sysctls",
                value: pattern,
                what: error.to_string(),
            }
        })
    }

    /// How much of containers' logs is kept.
    pub fn log_policy(&self) -> Result<LogPolicy, ConfigError> {
        let wrong = |option, value: &dyn ToString, what: String| ConfigError::Value {
            option,
            value: value.to_string(),
            what,
        };
        let mut policy = LogPolicy::default();
        if let Some(text) = &self.container_log_max_size {
            let option = "container-log-max-size";
            let size = text.parse::<Quantity>();
            let size = size.map_err(|e| wrong(option, text, format!("is no quantity: {e}")))?;
            policy.file_bytes_max = u64::try_from(size.value())
                .ok()
                .filter(|bytes| *bytes >= LOG_BYTES_MIN)
                .ok_or_else(|| {
                    wrong(option, text, format!("is less than {LOG_BYTES_MIN} bytes"))
                })?;
        }
        if let Some(files) = self.container_log_max_files {
            if files < 2 {
                let what = "is less than 2: one is written while the other is kept".to_owned();
                return Err(wrong("container-log-max-files", &files, what));
            }
            policy.files_max = files;
        }
        Ok(policy)
    }

    /// Labels as pairs.
    pub fn labels(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let pair = |label: &String| {
            let (key, value) = label.split_once('=').ok_or_else(|| ConfigError::Value {
                option: "node-label",
                value: label.clone(),
                what: "is not of the form KEY=VALUE".to_owned(),
            })?;
            Ok((key.to_owned(), value.to_owned()))
        };
        self.node_label.iter().map(pair).collect()
    }
}

fn path_or(path: &Option<PathBuf>, default: &str) -> PathBuf {
    path.clone()
        .unwrap_or_else(|| Path::new(default).to_owned())
}

/// Where the control plane listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The API server's port where the address names none.
const SERVER_PORT_DEFAULT: u16 = 6443;

impl Server {
    /// Reads `https://HOST[:PORT]`; the scheme may be left out.
    pub fn parse(text: &str) -> Option<Server> {
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => return None,
            None => text,
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = if let Some(v6) = rest.strip_prefix('[') {
            let (host, tail) = v6.split_once(']')?;
            (host, tail.strip_prefix(':'))
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|p| *p != 0)?,
            None => SERVER_PORT_DEFAULT,
        };
        let plain = !host.is_empty() && !host.contains(['/', ' ', '@']);
        plain.then(|| Server {
            host: host.to_owned(),
            port,
        })
    }

    /// `HOST:PORT` as sockets want it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests;
