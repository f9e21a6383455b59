// SPDX-License-Identifier: Apache-2.0
//! What a control plane is told at start: flags, then environment, then the config file, then defaults.
//!
//! [`Settings`] is what somebody wrote, in any of these places; [`Config`] is what it comes to, checked.

mod values;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_apiserver::serve::ANONYMOUS_CONNECTIONS_MAX;
use knarr_control_plan::cidr::Cidr;
use knarr_store::HISTORY_BYTES;
use serde::Deserialize;

pub use values::{Period, Ports, Size, ValueError};

/// Where a control plane keeps everything unless told otherwise.
pub const DATA_DIR: &str = "/var/lib/knarr-control";
/// The port of the API and the node feed.
pub const PORT: u16 = 6443;
/// How often a node shows that it lives; a quarter of the default grace period, as Kubernetes.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// A node certificate lives as long as Kubernetes' own by default: a year.
const NODE_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// No node certificate is shorter than this: renewal needs time before its end.
const NODE_CERTIFICATE_LIFETIME_MIN: Duration = Duration::from_secs(60);
/// With less, a few machines that join would hold up each other; with more, too few of the server's connections would be
/// left for clients with certificates.
const ANONYMOUS_CONNECTIONS_RANGE: std::ops::RangeInclusive<usize> = 64..=4096;
/// Less history than this does not hold a few versions of the largest objects.
const HISTORY_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Bits of a pod range of one node.
pub(crate) const NODE_PREFIX: u8 = 24;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The flags of `serve`; in the config file each stands by its long name, and those of `token` beside them.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// TOML file that holds any of these flags by their long names; flags and environment go first
    #[arg(long, env = "KNARR_CONTROL_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where the store, the CA and the certificates are kept [default: /var/lib/knarr-control]
    #[arg(long, env = "KNARR_CONTROL_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Address and port to serve on; can be repeated. Sockets handed over by systemd (LISTEN_FDS) are
    /// served as well, and instead of the default [default: 0.0.0.0:6443]
    #[arg(
        long,
        env = "KNARR_CONTROL_LISTEN",
        value_name = "ADDR:PORT",
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,

    /// Address at which nodes and pods reach this machine [default: the first --listen that is no
    /// wildcard, else the address of the default route]
    #[arg(long, env = "KNARR_CONTROL_ADVERTISE_ADDRESS", value_name = "ADDR")]
    pub advertise_address: Option<IpAddr>,

    /// URL written to the admin kubeconfig and to join lines [default: https://ADVERTISE-ADDRESS:PORT]
    #[arg(long, env = "KNARR_CONTROL_ADVERTISE_URL", value_name = "URL")]
    pub advertise_url: Option<String>,

    /// Further name or address for the server's certificate; can be repeated
    #[arg(
        long,
        env = "KNARR_CONTROL_TLS_SAN",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub tls_san: Vec<String>,

    /// Range of Service addresses [default: 10.96.0.0/12]
    #[arg(long, env = "KNARR_CONTROL_SERVICE_CIDR", value_name = "CIDR")]
    pub service_cidr: Option<Cidr>,

    /// Range of pod addresses; every node gets a /24 of it [default: 10.244.0.0/16]
    #[arg(long, env = "KNARR_CONTROL_CLUSTER_CIDR", value_name = "CIDR")]
    pub cluster_cidr: Option<Cidr>,

    /// Range of node ports [default: 30000-32767]
    #[arg(long, env = "KNARR_CONTROL_NODE_PORT_RANGE", value_name = "FIRST-LAST")]
    pub node_port_range: Option<Ports>,

    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long, env = "KNARR_CONTROL_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,

    /// How long a node may be silent before it counts as unreachable [default: 40s]
    #[arg(
        long,
        env = "KNARR_CONTROL_NODE_MONITOR_GRACE_PERIOD",
        value_name = "TIME"
    )]
    pub node_monitor_grace_period: Option<Period>,

    /// How often a node shows that it lives [default: 10s, at most a quarter of the grace period]
    #[arg(
        long,
        env = "KNARR_CONTROL_NODE_HEARTBEAT_INTERVAL",
        value_name = "TIME"
    )]
    pub node_heartbeat_interval: Option<Period>,

    /// How long a pod stays on a node that is not ready, unless it says so itself [default: 300]
    #[arg(
        long,
        env = "KNARR_CONTROL_DEFAULT_NOT_READY_TOLERATION_SECONDS",
        value_name = "SECONDS"
    )]
    pub default_not_ready_toleration_seconds: Option<i64>,

    /// How long a pod stays on a node that is unreachable, unless it says so itself [default: 300]
    #[arg(
        long,
        env = "KNARR_CONTROL_DEFAULT_UNREACHABLE_TOLERATION_SECONDS",
        value_name = "SECONDS"
    )]
    pub default_unreachable_toleration_seconds: Option<i64>,

    /// How long a node's certificate lasts; nodes renew theirs before that [default: 8760h]
    #[arg(
        long,
        env = "KNARR_CONTROL_NODE_CERTIFICATE_LIFETIME",
        value_name = "TIME"
    )]
    pub node_certificate_lifetime: Option<Period>,

    /// How many connections at once may be without a valid client certificate; one source address may have an eighth of
    /// them. Connections with a certificate do not count. Raise it where many machines behind one address join at
    /// once, or where a proxy hides who connects [default: 512]
    #[arg(
        long,
        env = "KNARR_CONTROL_ANONYMOUS_CONNECTIONS_MAX",
        value_name = "COUNT"
    )]
    pub anonymous_connections_max: Option<u16>,

    /// Space on the disk for overwritten and deleted objects. They are kept for five to ten minutes, within which a
    /// list can be read on page by page and a watch resumed; where so many change that they need more than this,
    /// the oldest go earlier [default: 256Mi]
    #[arg(long, env = "KNARR_CONTROL_HISTORY_BYTES", value_name = "SIZE")]
    pub history_bytes: Option<Size>,

    /// What is logged: a level, or tracing's filter such as info,knarr_control=debug [default: info]
    #[arg(long, env = "KNARR_CONTROL_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// How log lines look [default: text]
    #[arg(long, env = "KNARR_CONTROL_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// No flag of `serve`: `--server` of `token`, which reads the same file.
    #[arg(skip)]
    pub server: Option<String>,
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The config file cannot be read.
    #[error("cannot read the config file {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The config file says something that is no flag or has a wrong value.
    #[error("the config file {path} is wrong", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Two values do not fit together.
    #[error("{0}")]
    Conflict(String),
}

