// SPDX-License-Identifier: Apache-2.0
//! Two processes over one store: one of them runs the controllers, and never both. Time goes as fast as it can.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::FutureExt;
use knarr_apiserver::{ApiConfig, ApiServer};
use knarr_store::{
    Embedded, Options, Range, RangeResult, Revision, Stats, Store, StoreDied, StoreError, Txn,
    TxnResult, WatchStream,
};
use parking_lot::Mutex;

use super::*;
use crate::feed::Streams;
use crate::services::ServiceRanges;

/// How long the workers of these tests take to end.
const ENDING: Duration = Duration::from_secs(1);
/// Longer than any change of leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to the store that can be cut.
struct Line {
    store: Embedded,
    cut: AtomicBool,
}

impl Line {
    fn check(&self) -> Result<(), StoreError> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(StoreError::DiskFull);
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Line {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.check()?;
        self.store.current_revision().await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.check()?;
        self.store.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.check()?;
        self.store.txn(txn).await
    }

    async fn watch(&self, after: Revision) -> Result<WatchStream, StoreError> {
        self.store.watch(after).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }

    async fn died(&self) -> StoreDied {
        self.store.died().await
    }

    async fn close(&self) {
        self.store.close().await;
    }

    fn sharing(&self) -> Sharing {
        Sharing::Shared
    }

    fn stats(&self) -> Stats {
        self.store.stats()
    }
}

/// What happened, in order, and how many processes run controllers.
#[derive(Default)]
struct Log {
    terms: Mutex<Vec<(&'static str, Instant)>>,
    running: AtomicUsize,
}

impl Log {
    fn begins(&self, name: &'static str) {
        let mut terms = self.terms.lock();
        terms.push((name, Instant::now()));
    }

    fn leaders(&self) -> Vec<(&'static str, Instant)> {
        let terms = self.terms.lock();
        terms.clone()
    }

    /// Waits for term number `count` (from 1); who began it, and when.
    async fn term(&self, count: usize) -> (&'static str, Instant) {
        let began = async {
            loop {
                if let Some(term) = self.leaders().get(count - 1) {
                    return *term;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, began).await.expect("a leader")
    }
}

struct Process {
    line: Arc<Line>,
    client: Client,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Process {
    async fn start(name: &'static str, store: &Embedded, log: &Arc<Log>) -> Self {
        let line = Arc::new(Line {
            store: store.clone(),
            cut: AtomicBool::new(false),
        });
        let ranges = ServiceRanges {
            addresses: "10.96.0.0/12".parse().unwrap(),
            ports: "30000-32767".parse().unwrap(),
        };
        let config = ApiConfig::new(Arc::new(ranges), Arc::new(Streams::default()));
        let api = ApiServer::open(line.clone(), config).await.unwrap();
        let (client, shutdown) = (api.client(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let leadership = join(line.sharing(), &client, &shutdown, &mut tasks);
        tasks.spawn(work(name, leadership, log.clone()));
        Self {
            line,
            client,
            shutdown,
            tasks,
        }
    }

    async fn lease(&self) -> LeaseSpec {
        let lease: Lease = self.client.get(Some(NAMESPACE), NAME).await.unwrap();
        lease.spec.unwrap()
    }
}

/// Stands for the runner of the controllers.
async fn work(name: &'static str, mut leadership: Leadership, log: Arc<Log>) {
    loop {
        leadership.gained().await;
        let Some(term) = leadership.begin() else {
            continue;
        };
        let before = log.running.fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "two processes run controllers");
        log.begins(name);
        leadership.lost().await;
        sleep(ENDING).await;
        log.running.fetch_sub(1, Ordering::Relaxed);
        drop(term);
    }
}

async fn two_processes() -> (Process, Process, Arc<Log>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(&directory.path().join("store"), Options::default()).unwrap();
    let log = Arc::new(Log::default());
    let a = Process::start("a", &store, &log).await;
    assert_eq!(log.term(1).await.0, "a");
    let b = Process::start("b", &store, &log).await;
    // Many renewals pass, and nothing changes.
    sleep(LEASE_DURATION * 4).await;
    assert_eq!(log.leaders().len(), 1);
    let spec = b.lease().await;
    assert_eq!(spec.lease_duration_seconds, Some(15));
    assert_eq!(spec.lease_transitions, Some(0));
    (a, b, log, directory)
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_gives_the_lease_to_the_next_at_once() {
    let (mut a, b, log, _directory) = two_processes().await;
    let asked = Instant::now();
    a.shutdown.cancel();
    let (next, began) = log.term(2).await;
    assert_eq!(next, "b");
    let took = began - asked;
    assert!(took >= ENDING, "a's workers had to end first");
    assert!(took <= ENDING + RETRY_PERIOD * 2, "{took:?}");
    assert_eq!(b.lease().await.lease_transitions, Some(1));
    // The election is over for it; only the runner is left, which the test's end ends.
    assert!(a.tasks.join_next().now_or_never().flatten().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_killed_is_followed_when_its_lease_has_ended() {
    let (mut a, _b, log, _directory) = two_processes().await;
    let killed = Instant::now();
    a.tasks.shutdown().await;
    log.running.store(0, Ordering::Relaxed);
    let (next, began) = log.term(2).await;
    assert_eq!(next, "b");
    let took = began - killed;
    assert!(took >= LEASE_DURATION - RETRY_PERIOD, "{took:?}");
    assert!(took <= LEASE_DURATION + RETRY_PERIOD * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_the_next_starts_and_leads_again_later() {
    let (a, b, log, _directory) = two_processes().await;
    a.line.cut.store(true, Ordering::Relaxed);
    // `work` fails the test where both run controllers at once.
    assert_eq!(log.term(2).await.0, "b");
    sleep(LEASE_DURATION * 2).await;
    a.line.cut.store(false, Ordering::Relaxed);
    sleep(LEASE_DURATION * 2).await;
    assert_eq!(log.leaders().len(), 2, "a waits for its turn");
    b.line.cut.store(true, Ordering::Relaxed);
    assert_eq!(log.term(3).await.0, "a");
    assert_eq!(a.lease().await.lease_transitions, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_alone_on_its_store_leads_at_once_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(&directory.path().join("store"), Options::default()).unwrap();
    let log = Arc::new(Log::default());
    let alone = Process::start("alone", &store, &log).await;
    let writes = store.stats().writes;
    let mut tasks = JoinSet::new();
    let shutdown = CancellationToken::new();
    let mut leadership = join(store.sharing(), &alone.client, &shutdown, &mut tasks);
    assert!(leadership.begin().is_some());
    assert_eq!(leadership.gained().now_or_never(), Some(()));
    assert!(tasks.is_empty());
    assert_eq!(store.stats().writes, writes);
}
