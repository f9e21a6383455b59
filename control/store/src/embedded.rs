// SPDX-License-Identifier: Apache-2.0
//! The engine inside the process: MVCC over one redb file.
//!
//! `format` is the file, `read` and `apply` are what is done to it, `overlay` is what memory has beyond it, `writer` is
//! the one task that commits, `watch` hands on what was committed, `disk` is the file system's edge. This file opens the
//! store, opens it again after a failure, and is the [`Store`] that callers see.

mod apply;
mod bounds;
mod disk;
mod format;
mod overlay;
mod read;
mod watch;
mod writer;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use knarr_base::blocking::run_or_fail;
use knarr_base::chain;
use parking_lot::{Mutex, MutexGuard};
use redb::{Database, DatabaseError, ReadableDatabase};
use tokio::sync::{mpsc, oneshot, watch as latest};
use tokio::task::{JoinError, JoinHandle};

use crate::store::check_duplicates;
use crate::{
    OpenError, Range, RangeResult, Revision, Sharing, Stats, Store, StoreDied, StoreError, Txn,
    TxnResult, WatchStream,
};
use apply::Published;
use disk::{Disk, Quota};
use overlay::Overlay;
use watch::{Hub, Joined, Live, WATCH_QUEUE};
use writer::{REQUEST_QUEUE, Request};

/// Changes replayed to a new watch in one piece.
const REPLAY_EVENTS: usize = 256;
/// How long opening the file again waits for the last reader of the failed one.
const REOPEN_WAIT: Duration = Duration::from_secs(1);

/// What [`Options::cache_bytes`] is by default. The API server reads from its own cache, so pages are needed for writing
/// only: the upper levels of the tables and what a commit changes. The rest is in the kernel's cache of the file. This
/// memory never goes back, and the allocator gives each page of 4 KiB a place of 5 KiB.
const CACHE_BYTES: usize = 1024 * 1024;

/// What can be chosen about an embedded store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for pages of the file, in bytes.
    pub cache_bytes: usize,
    /// Bytes of the file that overwritten and deleted values may take; beyond them the oldest go, however young
    /// they are. Within them history lasts until [`Store::compact`].
    pub history_bytes: u64,
}

/// What [`Options::history_bytes`] is by default. It is space on the disk, not memory: five minutes of 1,400 changes a
/// second to objects of 500 bytes.
pub const HISTORY_BYTES: u64 = 256 * 1024 * 1024;

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES,
            history_bytes: HISTORY_BYTES,
        }
    }
}

/// A store in one file. Clones are handles to the same store; it closes when the last one is dropped
/// or when [`Store::close`] is called.
#[derive(Clone, Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

/// What the writer and all readers share.
struct Shared {
    path: PathBuf,
    options: Options,
    quota: Quota,
    database: Mutex<Slot>,
    hub: Hub,
    overlay: Overlay,
    writes: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
    failing: AtomicU64,
    compacted: AtomicU64,
    /// What the writer died of; set at most once.
    died: latest::Sender<Option<StoreDied>>,
}

/// The open file, unless it has to be opened again.
enum Slot {
    Open(Arc<Database>),
    /// Opened again by whoever needs it next.
    Failed,
    Closed,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish()
    }
}

impl Embedded {
    /// Opens the store in the file `path`, making it (mode 0600) if there is none.
    ///
    /// # Panics
    /// Has to be called inside a Tokio runtime, which the writer is spawned on.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_with_quota(path, options, Quota::default())
    }

    fn open_with_quota(path: &Path, options: Options, quota: Quota) -> Result<Self, OpenError> {
        let database = open_file(path, &options, &quota)?;
        Self::over(database, path, options, quota)
    }

    /// A store in the open file `database`, which is opened again from `path` after a failure.
    fn over(
        database: Database,
        path: &Path,
        options: Options,
        quota: Quota,
    ) -> Result<Self, OpenError> {
        format::check_or_create(&database, path)?;
        let (head, compacted) = database
            .begin_read()
            .map_err(engine_error)
            .and_then(|read| {
                let (_, compacted) = read::revisions(&read)?;
                // Revisions that were reserved may have been given out by the process before this one.
                let head = read::used(&read)?;
                Ok((head, compacted))
            })
            .map_err(|error| OpenError::NotAStore {
                path: path.to_owned(),
                reason: chain(&error),
            })?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            options,
            quota,
            database: Mutex::new(Slot::Open(Arc::new(database))),
            hub: Hub::new(head),
            overlay: Overlay::new(head),
            writes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            compacted: AtomicU64::new(compacted.0),
            died: latest::Sender::new(None),
        });
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        let writer = tokio::spawn(writer::run(shared.clone(), receiver));
        tokio::spawn(supervise(shared.clone(), writer));
        Ok(Self { shared, requests })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

