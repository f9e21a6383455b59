// SPDX-License-Identifier: Apache-2.0
//! What the API server is told at start, and the traits by which it asks the rest of the control plane.
//!
//! knarr-control implements the traits. What is asked of nodes is in `streams`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Admit, NodeStreams, PeerIdentity};

/// Requests that read and are not watches or logs, at once. As kube-apiserver's `--max-requests-inflight`.
const READS_IN_FLIGHT_MAX: usize = 400;
/// Requests that write, at once. As kube-apiserver's `--max-mutating-requests-inflight`.
const WRITES_IN_FLIGHT_MAX: usize = 200;

/// The commit of a build that knows none.
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// Addresses and ports for Services. Only rules about ranges; what is taken the API server knows itself.
pub trait ServiceAllocator: Send + Sync + 'static {
    /// Whether a client may ask for this cluster IP. The message of a refusal is put after
    /// `spec.clusterIPs: Invalid value: ["1.2.3.4"]: `, e.g. `failed to allocate IP 1.2.3.4: the provided IP (1.2.3.4) is not in the valid range. The range of valid IPs is 10.96.0.0/12`.
    fn check_cluster_ip(&self, address: IpAddr) -> Result<(), String>;
    /// An address that `taken` denies, `None` when the range is full.
    fn next_cluster_ip(&self, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr>;
    /// Whether a client may ask for this node port. The message of a refusal is put after
    /// `spec.ports[0].nodePort: Invalid value: 80: `, e.g. `provided port is not in the valid range. The range of valid ports is 30000-32767`.
    fn check_node_port(&self, port: u16) -> Result<(), String>;
    /// A port that `taken` denies, `None` when the range is full.
    fn next_node_port(&self, taken: &dyn Fn(u16) -> bool) -> Option<u16>;
}

/// Proves bearer tokens.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Whose token this is; `None` for one that is unknown or has ended.
    async fn authenticate(&self, token: &str) -> Option<PeerIdentity>;
}

/// What the API server needs besides a store.
#[derive(Clone)]
#[non_exhaustive]
pub struct ApiConfig {
    /// Cluster IPs and node ports.
    pub services: Arc<dyn ServiceAllocator>,
    /// Logs of pods and streams into them.
    pub streams: Arc<dyn NodeStreams>,
    /// Bearer tokens; `None`: only certificates prove anything.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Admission links behind the API server's own, in order.
    pub admission: Vec<Arc<dyn Admit>>,
    /// `tolerationSeconds` of the default toleration of `node.kubernetes.io/not-ready`.
    pub not_ready_toleration_seconds: i64,
    /// `tolerationSeconds` of the default toleration of `node.kubernetes.io/unreachable`.
    pub unreachable_toleration_seconds: i64,
    /// Most reading requests at once, watches and logs not counted.
    pub reads_in_flight_max: usize,
    /// Most writing requests at once.
    pub writes_in_flight_max: usize,
    /// What `/version` says as `gitVersion`.
    pub git_version: String,
    /// What `/version` says as `gitCommit`: hexadecimal, as clients parse it.
    pub git_commit: String,
    /// What `/version` says as `gitTreeState`: `clean`, `dirty`, or nothing where it is not known.
    pub git_tree_state: String,
    /// What `/version` says as `buildDate`, in seconds since 1970.
    pub build_time_s: i64,
    /// Where clients reach this server; `/api` says it.
    pub advertised: Option<SocketAddr>,
}

impl ApiConfig {
    /// The usual bounds and times around these two hooks.
    #[must_use]
    pub fn new(services: Arc<dyn ServiceAllocator>, streams: Arc<dyn NodeStreams>) -> Self {
        Self {
            services,
            streams,
            authenticator: None,
            admission: Vec::new(),
            not_ready_toleration_seconds: 300,
            unreachable_toleration_seconds: 300,
            reads_in_flight_max: READS_IN_FLIGHT_MAX,
            writes_in_flight_max: WRITES_IN_FLIGHT_MAX,
            git_version: concat!("v1.37.0+knarr.", env!("CARGO_PKG_VERSION")).to_owned(),
            git_commit: NO_COMMIT.to_owned(),
            git_tree_state: String::new(),
            build_time_s: 0,
            advertised: None,
        }
    }
}
