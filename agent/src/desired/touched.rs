// SPDX-License-Identifier: Apache-2.0
//! Which parts of the desired state changed since somebody looked.

use std::collections::BTreeSet;

use super::{PackedKey, ServiceKey};

/// For the pod workers.
#[derive(Debug, Default)]
pub struct TouchedPods {
    /// UIDs of pods that were set or removed.
    pub uids: BTreeSet<String>,
    /// Namespaces whose ConfigMaps or Secrets changed.
    pub namespaces: BTreeSet<String>,
    /// Everything.
    pub all: bool,
    /// The desired set has become complete: what nobody asked for may go.
    pub complete: bool,
}

impl TouchedPods {
    pub(super) fn pod(&mut self, uid: String) {
        self.uids.insert(uid);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.namespaces.is_empty() && !self.all && !self.complete
    }
}

/// For the Service loop.
#[derive(Debug, Default)]
pub struct TouchedServices {
    /// Services that were set or removed.
    pub services: BTreeSet<ServiceKey>,
    /// Endpoints that were set or removed.
    pub(super) endpoints: BTreeSet<PackedKey>,
    /// Some peer changed.
    pub peers: bool,
    /// The desired set has become complete.
    pub complete: bool,
}

impl TouchedServices {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.endpoints.is_empty() && !self.peers && !self.complete
    }
}