/// Waits for the writer's end. Where that is a failure, nothing waits in vain and whoever watches is told.
async fn supervise(shared: Arc<Shared>, writer: JoinHandle<Result<(), JoinError>>) {
    let error = match writer.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) | Err(error) => error,
    };
    tracing::error!(path = %shared.path.display(), %error, "the store's writer failed");
    shared.hub.close();
    shared.close_database();
    shared.died.send_replace(Some(StoreDied(Arc::new(error))));
}

/// Opens the file, whatever is in it.
fn open_file(path: &Path, options: &Options, quota: &Quota) -> Result<Database, OpenError> {
    let engine = |source: redb::Error| OpenError::Engine {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| engine(redb::Error::Io(error)))?;
    // A name that was just given is on the disk when its directory is.
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))
        .and_then(|directory| directory.sync_all())
        .map_err(|error| engine(redb::Error::Io(error)))?;
    let not_a_store = |reason: String| OpenError::NotAStore {
        path: path.to_owned(),
        reason,
    };
    // The engine's builder is asked to create, which for a file with content means to open it.
    let disk = Disk::new(file, quota.clone()).map_err(|error| engine(error.into()))?;
    Database::builder()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(disk)
        .map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::Locked {
                path: path.to_owned(),
            },
            DatabaseError::UpgradeRequired(version) => not_a_store(format!(
                "its engine's file format {version} is not supported"
            )),
            DatabaseError::Storage(redb::StorageError::Corrupted(reason)) => not_a_store(reason),
            DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() == std::io::ErrorKind::InvalidData =>
            {
                not_a_store("it has other content".to_owned())
            }
            other => engine(other.into()),
        })
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.database.lock()
    }

    /// The open file; opens it again after a failure. May wait for the disk.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = self.slot();
        match &*slot {
            Slot::Open(database) => return Ok(database.clone()),
            Slot::Closed => return Err(StoreError::Closed),
            Slot::Failed => {}
        }
        let deadline = Instant::now() + REOPEN_WAIT;
        let database = loop {
            match open_file(&self.path, &self.options, &self.quota) {
                Ok(database) => break Arc::new(database),
                // A reader still holds the failed one.
                Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(OpenError::Engine { source, .. }) => return Err(engine_error(*source)),
                Err(error) => return Err(StoreError::io(error)),
            }
        };
        // A commit that was reported as failed may have reached the disk all the same. It is told before anybody can
        // use the file: a newer commit that was told first would hide it from every watch. Without it the file counts
        // as failed still, and whoever needs it next tries again.
        let compacted = writer::catch_up(&self.hub, &self.overlay, &database)?;
        self.compacted.fetch_max(compacted.0, Ordering::Relaxed);
        *slot = Slot::Open(database.clone());
        tracing::info!(path = %self.path.display(), "the store is open again");
        Ok(database)
    }

    /// Reads in a transaction of its own. May wait for the disk.
    fn read<T>(
        &self,
        fetch: impl Fn(&redb::ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let attempt = || {
            let database = self.database()?;
            let read = database.begin_read().map_err(engine_error)?;
            fetch(&read)
        };
        match attempt() {
            // The file had failed under a writer; what is on disk can be read once it is open again.
            Err(StoreError::Io(_) | StoreError::DiskFull) => {
                self.reopen_if_failed();
                attempt()
            }
            other => other,
        }
    }

    /// After a failure: makes the next caller open the file again, if the engine refuses to go on.
    fn reopen_if_failed(&self) {
        let mut slot = self.slot();
        if let Slot::Open(database) = &*slot {
            let usable = database
                .begin_read()
                .map_err(engine_error)
                .and_then(|read| read::revisions(&read));
            if usable.is_err() {
                *slot = Slot::Failed;
            }
        }
    }

    fn publish(&self, published: Published) {
        let Published {
            batches,
            durable_batches,
            volatile,
            head,
            compacted,
            commits,
        } = published;
        self.commits.fetch_add(commits, Ordering::Relaxed);
        if commits > 0 {
            self.failing.store(0, Ordering::Relaxed);
        }
        self.writes.fetch_add(durable_batches, Ordering::Relaxed);
        self.compacted.store(compacted.0, Ordering::Relaxed);
        self.overlay.apply(volatile, head);
        self.hub.publish(&batches, head);
    }

    /// A range as of now or of an older revision. May wait for the disk.
    fn read_range(&self, range: &Range) -> Result<RangeResult, StoreError> {
        loop {
            let view = self.overlay.view(&range.start, &range.end);
            let found = self.read(|read| read::read_range(read, &view, range));
            match found {
                // A commit between the view and the read has compacted past the view. What it did is in the next view
                // as soon as the writer has published it.
                Err(StoreError::Compacted { .. }) if range.revision.is_none() => {
                    std::thread::yield_now();
                }
                found => return found,
            }
        }
    }

    fn failed(&self, error: &StoreError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.failing.fetch_add(1, Ordering::Relaxed);
        let shown = chain(error);
        tracing::error!(path = %self.path.display(), error = %shown, "the store could not commit");
        // The engine refuses everything after a failed write, and may have kept half of it in memory.
        let mut slot = self.slot();
        if let Slot::Open(_) = &*slot {
            *slot = Slot::Failed;
        }
    }

    fn close_database(&self) {
        *self.slot() = Slot::Closed;
    }
}

