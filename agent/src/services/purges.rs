// SPDX-License-Identifier: Apache-2.0
//! Removes what leads to backends that are gone (affinity, flows) beside the Service loop: each purge walks
//! whole maps, so one walk is for all that came meanwhile.
//!
//! Not here: which backends are gone (the plan). Owned and polled by the Service loop.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use knarr_datapath::DatapathError;
use knarr_datapath::inspect::Inspector;

use super::RESYNC_AFTER;

/// Backend ids. A removed backend's id is not used again, so a late purge hits nothing else.
type Ids = Arc<HashSet<u32>>;
type Purge = dyn Fn(&HashSet<u32>) -> Result<(), DatapathError> + Send + Sync;

/// What is to be purged.
pub(super) struct Purges {
    purge: Arc<Purge>,
    retry_after: Duration,
    due: HashSet<u32>,
    running: Option<BoxFuture<'static, (Ids, Result<(), DatapathError>)>>,
}

impl Purges {
    /// Purges through this reader's descriptors.
    pub(super) fn new(inspector: Inspector) -> Purges {
        let purge = move |ids: &HashSet<u32>| inspector.purge_backends(ids);
        Purges::with(Arc::new(purge), RESYNC_AFTER)
    }

    fn with(purge: Arc<Purge>, retry_after: Duration) -> Purges {
        Purges {
            purge,
            retry_after,
            due: HashSet::new(),
            running: None,
        }
    }

    /// Adds backends that no slot names any more.
    pub(super) fn add(&mut self, ids: Vec<u32>) {
        self.due.extend(ids);
    }

    /// Works while it is polled. Dropping it loses nothing: what runs is kept and gone on with.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut pause = Duration::ZERO;
        loop {
            if self.running.is_none() && self.due.is_empty() {
                return std::future::pending().await;
            }
            let (purge, due) = (&self.purge, &mut self.due);
            let running = self.running.get_or_insert_with(|| {
                let (purge, ids) = (purge.clone(), Arc::new(std::mem::take(due)));
                Box::pin(async move {
                    tokio::time::sleep(pause).await;
                    let done = {
                        let ids = ids.clone();
                        knarr_base::blocking::run(move || purge(&ids)).await
                    };
                    (ids, done)
                })
            });
            let (ids, done) = running.await;
            self.running = None;
            pause = Duration::ZERO;
            if let Err(error) = done {
                tracing::warn!(
                    "flows to backends that are gone: {}",
                    knarr_base::chain(&error)
                );
                self.due.extend(ids.iter());
                pause = self.retry_after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    type Walks = Arc<Mutex<Vec<Vec<u32>>>>;

    /// Notes each walk; the first one fails when `fails` says so.
    fn noting(walks: &Walks, fails: bool) -> Purges {
        let (walks, fails) = (walks.clone(), AtomicBool::new(fails));
        let purge = move |ids: &HashSet<u32>| {
            let mut ids: Vec<u32> = ids.iter().copied().collect();
            ids.sort_unstable();
            walks.lock().expect("lock").push(ids);
            if fails.swap(false, Ordering::SeqCst) {
                Err(DatapathError::NoUplink {
                    name: String::new(),
                })
            } else {
                Ok(())
            }
        };
        Purges::with(Arc::new(purge), Duration::from_millis(100))
    }

    /// Polls and drops again and again, as the Service loop does, until there were so many walks.
    async fn until(purges: &mut Purges, walks: &Walks, count: usize) {
        for _ in 0..400 {
            let ended = tokio::time::timeout(Duration::from_millis(30), purges.run()).await;
            assert!(ended.is_err(), "it never ends");
            if walks.lock().expect("lock").len() >= count {
                return;
            }
        }
        panic!("{:?}", walks.lock().expect("lock"));
    }

    #[tokio::test]
    async fn what_comes_together_is_one_walk_and_nothing_is_none() {
        let walks = Walks::default();
        let mut purges = noting(&walks, false);
        until(&mut purges, &walks, 0).await;
        purges.add(vec![1]);
        purges.add(vec![2, 3]);
        until(&mut purges, &walks, 1).await;
        assert_eq!(*walks.lock().expect("lock"), [vec![1, 2, 3]]);
    }

    #[tokio::test]
    async fn a_purge_that_failed_is_tried_again_and_what_came_since_is_not_forgotten() {
        let walks = Walks::default();
        let mut purges = noting(&walks, true);
        purges.add(vec![1]);
        until(&mut purges, &walks, 1).await;
        purges.add(vec![2]);
        until(&mut purges, &walks, 2).await;
        until(&mut purges, &walks, 2).await;
        purges.add(vec![3]);
        let all = || {
            let walks = walks.lock().expect("lock");
            let again: HashSet<u32> = walks[1..].iter().flatten().copied().collect();
            again == HashSet::from([1, 2, 3])
        };
        for _ in 0..400 {
            until(&mut purges, &walks, 2).await;
            if all() {
                return;
            }
        }
        panic!("{:?}", walks.lock().expect("lock"));
    }
}
