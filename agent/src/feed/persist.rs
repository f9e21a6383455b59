// SPDX-License-Identifier: Apache-2.0
//! Keeps the desired state on disk: every message is appended before the state shows it, made durable
//! before it is acknowledged, and where the file cannot be trusted any more it is written anew.
//!
//! ```text
//!            append or fdatasync fails                 written anew
//!   whole ------------------------------> torn --------------------------> whole
//!     ^  acknowledged after fdatasync      |  nothing is acknowledged
//!     +------------------------------------+  tried again by timer, ever more rarely
//! ```
//!
//! A failed fdatasync tears the file although later ones succeed: Linux marks the pages that could not be
//! written as clean and tells the failure once (fsync(2), "EIO"). All file work runs on threads for
//! blocking work; a disk that hangs holds up the state, not heartbeats. Not here: the file's format
//! (`desired::disk`), what messages mean (`desired`). Used by the feed's connections, one at a time.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use knarr_agent_plan::retry::Retry;
use knarr_api::feed::ToNode;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::desired::disk::Journal;
use crate::desired::{Compacted, Desired};
use crate::metrics::Metrics;

/// The first and the longest pause between attempts to write the file anew. A full disk is usually full
/// for minutes, and an attempt writes the whole state.
const REWRITE_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Makes what was written to a file durable.
pub(super) type SyncData = dyn Fn(&File) -> io::Result<()> + Send + Sync;

/// What has to be on disk before this version may be acknowledged.
pub(super) struct Wish {
    file: Arc<File>,
    version: u64,
}

struct Kept {
    journal: Journal,
    retry: Retry,
}

/// The stored state of a node; outlives connections.
#[derive(Clone)]
pub struct DesiredFile {
    desired: Arc<Desired>,
    metrics: Arc<Metrics>,
    kept: Arc<Mutex<Kept>>,
    /// One fdatasync at a time over all connections: the kernel tells a failure to one of them only.
    syncing: Arc<Mutex<()>>,
    /// When the file is to be written anew.
    due: watch::Sender<Option<Instant>>,
    started: Instant,
    sync_data: Arc<SyncData>,
}

impl DesiredFile {
    /// Keeps `desired` in `journal`.
    pub fn new(journal: Journal, desired: Arc<Desired>, metrics: Arc<Metrics>) -> DesiredFile {
        DesiredFile::with_sync(journal, desired, metrics, Arc::new(File::sync_data))
    }

    pub(super) fn with_sync(
        journal: Journal,
        desired: Arc<Desired>,
        metrics: Arc<Metrics>,
        sync_data: Arc<SyncData>,
    ) -> DesiredFile {
        let (first, max) = REWRITE_PAUSES;
        let retry = Retry::new(first, max);
        let started = Instant::now();
        // What was read may be out of date for the most part.
        let is_due = journal.wants_rewrite(desired.journal_bytes());
        DesiredFile {
            desired,
            metrics,
            kept: Arc::new(Mutex::new(Kept { journal, retry })),
            syncing: Arc::default(),
            due: watch::Sender::new(is_due.then_some(started)),
            started,
            sync_data,
        }
    }

    /// Epoch and version to resume from, after everything that was taken in is in the state.
    pub(super) async fn resume(&self) -> (String, u64) {
        let _settled = self.kept.lock().await;
        self.desired.resume().unwrap_or_default()
    }

    /// Appends a message and shows it to the state, both or (when dropped before it began) neither. Gives
    /// it back, with what may be acknowledged once it is durable.
    pub(super) async fn take(&self, whole: ToNode) -> (ToNode, Option<Wish>) {
        let mut kept = self.kept.clone().lock_owned().await;
        let desired_file = self.clone();
        knarr_base::blocking::run(move || {
            let was_whole = !kept.journal.is_torn();
            if let Err(error) = kept.journal.append(&whole) {
                desired_file.metrics.journal_error();
                if was_whole {
                    tracing::error!(
                        "{}: the node goes on, but would not remember this after a restart",
                        knarr_base::chain(&error)
                    );
                }
            }
            if let Some(message) = &whole.message {
                desired_file.desired.apply(message);
            }
            desired_file.plan(&kept);
            let wish = desired_file.wish(&kept);
            (whole, wish)
        })
        .await
    }

