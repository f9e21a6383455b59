// SPDX-License-Identifier: Apache-2.0
//! Surface of the loader; bodies follow.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use knarr_ebpf_common::{MapContents, MapOp};

use crate::{DatapathConfig, DatapathError};

/// The loaded, pinned and attached datapath. Blocking calls, each far below a millisecond except `open`.
#[derive(Debug)]
pub struct Datapath {}

impl Datapath {
    /// Loads the programs from an object file's bytes, adopts pinned maps, swaps attached programs in place.
    pub fn open(_config: &DatapathConfig, _object: &[u8]) -> Result<Self, DatapathError> {
        Ok(Self {})
    }
    /// Carries out operations in order. A full map is reported after everything else was done.
    pub fn apply(&mut self, _ops: &[MapOp]) -> Result<(), DatapathError> {
        Ok(())
    }
    /// What the maps hold, for `ServiceTable::restore`.
    pub fn restore(&self) -> Result<MapContents, DatapathError> {
        Ok(MapContents::default())
    }
    /// Changes the NodePort range (from the feed's Welcome).
    pub fn set_node_ports(&mut self, _first: u16, _last: u16) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Reads the addresses of this network namespace again: NodePorts hold on them.
    pub fn refresh_node_addresses(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Tells the socket programs whose sockets those of a network namespace are.
    pub fn set_pod(
        &mut self,
        _netns: BorrowedFd<'_>,
        _pod_ip: Ipv4Addr,
    ) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Forgets pods whose address is not in the list.
    pub fn retain_pods(&mut self, _pod_ips: &[Ipv4Addr]) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Sums of the programs' statistics, by name.
    pub fn stats(&self) -> Result<Vec<(&'static str, u64)>, DatapathError> {
        Ok(Vec::new())
    }
    /// Entries and sizes of the maps: (name, entries, max entries). Walks the maps.
    pub fn usage(&self) -> Result<Vec<(&'static str, u32, u32)>, DatapathError> {
        Ok(Vec::new())
    }
    /// Carries the programs' own log lines into `tracing` until dropped; does nothing when the log is off.
    pub async fn forward_logs(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }
}
