// SPDX-License-Identifier: Apache-2.0
//! How well a node that admits a pod suits it.
//!
//! The parts and their weights follow kube-scheduler's default plugins (v1.37): least allocated 1, balanced
//! allocation 1, spread 2, preferred node affinity 2, tolerated taints 3. A part's full worth is
//! [`FULL`]. Kubernetes normalises over the nodes of one attempt; here a score depends on its node alone.

use super::node::NodeState;
use super::pod::Wants;
use super::taints::{Effect, untolerated};

/// The best that a part with weight 1 can give, in points.
const FULL: i64 = 1000;
/// What the first pod of the same group on a node costs.
const FIRST_PEER: i64 = FULL;
/// What every pod of the same group on a node costs.
const EACH_PEER: i64 = FULL / 5;
/// What a `PreferNoSchedule` taint costs that the pod does not tolerate.
const AVOIDED: i64 = 3 * FULL;
/// Points for one unit of a preferred node affinity's weight, which is 1 to 100.
const PREFERENCE: i64 = 2 * FULL / 100;

/// The score of `node` with `peers` pods of the same groups on it; more is better.
pub(super) fn score(node: &NodeState, wants: &Wants, peers: u32) -> i64 {
    let free_cpu = free(
        node.allocatable.cpu_millis,
        node.scored_cpu_millis
            .saturating_add(wants.scored_cpu_millis),
    );
    let free_memory = free(
        node.allocatable.memory,
        node.scored_memory.saturating_add(wants.scored_memory),
    );
    let least = (free_cpu + free_memory) / 2;
    let balanced = FULL - (free_cpu - free_memory).abs() / 2;
    let peers = i64::from(peers);
    let spread = if peers == 0 {
        0
    } else {
        FIRST_PEER + EACH_PEER * peers
    };
    let preferred: i64 = wants
        .preferred
        .iter()
        .filter(|(_, term)| node.meets(term))
        .map(|(weight, _)| i64::from(*weight) * PREFERENCE)
        .sum();
    let effects = [Effect::PreferNoSchedule];
    let avoided = match untolerated(&node.taints, &wants.tolerations, &effects) {
        Some(_) => AVOIDED,
        None => 0,
    };
    least + balanced + preferred - spread - avoided
}

/// The free part of a resource in thousandths; below zero where more is promised than there is, so that
/// of two full nodes the less full one is taken.
fn free(offer: i64, taken: i64) -> i64 {
    if offer <= 0 {
        return 0;
    }
    let part = i128::from(offer - taken) * i128::from(FULL) / i128::from(offer);
    i64::try_from(part).unwrap_or(i64::MIN / 4).max(-FULL)
}
