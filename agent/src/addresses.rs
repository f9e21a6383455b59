// SPDX-License-Identifier: Apache-2.0
//! Follows the node's own addresses and links: NodePorts hold on the addresses that the node has now, and routes to other
//! nodes are set again when a link comes back.
//!
//! The kernel sends notifications; a slow timer covers those that are lost. Spawned once by `start`.

use std::sync::Arc;
use std::time::Duration;

use knarr_datapath::{Changed, NetworkChanges};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::datapath::SharedDatapath;

/// How often everything is looked at though nothing was told.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A link that comes up changes several times: one look is for all of it.
const COALESCE: Duration = Duration::from_millis(20);
/// Before notifications are asked for again, when their socket broke.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Who waits for changes. Each holds one notification until somebody waits for it.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// Routes may be gone.
    pub links: Arc<Notify>,
    /// The node may have other addresses.
    pub addresses: Arc<Notify>,
}

/// Runs until `shutdown`.
pub async fn follow(datapath: SharedDatapath, waiting: Waiting, shutdown: CancellationToken) {
    // Safe to drop: both arms only wait or read.
    tokio::select! {
        () = look_at_changes(&datapath, &waiting) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn look_at_changes(datapath: &SharedDatapath, waiting: &Waiting) {
    loop {
        match NetworkChanges::open() {
            Ok(mut changes) => {
                look(datapath, waiting, Changed::ALL).await;
                while let Some(changed) = next(&mut changes).await {
                    look(datapath, waiting, changed).await;
                }
                tracing::debug!("the socket for changes of addresses is opened again");
                tokio::time::sleep(REOPEN_AFTER).await;
            }
            Err(error) => {
                tracing::warn!(
                    "{}: the node's addresses are read every {} s",
                    knarr_base::chain(&error),
                    LOOK_EVERY.as_secs()
                );
                look(datapath, waiting, Changed::ALL).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// What changed next; everything when nothing was told for long.
async fn next(changes: &mut NetworkChanges) -> Option<Changed> {
    let Ok(changed) = tokio::time::timeout(LOOK_EVERY, changes.next()).await else {
        return Some(Changed::ALL);
    };
    tokio::time::sleep(COALESCE).await;
    changed
}

async fn look(datapath: &SharedDatapath, waiting: &Waiting, changed: Changed) {
    if changed.links {
        waiting.links.notify_one();
    }
    if !changed.addresses {
        return;
    }
    waiting.addresses.notify_one();
    if let Err(error) = datapath.call(|d| d.refresh_node_addresses()).await {
        tracing::warn!(
            "the node's addresses, for NodePorts: {}",
            knarr_base::chain(&error)
        );
    }
}
