// SPDX-License-Identifier: Apache-2.0
//! Purges are polled and dropped as the Service loop does, over fake maps and in paused time.

use super::*;
use crate::edges::fake::services::{Broken, FakeServices};

/// Polls and drops again and again, as the Service loop does, until there were so many walks.
async fn until(purges: &mut Purges, node: &FakeServices, count: usize) {
    for _ in 0..400 {
        let ended = tokio::time::timeout(Duration::from_millis(30), purges.run()).await;
        assert!(ended.is_err(), "it never ends");
        if node.walks().len() >= count {
            return;
        }
    }
    panic!("{:?}", node.walks());
}

#[tokio::test(start_paused = true)]
async fn what_comes_together_is_one_walk_and_nothing_is_none() {
    let node = FakeServices::new();
    let mut purges = Purges::new(node.clone());
    until(&mut purges, &node, 0).await;
    purges.add(vec![1]);
    purges.add(vec![2, 3]);
    until(&mut purges, &node, 1).await;
    assert_eq!(node.walks(), [vec![1, 2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_failed_is_tried_again_and_what_came_since_is_not_forgotten() {
    let node = FakeServices::new();
    let mut purges = Purges::new(node.clone());
    node.break_it(Broken::Purging);
    purges.add(vec![1]);
    until(&mut purges, &node, 1).await;
    assert_eq!(node.walks(), [vec![1]]);
    node.mend(Broken::Purging);
    purges.add(vec![2]);
    until(&mut purges, &node, 2).await;
    purges.add(vec![3]);
    for _ in 0..400 {
        until(&mut purges, &node, 2).await;
        if node.maps().purged_backends.len() == 3 {
            break;
        }
    }
    let mut purged = node.maps().purged_backends;
    purged.sort_unstable();
    assert_eq!(purged, [1, 2, 3], "each once, though the first walk failed");
}
