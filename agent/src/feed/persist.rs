// SPDX-License-Identifier: Apache-2.0
//! Makes the journal durable and then lets it be acknowledged. One fdatasync at a time, each for
//! everything that was written before it.

use std::fs::File;
use std::sync::Arc;
use tokio::sync::watch;

/// Ends with the connection it was made for.
pub(super) struct Syncer {
    wanted: watch::Sender<Option<(Arc<File>, u64)>>,
}

impl Syncer {
    /// Acknowledges through `acks`.
    pub(super) fn new(acks: watch::Sender<u64>) -> Syncer {
        let (wanted, mut wants) = watch::channel::<Option<(Arc<File>, u64)>>(None);
        tokio::spawn(async move {
            while wants.changed().await.is_ok() {
                let Some((file, version)) = wants.borrow_and_update().clone() else {
                    continue;
                };
                let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
                match synced {
                    Ok(Ok(())) => {
                        acks.send_replace(version);
                    }
                    Ok(Err(error)) => {
                        tracing::error!(%error, "the stored state cannot be made durable");
                    }
                    Err(error) => tracing::error!(%error, "making the stored state durable failed"),
                }
            }
        });
        Syncer { wanted }
    }

    /// Asks for everything up to `version`; the latest wish replaces earlier ones.
    pub(super) fn sync(&self, file: Arc<File>, version: u64) {
        self.wanted.send_replace(Some((file, version)));
    }
}