impl Settings {
    /// Fills what is not set from the config file, if one is named.
    pub fn with_file(self) -> Result<Self, ConfigError> {
        let Some(path) = self.config.clone() else {
            return Ok(self);
        };
        let file = read_file(&path)?;
        Ok(self.or(file))
    }

    /// These settings, and where they say nothing, those of `other`.
    fn or(self, other: Self) -> Self {
        fn list<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
            if first.is_empty() { second } else { first }
        }
        Self {
            config: self.config,
            data_dir: self.data_dir.or(other.data_dir),
            listen: list(self.listen, other.listen),
            advertise_address: self.advertise_address.or(other.advertise_address),
            advertise_url: self.advertise_url.or(other.advertise_url),
            tls_san: list(self.tls_san, other.tls_san),
            service_cidr: self.service_cidr.or(other.service_cidr),
            cluster_cidr: self.cluster_cidr.or(other.cluster_cidr),
            node_port_range: self.node_port_range.or(other.node_port_range),
            cluster_domain: self.cluster_domain.or(other.cluster_domain),
            node_monitor_grace_period: self
                .node_monitor_grace_period
                .or(other.node_monitor_grace_period),
            node_heartbeat_interval: self
                .node_heartbeat_interval
                .or(other.node_heartbeat_interval),
            default_not_ready_toleration_seconds: self
                .default_not_ready_toleration_seconds
                .or(other.default_not_ready_toleration_seconds),
            default_unreachable_toleration_seconds: self
                .default_unreachable_toleration_seconds
                .or(other.default_unreachable_toleration_seconds),
            node_certificate_lifetime: self
                .node_certificate_lifetime
                .or(other.node_certificate_lifetime),
            anonymous_connections_max: self
                .anonymous_connections_max
                .or(other.anonymous_connections_max),
            history_bytes: self.history_bytes.or(other.history_bytes),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            server: self.server.or(other.server),
        }
    }

    /// Where everything is kept.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(DATA_DIR))
    }

    /// Fills in the defaults and checks what has to fit together. `served` are the addresses of sockets
    /// that were made by somebody else.
    pub fn resolve(self, served: &[SocketAddr]) -> Result<Config, ConfigError> {
        let mut listen = self.listen.clone();
        if listen.is_empty() && served.is_empty() {
            listen.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)));
        }
        if let Some(address) = listen.iter().find(|address| address.port() == 0) {
            return Err(conflict(format!(
                "--listen {address}: the port must be named, because certificates and endpoints name it too"
            )));
        }
        let all: Vec<SocketAddr> = listen.iter().chain(served).copied().collect();
        let advertise_address = self
            .advertise_address
            .unwrap_or_else(|| reachable_address(&all));
        let port = all
            .iter()
            .find(|listen| listen.ip() == advertise_address || listen.ip().is_unspecified())
            .or(all.first())
            .map_or(PORT, SocketAddr::port);
        let advertise_url = self
            .advertise_url
            .unwrap_or_else(|| format!("https://{}", SocketAddr::new(advertise_address, port)));
        if !advertise_url.starts_with("https://") {
            return Err(conflict(format!(
                "--advertise-url {advertise_url} must start with https://"
            )));
        }
        let grace = self
            .node_monitor_grace_period
            .map_or(Duration::from_secs(40), |period| period.0);
        let heartbeat = self
            .node_heartbeat_interval
            .map_or(HEARTBEAT.min(grace / 4), |period| period.0)
            .max(Duration::from_secs(1));
        if heartbeat * 2 > grace {
            return Err(conflict(format!(
                "--node-heartbeat-interval {heartbeat:?} is more than half of --node-monitor-grace-period \
                 {grace:?}: one late heartbeat would make a node unreachable"
            )));
        }
        let config = Config {
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR)),
            listen,
            advertise_address,
            advertise_port: port,
            advertise_url: advertise_url.trim_end_matches('/').to_owned(),
            tls_san: self.tls_san,
            service_cidr: self
                .service_cidr
                .map_or_else(|| default("10.96.0.0/12"), Ok)?,
            cluster_cidr: self
                .cluster_cidr
                .map_or_else(|| default("10.244.0.0/16"), Ok)?,
            node_ports: self
                .node_port_range
                .map_or_else(|| default("30000-32767"), Ok)?,
            cluster_domain: self
                .cluster_domain
                .unwrap_or_else(|| "cluster.local".to_owned()),
            node_monitor_grace_period: grace,
            heartbeat,
            not_ready_toleration_seconds: self.default_not_ready_toleration_seconds.unwrap_or(300),
            unreachable_toleration_seconds: self
                .default_unreachable_toleration_seconds
                .unwrap_or(300),
            node_certificate_lifetime: self
                .node_certificate_lifetime
                .map_or(NODE_CERTIFICATE_LIFETIME, |period| period.0),
            anonymous_connections_max: self
                .anonymous_connections_max
                .map_or(ANONYMOUS_CONNECTIONS_MAX, usize::from),
            history_bytes: self.history_bytes.map_or(HISTORY_BYTES, |size| size.0),
        };
        config.check()?;
        Ok(config)
    }
}

