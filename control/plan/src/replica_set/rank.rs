// SPDX-License-Identifier: Apache-2.0
//! Which pods of a set go first when there are too many.
//!
//! The order is that of Kubernetes' `ActivePodsWithRanks` (`pkg/controller/controller_utils.go`, v1.37).

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;

use knarr_api::k8s_openapi::jiff::Timestamp;

use crate::pods::{Phase, PodView};

/// Sorts pods so that those to delete first come first.
pub fn rank_for_deletion(
    pods: &mut [&PodView],
    related_on: &HashMap<Box<str>, usize>,
    now: Timestamp,
) {
    let related = |pod: &PodView| {
        pod.node
            .as_ref()
            .and_then(|node| related_on.get(node))
            .copied()
            .unwrap_or(0)
    };
    pods.sort_by(|a, b| {
        let key = |pod: &PodView| {
            (
                // Without a node, then pending, then unknown, then running.
                pod.node.is_some(),
                match pod.phase {
                    Phase::Pending => 0,
                    Phase::Unknown => 1,
                    _ => 2,
                },
                pod.is_ready(),
                pod.deletion_cost,
                // Doubled up on a node before alone there.
                Reverse(related(pod)),
            )
        };
        key(a)
            .cmp(&key(b))
            .then_with(|| later_ready(a, b, now))
            .then_with(|| b.restarts.cmp(&a.restarts))
            .then_with(|| newer(a.created_at, b.created_at, now))
            .then_with(|| a.uid.cmp(&b.uid))
    });
}

/// Ready for a shorter time goes first.
fn later_ready(a: &PodView, b: &PodView, now: Timestamp) -> Ordering {
    if !(a.is_ready() && b.is_ready()) {
        return Ordering::Equal;
    }
    let since = |pod: &PodView| pod.ready.and_then(|ready| ready.since);
    newer(since(a), since(b), now)
}

/// Moments are compared by the logarithm of their age, so that among pods of about the same age the choice
/// does not depend on who was first by a second; an unknown moment counts as newest.
fn newer(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |moment: Option<Timestamp>| {
        moment.map(|moment| {
            let age = now.duration_since(moment).as_nanos().max(0);
            i128::BITS - age.leading_zeros()
        })
    };
    magnitude(a).cmp(&magnitude(b))
}
