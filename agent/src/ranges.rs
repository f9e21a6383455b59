// SPDX-License-Identifier: Apache-2.0
//! The ranges that the control plane decides, as the node's network needs them: read once, in one way, for the
//! start and for every later Welcome.
//!
//! Not here: the node's own pod range (`pods/ipam`). Made by `feed`, which tells what is refused, by `start` and
//! by `services`.

use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};
use knarr_api::feed::Welcome;

/// What of a Welcome is for the node's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRanges {
    /// All pods of the cluster.
    pub pods: Vec<Ipv4Net>,
    /// All Services.
    pub services: Vec<Ipv4Net>,
    /// NodePorts. None where the control plane says nothing, or nothing that can be.
    pub node_ports: Option<RangeInclusive<u16>>,
    /// What was sent and is not in the others. The rest is used all the same: one range of a kind that this
    /// agent does not know takes no Service and no pod away.
    pub refused: Vec<RangeRefusal>,
}

/// A range that is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeRefusal {
    /// No range at all.
    #[error("{of} range {text:?} is not used: it is no range of addresses such as 10.244.0.0/16")]
    Cidr {
        /// Whose.
        of: &'static str,
        /// As sent.
        text: String,
    },
    /// A range of the other family.
    #[error("{of} range {range} is not used: IPv6 ranges are not supported by this version")]
    Ipv6 {
        /// Whose.
        of: &'static str,
        /// As sent.
        range: IpNet,
    },
    /// Not between 1 and 65535, or the wrong way round.
    #[error(
        "NodePort range {first}-{last} is not used, the one before stays: it is no range between 1 and 65535"
    )]
    NodePorts {
        /// As sent.
        first: u32,
        /// As sent.
        last: u32,
    },
}

impl From<&Welcome> for NodeRanges {
    fn from(welcome: &Welcome) -> NodeRanges {
        let mut refused = Vec::new();
        let mut cidrs = |of: &'static str, list: &[String]| {
            let mut read = Vec::new();
            for text in list {
                match text.parse() {
                    Ok(IpNet::V4(range)) => read.push(range.trunc()),
                    Ok(range @ IpNet::V6(_)) => refused.push(RangeRefusal::Ipv6 { of, range }),
                    Err(_) => refused.push(RangeRefusal::Cidr {
                        of,
                        text: text.clone(),
                    }),
                }
            }
            read
        };
        let pods = cidrs("pod", &welcome.cluster_cidrs);
        let services = cidrs("Service", &welcome.service_cidrs);
        let (first, last) = (welcome.node_port_first, welcome.node_port_last);
        let node_ports = match (u16::try_from(first), u16::try_from(last)) {
            (Ok(0), Ok(0)) => None,
            (Ok(first), Ok(last)) if (1..=last).contains(&first) => Some(first..=last),
            _ => {
                refused.push(RangeRefusal::NodePorts { first, last });
                None
            }
        };
        NodeRanges {
            pods,
            services,
            node_ports,
            refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome(node_ports: (u32, u32)) -> Welcome {
        Welcome {
            cluster_cidrs: vec!["10.244.0.0/16".into(), "fd00::/48".into()],
            service_cidrs: vec!["10.96.0.0/16".into()],
            node_port_first: node_ports.0,
            node_port_last: node_ports.1,
            ..Welcome::default()
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_and_takes_nothing_else_away() {
        let ranges = NodeRanges::from(&welcome((30_000, 70_000)));
        assert_eq!(ranges.pods, ["10.244.0.0/16".parse().expect("cidr")]);
        assert_eq!(ranges.services, ["10.96.0.0/16".parse().expect("cidr")]);
        assert_eq!(ranges.node_ports, None, "neither clamped nor cut in half");
        let told: Vec<String> = ranges.refused.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(
            told[0],
            "pod range fd00::/48 is not used: IPv6 ranges are not supported by this version"
        );
        assert!(told[1].contains("30000-70000"), "{told:?}");
    }

    #[test]
    fn node_ports_are_a_range_or_nothing_was_said() {
        for (sent, read, refusals) in [
            ((30_000, 32_767), Some(30_000..=32_767), 1),
            ((80, 80), Some(80..=80), 1),
            ((0, 0), None, 1),
            ((0, 100), None, 2),
            ((32_767, 30_000), None, 2),
        ] {
            let ranges = NodeRanges::from(&welcome(sent));
            assert_eq!(ranges.node_ports, read, "{sent:?}");
            assert_eq!(ranges.refused.len(), refusals, "{sent:?}");
        }
    }
}