/// The engine's error as the store's.
fn engine_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ) =>
        {
            StoreError::DiskFull
        }
        error => StoreError::io(error),
    }
}

#[async_trait]
impl Store for Embedded {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        // Published before the transactions return, so nothing has to be asked.
        self.shared.hub.open_head().ok_or(StoreError::Closed)
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        let shared = self.shared.clone();
        run_or_fail(move || shared.read_range(&range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        apply::check_sizes(&txn)?;
        check_duplicates(&txn)?;
        self.ask(|reply| Request::Txn(txn, reply)).await
    }

    async fn watch(&self, after: Revision) -> Result<WatchStream, StoreError> {
        let compacted = Revision(self.shared.compacted.load(Ordering::Relaxed));
        if after < compacted {
            return Err(StoreError::Compacted { requested: after });
        }
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        let lagged = Arc::new(AtomicBool::new(false));
        let live = Live {
            after,
            sender,
            lagged: lagged.clone(),
        };
        let stream = WatchStream::new(receiver, lagged);
        match self.shared.hub.join(live, after) {
            Joined::Live => {}
            Joined::Closed => return Err(StoreError::Closed),
            Joined::Behind(live) => {
                tokio::spawn(replay(self.shared.clone(), live));
            }
        }
        Ok(stream)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Request::Compact(revision, reply)).await
    }

    async fn died(&self) -> StoreDied {
        let mut died = self.shared.died.subscribe();
        loop {
            if let Some(died) = died.borrow_and_update().clone() {
                return died;
            }
            if died.changed().await.is_err() {
                // The sender lives in what `self` holds, so this is never reached.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).await.is_ok() {
            // The writer drops `done` only if it was closed by another caller: also fine.
            drop(closed.await);
        }
    }

    fn sharing(&self) -> Sharing {
        // The file is locked.
        Sharing::Exclusive
    }

    fn stats(&self) -> Stats {
        let shared = &self.shared;
        Stats {
            revision: shared.hub.head(),
            compacted: Revision(shared.compacted.load(Ordering::Relaxed)),
            writes: shared.writes.load(Ordering::Relaxed),
            commits: shared.commits.load(Ordering::Relaxed),
            failures: shared.failures.load(Ordering::Relaxed),
            failing: shared.failing.load(Ordering::Relaxed),
            watches: shared.hub.len() as u64,
            file_bytes: std::fs::metadata(&shared.path).map_or(0, |meta| meta.len()),
        }
    }
}

/// Sends the history after `live.after` at the reader's pace, then lets the reader join the live ones.
async fn replay(shared: Arc<Shared>, mut live: Live) {
    loop {
        let (reader, after) = (shared.clone(), live.after);
        let history = run_or_fail(move || {
            let view = reader.overlay.view(&[], &[0]);
            reader.read(|r| read::history(r, &view, after, REPLAY_EVENTS))
        });
        let history = match history.await {
            Ok(history) => history,
            Err(error) => {
                // A failure to send means that the reader is gone.
                drop(live.sender.send(Err(error)).await);
                return;
            }
        };
        for batch in history.batches {
            if live.sender.send(Ok(batch)).await.is_err() {
                return;
            }
        }
        live.after = history.through;
        if history.through < history.head {
            continue;
        }
        match shared.hub.join(live, history.through) {
            Joined::Live | Joined::Closed => return,
            Joined::Behind(back) => live = back,
        }
    }
}

#[cfg(test)]
mod tests;
