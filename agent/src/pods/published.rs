// SPDX-License-Identifier: Apache-2.0
//! Keeps one pod's record: for readers beside the worker always, on disk as soon as the disk takes it.
//!
//! Not here: when to try again, which the worker's rounds decide.

use std::sync::Arc;

use knarr_agent_plan::observed::RecordStore;
use knarr_agent_plan::record::PodRecord;
use tokio::sync::watch;

use super::records::Records;

/// See the module's comment.
pub struct PublishedRecord {
    uid: String,
    records: Arc<Records>,
    live: watch::Sender<Arc<PodRecord>>,
    saved: Option<PodRecord>,
    store: RecordStore,
}

impl PublishedRecord {
    /// For a pod whose record on disk is `saved`.
    pub fn new(
        uid: &str,
        records: Arc<Records>,
        live: watch::Sender<Arc<PodRecord>>,
        saved: Option<PodRecord>,
    ) -> PublishedRecord {
        PublishedRecord {
            uid: uid.to_owned(),
            records,
            live,
            saved,
            store: RecordStore::Kept,
        }
    }

    /// What was told last.
    pub fn known(&self) -> Arc<PodRecord> {
        self.live.borrow().clone()
    }

    /// Tells the record and writes it, where it differs.
    pub async fn keep(&mut self, record: &PodRecord) {
        self.live.send_if_modified(|known| {
            let differs = **known != *record;
            if differs {
                *known = Arc::new(record.clone());
            }
            differs
        });
        if self.saved.as_ref() == Some(record) {
            self.store = RecordStore::Kept;
            return;
        }
        let (records, uid, to_write) = (self.records.clone(), self.uid.clone(), record.clone());
        match knarr_base::blocking::run(move || records.save(&uid, &to_write)).await {
            Ok(()) => {
                self.saved = Some(record.clone());
                self.store = RecordStore::Kept;
            }
            Err(error) => {
                let text = knarr_base::chain(&error);
                let failing = RecordStore::Failing(text.clone());
                if self.store != failing {
                    tracing::warn!(uid = self.uid, "{text}");
                }
                self.store = failing;
            }
        }
    }

    /// Whether the last record is on disk.
    pub fn store(&self) -> &RecordStore {
        &self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_is_told_while_the_disk_does_not_take_it_and_written_as_soon_as_it_does() {
        let dir = tempfile::tempdir().expect("tempdir");
        let records = Arc::new(Records::open(dir.path()).expect("opens"));
        let (sender, receiver) = watch::channel(Arc::new(PodRecord::default()));
        let mut published = PublishedRecord::new("u1", records.clone(), sender, None);
        // Root is refused nothing, but a file is no directory to anybody.
        let place = dir.path().join("records");
        std::fs::remove_dir(&place).expect("removed");
        std::fs::write(&place, "").expect("written");
        let record = PodRecord {
            sandboxes: 3,
            ..PodRecord::default()
        };
        published.keep(&record).await;
        assert!(matches!(published.store(), RecordStore::Failing(text) if text.contains("u1")));
        assert_eq!(**receiver.borrow(), record);
        std::fs::remove_file(&place).expect("removed");
        std::fs::create_dir(&place).expect("made");
        published.keep(&record).await;
        assert_eq!(*published.store(), RecordStore::Kept);
        assert_eq!(records.load("u1").expect("reads"), Some(record));
    }
}
