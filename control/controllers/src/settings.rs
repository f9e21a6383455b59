// SPDX-License-Identifier: Apache-2.0
//! What the control plane's configuration says to controllers, and what it lends them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use knarr_control_plan::pod_cidr::PodCidrs;

/// When nodes were last heard. The node feed knows.
pub trait Heartbeats: Send + Sync + 'static {
    /// How long ago a node's last heartbeat was. For a node without one in this process this counts from the first call.
    fn silence(&self, node: &str) -> Duration;
    /// The node does not belong to the cluster any more.
    fn forget(&self, node: &str);
}

/// The settings of all controllers.
#[derive(Clone)]
pub struct Settings {
    /// When nodes were last heard.
    pub heartbeats: Arc<dyn Heartbeats>,
    /// How long a node may send no heartbeat before it counts as lost.
    pub node_monitor_grace_period: Duration,
    /// The ranges of pod addresses, none of them assigned.
    pub pod_cidrs: PodCidrs,
    /// The cluster's CA certificates, for pods.
    pub ca_pem: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("node_monitor_grace_period", &self.node_monitor_grace_period)
            .finish_non_exhaustive()
    }
}
