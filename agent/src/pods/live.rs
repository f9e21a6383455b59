// SPDX-License-Identifier: Apache-2.0
//! The records of the pods that have a worker, for readers beside the workers (log streams).

use std::collections::HashMap;
use std::sync::Arc;

use knarr_agent_plan::record::PodRecord;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// By pod UID.
#[derive(Default)]
pub struct Live {
    pods: Mutex<HashMap<String, watch::Receiver<Arc<PodRecord>>>>,
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Arc<PodRecord>>>> {
        self.pods.lock()
    }

    /// A worker begins; it publishes through what is returned.
    pub fn publish(&self, uid: &str, record: &PodRecord) -> watch::Sender<Arc<PodRecord>> {
        let (sender, receiver) = watch::channel(Arc::new(record.clone()));
        self.lock().insert(uid.to_owned(), receiver);
        sender
    }

    /// A worker has ended.
    pub fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// A pod's record as its worker last knew it, and as it changes.
    pub fn watch(&self, uid: &str) -> Option<watch::Receiver<Arc<PodRecord>>> {
        self.lock().get(uid).cloned()
    }
}
