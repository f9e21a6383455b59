// SPDX-License-Identifier: Apache-2.0
//! Why a pod fits nowhere, in the words of kube-scheduler v1.37.

use std::collections::BTreeMap;
use std::fmt;

/// Why one node does not take a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// `spec.unschedulable`, as `kubectl cordon` sets it.
    Unschedulable,
    /// A taint that the pod does not tolerate.
    Taint {
        /// `taint.key`
        key: Box<str>,
        /// `taint.value`
        value: Box<str>,
    },
    /// `nodeSelector` or required node affinity.
    Affinity,
    /// A wanted port of the node is taken.
    HostPorts,
    /// Not enough of a resource.
    Insufficient(Box<str>),
    /// The node runs as many pods as it may.
    TooManyPods,
    /// The pod asks for something that this scheduler cannot promise.
    Unsupported(Box<str>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint { key, value } => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::HostPorts => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Unsupported(what) => f.write_str(what),
        }
    }
}

/// Why no node takes a pod: how many nodes give which reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unschedulable {
    nodes: usize,
    reasons: BTreeMap<Reason, usize>,
}

impl Unschedulable {
    /// Counts one node's reasons.
    pub(super) fn add_node(&mut self, reasons: Vec<Reason>) {
        self.nodes += 1;
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut texts: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        texts.sort();
        write!(
            f,
            "0/{} nodes are available: {}.",
            self.nodes,
            texts.join(", ")
        )
    }
}