    /// Waits until the file is to be written anew.
    pub(super) async fn due(&self) {
        let mut due = self.due.subscribe();
        loop {
            let at = *due.borrow_and_update();
            let timer = async {
                match at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Both arms only wait.
            tokio::select! {
                () = timer => return,
                // This value holds the sender, so it is never closed.
                _ = due.changed() => {}
            }
        }
    }

    /// Writes the file anew; gives what may be acknowledged afterwards.
    pub(super) async fn rewrite(&self) -> Option<Wish> {
        let mut kept = self.kept.clone().lock_owned().await;
        let desired_file = self.clone();
        knarr_base::blocking::run(move || {
            match desired_file.desired.compact(&mut kept.journal) {
                // A row of failures ends with what is acknowledged, not here.
                Ok(Compacted::Written) => {
                    desired_file.metrics.journal_rewrite();
                    desired_file.plan(&kept);
                }
                // The end of the snapshot plans it again.
                Ok(Compacted::SnapshotArrives) => {
                    desired_file.due.send_replace(None);
                }
                Err(error) => {
                    desired_file.metrics.journal_rewrite();
                    desired_file.metrics.journal_error();
                    tracing::error!("{}", knarr_base::chain(&error));
                    desired_file.failed(&mut kept);
                }
            }
            desired_file.wish(&kept)
        })
        .await
    }

    /// Makes everything durable that the file holds. Whether it may be acknowledged.
    async fn make_durable(&self, file: Arc<File>) -> bool {
        let _alone = self.syncing.lock().await;
        // The file may have been torn while this waited.
        if self.kept.lock().await.journal.is_torn_file(&file) {
            return false;
        }
        let (sync_data, synced) = (self.sync_data.clone(), file.clone());
        let result = knarr_base::blocking::run(move || sync_data(&synced)).await;
        let mut kept = self.kept.lock().await;
        match result {
            Ok(()) => {
                // A file that is too long and cannot be written anew (a disk without that much room) still
                // takes messages; its attempts are to stay rare.
                if !self.wants_rewrite(&kept) {
                    kept.retry.succeeded();
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "the stored state could not be made durable; it is written anew");
                self.metrics.journal_error();
                if kept.journal.tear(&file) {
                    self.failed(&mut kept);
                }
                false
            }
        }
    }

    fn failed(&self, kept: &mut Kept) {
        kept.retry.failed(self.started.elapsed());
        self.plan(kept);
    }

    fn wants_rewrite(&self, kept: &Kept) -> bool {
        kept.journal.wants_rewrite(self.desired.journal_bytes())
    }

    /// Sets the timer for the next rewrite.
    fn plan(&self, kept: &Kept) {
        let at = self
            .wants_rewrite(kept)
            .then(|| self.started + kept.retry.not_before());
        self.due.send_if_modified(|due| {
            let changed = *due != at;
            *due = at;
            changed
        });
    }

    fn wish(&self, kept: &Kept) -> Option<Wish> {
        let (_, version) = self.desired.resume()?;
        let file = kept.journal.to_sync()?;
        Some(Wish { file, version })
    }
}

/// Makes one connection's wishes durable, one after the other, each for everything that was written before
/// it. Ends with the connection.
pub(super) struct Syncer {
    wanted: watch::Sender<Option<Arc<Wish>>>,
}

impl Syncer {
    /// Acknowledges through `acks`.
    pub(super) fn new(desired_file: DesiredFile, acks: watch::Sender<u64>) -> Syncer {
        let (wanted, mut wants) = watch::channel::<Option<Arc<Wish>>>(None);
        tokio::spawn(async move {
            while wants.changed().await.is_ok() {
                let Some(wish) = wants.borrow_and_update().clone() else {
                    continue;
                };
                if desired_file.make_durable(wish.file.clone()).await {
                    acks.send_replace(wish.version);
                }
            }
        });
        Syncer { wanted }
    }

    /// Asks for it; the latest wish replaces earlier ones.
    pub(super) fn sync(&self, wish: Option<Wish>) {
        if let Some(wish) = wish {
            self.wanted.send_replace(Some(Arc::new(wish)));
        }
    }
}
