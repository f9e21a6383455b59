// SPDX-License-Identifier: Apache-2.0
//! A range of pod addresses for each node, never one for two.
//!
//! [`PodCidrs`] is built from the Nodes that exist before anything is given out, so that a crash forgets
//! nothing; a range counts as taken from the moment it is planned.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::cidr::Cidr;

/// Ranges of nodes that are gone which are kept for them; the oldest is forgotten first.
const LEFT_MAX: usize = 256;

/// Which node has which part of the cluster's range.
#[derive(Debug, Clone)]
pub struct PodCidrs {
    cluster: Cidr,
    prefix: u8,
    owners: HashMap<u128, String>,
    of_node: HashMap<String, BTreeSet<u128>>,
    /// Nodes that are gone with the ranges they had, oldest first. A machine that joins again has pods with addresses of
    /// its range, so another node gets such a range only when no other one is left.
    left: VecDeque<(String, u128)>,
    /// Every index below this one is taken or left.
    hint: u128,
}

/// Why a node gets no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodCidrError {
    /// All are taken.
    #[error("CIDR allocation failed; there are no remaining CIDRs left to allocate in {cluster}")]
    Exhausted {
        /// The cluster's range.
        cluster: Cidr,
    },
    /// The cluster's range is smaller than a node's.
    #[error("a /{prefix} for each node does not fit into {cluster}")]
    TooSmall {
        /// The cluster's range.
        cluster: Cidr,
        /// Length of a node's prefix.
        prefix: u8,
    },
}

/// Another node has the same range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pod range {cidr} of node {node} is that of node {owner} too")]
pub struct Shared {
    /// The range.
    pub cidr: String,
    /// The node that was looked at.
    pub node: String,
    /// The node that had it before.
    pub owner: String,
}

impl PodCidrs {
    /// Nothing given out yet. `prefix` is the length of a node's prefix, such as 24.
    pub fn new(cluster: Cidr, prefix: u8) -> Result<Self, PodCidrError> {
        if cluster.subnet(0, prefix).is_none() {
            return Err(PodCidrError::TooSmall { cluster, prefix });
        }
        Ok(Self {
            cluster,
            prefix,
            owners: HashMap::new(),
            of_node: HashMap::new(),
            left: VecDeque::new(),
            hint: 0,
        })
    }

    /// A Node with the ranges that it has. Ranges outside the cluster's are not counted.
    pub fn observe(&mut self, node: &str, cidrs: &[String]) -> Result<(), Shared> {
        let mut shared = None;
        for text in cidrs {
            let Ok(cidr) = Cidr::parse_lenient(text) else {
                continue;
            };
            for index in self.cluster.positions(&cidr, self.prefix) {
                match self.owners.get(&index) {
                    Some(owner) if owner != node => {
                        let (node, owner) = (node.to_owned(), owner.clone());
                        shared = Some(Shared {
                            cidr: text.clone(),
                            node,
                            owner,
                        });
                    }
                    _ => self.take(node, index),
                }
            }
        }
        shared.map_or(Ok(()), Err)
    }

    fn take(&mut self, node: &str, index: u128) {
        self.left.retain(|(_, left)| *left != index);
        self.owners.insert(index, node.to_owned());
        self.of_node
            .entry(node.to_owned())
            .or_default()
            .insert(index);
    }

    /// The range for a node that has none; the same again until the node is gone, and afterwards while no other node
    /// needs it.
    pub fn assign(&mut self, node: &str) -> Result<String, PodCidrError> {
        let known = self
            .of_node
            .get(node)
            .and_then(|indices| indices.first().copied());
        let index = known
            .or_else(|| self.left_by(node))
            .or_else(|| self.first_free())
            .or_else(|| self.left.front().map(|(_, index)| *index));
        let cidr = index.and_then(|index| self.cluster.subnet(index, self.prefix));
        let (Some(index), Some(cidr)) = (index, cidr) else {
            return Err(PodCidrError::Exhausted {
                cluster: self.cluster,
            });
        };
        self.take(node, index);
        Ok(cidr.to_string())
    }

    fn left_by(&self, node: &str) -> Option<u128> {
        let own = self.left.iter().filter(|(name, _)| name == node);
        own.map(|(_, index)| *index).min()
    }

    fn first_free(&mut self) -> Option<u128> {
        let left: BTreeSet<u128> = self.left.iter().map(|(_, index)| *index).collect();
        while self.owners.contains_key(&self.hint) || left.contains(&self.hint) {
            self.hint += 1;
        }
        self.cluster
            .subnet(self.hint, self.prefix)
            .map(|_| self.hint)
    }

    /// A Node is gone: its ranges are free.
    pub fn release(&mut self, node: &str) {
        for index in self.of_node.remove(node).into_iter().flatten() {
            self.owners.remove(&index);
            self.left.push_back((node.to_owned(), index));
            if self.left.len() > LEFT_MAX
                && let Some((_, forgotten)) = self.left.pop_front()
            {
                self.hint = self.hint.min(forgotten);
            }
        }
    }
}

#[cfg(test)]
mod tests;