fn default<T: std::str::FromStr<Err: std::error::Error>>(text: &str) -> Result<T, ConfigError> {
    text.parse()
        .map_err(|error: T::Err| conflict(error.to_string()))
}

fn conflict(message: String) -> ConfigError {
    ConfigError::Conflict(message)
}

/// The settings in a config file.
pub fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// The address that others most likely reach this machine at.
fn reachable_address(listen: &[SocketAddr]) -> IpAddr {
    let specific = |loopback_too| {
        listen
            .iter()
            .map(SocketAddr::ip)
            .find(|ip| !ip.is_unspecified() && (loopback_too == ip.is_loopback()))
    };
    if let Some(address) = specific(false) {
        return address;
    }
    if listen.iter().any(|listen| listen.ip().is_unspecified())
        && let Some(address) = default_route_source()
    {
        return address;
    }
    specific(true).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The address this machine has towards the default route. Connecting a datagram socket sends nothing.
fn default_route_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 of RFC 5737: routed like any foreign address, and nobody's.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// A complete, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the store, the CA and the certificates are kept.
    pub data_dir: PathBuf,
    /// Addresses to bind.
    pub listen: Vec<SocketAddr>,
    /// The endpoint of the Service `default/kubernetes`.
    pub advertise_address: IpAddr,
    /// Its port.
    pub advertise_port: u16,
    /// For kubeconfig and join lines.
    pub advertise_url: String,
    /// Further names of the server's certificate.
    pub tls_san: Vec<String>,
    /// Range of Service addresses.
    pub service_cidr: Cidr,
    /// Range of pod addresses.
    pub cluster_cidr: Cidr,
    /// Range of node ports.
    pub node_ports: Ports,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// How long a node may be silent.
    pub node_monitor_grace_period: Duration,
    /// How often a node shows that it lives.
    pub heartbeat: Duration,
    /// `tolerationSeconds` of the default toleration of `not-ready`.
    pub not_ready_toleration_seconds: i64,
    /// `tolerationSeconds` of the default toleration of `unreachable`.
    pub unreachable_toleration_seconds: i64,
    /// How long a node's certificate lasts.
    pub node_certificate_lifetime: Duration,
    /// Connections at once without a valid client certificate.
    pub anonymous_connections_max: usize,
    /// Bytes of the store's file for what was overwritten or deleted.
    pub history_bytes: u64,
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let (services, pods) = (self.service_cidr, self.cluster_cidr);
        for (flag, range) in [("--service-cidr", services), ("--cluster-cidr", pods)] {
            if range.first().is_ipv6() {
                return Err(conflict(format!(
                    "{flag} {range}: IPv6 ranges are not supported by this version"
                )));
            }
        }
        if services.overlaps(&pods) {
            return Err(conflict(format!(
                "--service-cidr {services} and --cluster-cidr {pods} overlap"
            )));
        }
        if services.size() < 4 {
            return Err(conflict(format!(
                "--service-cidr {services} is too small: it needs four addresses or more"
            )));
        }
        if pods.prefix() > NODE_PREFIX {
            return Err(conflict(format!(
                "--cluster-cidr {pods} is too small: every node needs a /{NODE_PREFIX} of it"
            )));
        }
        if self.node_certificate_lifetime < NODE_CERTIFICATE_LIFETIME_MIN {
            return Err(conflict(format!(
                "--node-certificate-lifetime must be at least {NODE_CERTIFICATE_LIFETIME_MIN:?}"
            )));
        }
        if !ANONYMOUS_CONNECTIONS_RANGE.contains(&self.anonymous_connections_max) {
            return Err(conflict(format!(
                "--anonymous-connections-max {} must be from {} to {}: the rest of the server's 8192 connections is \
                 kept for clients with certificates",
                self.anonymous_connections_max,
                ANONYMOUS_CONNECTIONS_RANGE.start(),
                ANONYMOUS_CONNECTIONS_RANGE.end(),
            )));
        }
        if self.history_bytes < HISTORY_BYTES_MIN {
            return Err(conflict(format!(
                "--history-bytes must be at least {HISTORY_BYTES_MIN}: less does not hold one change of the largest objects"
            )));
        }
        for seconds in [
            self.not_ready_toleration_seconds,
            self.unreachable_toleration_seconds,
        ] {
            if seconds < 0 {
                return Err(conflict(
                    "the default toleration seconds must not be negative".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Where programs on this machine reach the API, which is not always where others do.
    #[must_use]
    pub fn local_url(&self) -> String {
        let Some(mut listen) = self.listen.first().copied() else {
            return self.advertise_url.clone();
        };
        if listen.ip().is_unspecified() {
            listen.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        format!("https://{listen}")
    }

    /// The address of the Service `default/kubernetes`: the first of the range.
    #[must_use]
    pub fn kubernetes_service_address(&self) -> IpAddr {
        // A range has four addresses or more, see `check`.
        self.service_cidr
            .at(1)
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

#[cfg(test)]
mod tests;
