// SPDX-License-Identifier: Apache-2.0
//! A range of pod addresses for each node, never one for two.
//!
//! [`PodCidrs`] is built from the Nodes that exist before anything is given out, so that a crash forgets
//! nothing; a range counts as taken from the moment it is planned.

use std::collections::{BTreeSet, HashMap};

use crate::cidr::Cidr;

/// Which node has which part of the cluster's range.
#[derive(Debug, Clone)]
pub struct PodCidrs {
    cluster: Cidr,
    prefix: u8,
    owners: HashMap<u128, String>,
    of_node: HashMap<String, BTreeSet<u128>>,
    /// Every index below this one is taken.
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
            hint: 0,
        })
    }

    /// A Node with the ranges that it has. Ranges outside the cluster's are not ours to count.
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
        self.owners.insert(index, node.to_owned());
        self.of_node
            .entry(node.to_owned())
            .or_default()
            .insert(index);
    }

    /// The range for a node that has none; the same again until the node is gone.
    pub fn assign(&mut self, node: &str) -> Result<String, PodCidrError> {
        let known = self
            .of_node
            .get(node)
            .and_then(|indices| indices.first().copied());
        let index = match known {
            Some(index) => index,
            None => {
                let mut index = self.hint;
                while self.owners.contains_key(&index) {
                    index += 1;
                }
                self.hint = index;
                index
            }
        };
        let Some(cidr) = self.cluster.subnet(index, self.prefix) else {
            return Err(PodCidrError::Exhausted {
                cluster: self.cluster,
            });
        };
        self.take(node, index);
        Ok(cidr.to_string())
    }

    /// A Node is gone: its ranges are free.
    pub fn release(&mut self, node: &str) {
        for index in self.of_node.remove(node).into_iter().flatten() {
            self.owners.remove(&index);
            self.hint = self.hint.min(index);
        }
    }
}

#[cfg(test)]
mod tests;
