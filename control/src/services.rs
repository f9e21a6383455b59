// SPDX-License-Identifier: Apache-2.0
//! Gives Services addresses and ports of the configured ranges.
//!
//! Implements a trait of `knarr_apiserver::ApiConfig`; wired by `lib.rs`. Which are given out is decided in
//! `knarr_control_plan::service_addresses`, what is taken the API server knows; here is the chance alone.

use std::net::IpAddr;

use knarr_apiserver::ServiceAllocator;
use knarr_control_plan::cidr::Cidr;
use knarr_control_plan::service_addresses::{
    check_cluster_ip, check_node_port, plan_cluster_ip, plan_node_port,
};
use rand::Rng;

use crate::config::Ports;

/// Gives out cluster IPs and node ports from the configured ranges.
#[derive(Debug, Clone, Copy)]
pub struct ServiceRanges {
    /// Cluster IPs.
    pub addresses: Cidr,
    /// Node ports.
    pub ports: Ports,
}

impl ServiceAllocator for ServiceRanges {
    fn check_cluster_ip(&self, address: IpAddr) -> Result<(), String> {
        check_cluster_ip(&self.addresses, address).map_err(|error| error.to_string())
    }

    fn next_cluster_ip(&self, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        plan_cluster_ip(&self.addresses, rand::rng().random(), taken)
    }

    fn check_node_port(&self, port: u16) -> Result<(), String> {
        check_node_port(&self.ports.range(), port).map_err(|error| error.to_string())
    }

    fn next_node_port(&self, taken: &dyn Fn(u16) -> bool) -> Option<u16> {
        plan_node_port(&self.ports.range(), rand::rng().random(), taken)
    }
}
