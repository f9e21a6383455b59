// SPDX-License-Identifier: Apache-2.0
//! The power fails: what is on the disk then has everything that was acknowledged.
//!
//! SIGKILL cannot show this, because the kernel's page cache outlives the process. Here the disk is one that keeps
//! apart what was written since the last sync, and the store is opened from what would be left without it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem;

use futures::future::join_all;
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;

/// How long a sync takes. Whoever acknowledges before its end is caught, and writers come together in one commit.
const SYNC: Duration = Duration::from_millis(2);
/// More than the engine's file has room for at first when so many are written, so that it has to grow.
const LARGE_BYTES: usize = 100_000;

type Contents = BTreeMap<String, String>;

/// A disk with its cache: the file has everything, as programs see it, and `platter` what a power loss leaves.
#[derive(Clone, Debug)]
struct Drive {
    file: Arc<FileBackend>,
    platter: Arc<Mutex<Platter>>,
}

#[derive(Debug, Default)]
struct Platter {
    /// What was there at the end of the last sync.
    durable: Vec<u8>,
    /// What has been asked for since, in that order.
    pending: Vec<Change>,
    /// What power losses during the syncs since [`Drive::during_syncs`] would have left.
    during_syncs: Vec<Vec<u8>>,
    /// Makes the next sync fail, and says which of the pending changes it leaves.
    failing: Option<Reached>,
}

#[derive(Debug)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

/// Whether the pending change of this number gets to the platter.
type Reached = fn(usize) -> bool;

/// Which of the pending changes reach the platter when the power fails. A disk writes in the order that it likes.
const REACHED: [Reached; 4] = [
    |_| false,
    |_| true,
    |number| number.is_multiple_of(2),
    |number| !number.is_multiple_of(2),
];

impl Platter {
    fn after(&self, reached: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut image = self.durable.clone();
        for (number, change) in self.pending.iter().enumerate() {
            if !reached(number) {
                continue;
            }
            match change {
                Change::Length(len) => image.resize(*len, 0),
                Change::Write(at, data) => {
                    let end = at + data.len();
                    // The growth before it may be among what did not reach the platter.
                    image.resize(image.len().max(end), 0);
                    image[*at..end].copy_from_slice(data);
                }
            }
        }
        image
    }
}

impl Drive {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock()
    }

    /// What is left when the power fails now.
    fn power_loss(&self) -> Vec<u8> {
        self.platter().durable.clone()
    }

    /// What was left where the power failed during the syncs since the last call.
    fn during_syncs(&self) -> Vec<Vec<u8>> {
        mem::take(&mut self.platter().during_syncs)
    }
}

impl StorageBackend for Drive {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let change = Change::Length(len.try_into().unwrap());
        self.platter().pending.push(change);
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        std::thread::sleep(SYNC);
        let mut platter = self.platter();
        if let Some(reached) = platter.failing.take() {
            // What did not get to the platter is not in the file either, once nothing of it is cached.
            let left = platter.after(reached);
            self.file.set_len(left.len().try_into().unwrap())?;
            self.file.write(0, &left)?;
            return Err(io::ErrorKind::Other.into());
        }
        let left = REACHED.map(|reached| platter.after(reached));
        platter.during_syncs.extend(left);
        platter.durable = platter.after(|_| true);
        platter.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let change = Change::Write(offset.try_into().unwrap(), data.to_vec());
        self.platter().pending.push(change);
        self.file.write(offset, data)
    }
}

/// An empty store on a disk whose power can fail.
fn store_on_drive(dir: &Path) -> (Embedded, Drive) {
    let path = dir.join("store");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let drive = Drive {
        file: Arc::new(FileBackend::new(file.try_clone().unwrap()).unwrap()),
        platter: Arc::default(),
    };
    let database = Database::builder()
        .create_with_backend(Disk::over(drive.clone(), file, Quota::default()))
        .unwrap();
    let store = Embedded::over(database, &path, Options::default(), Quota::default()).unwrap();
    (store, drive)
}

/// What the machine finds in the store when it is on again.
async fn found_in(image: &[u8]) -> Contents {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store"), image).unwrap();
    let store = open(dir.path());
    let found = store.range(Range::prefix("")).await.unwrap();
    store.close().await;
    text(&found.kvs).into_iter().collect()
}

/// The test's transaction `number`: small and large values, new keys and old ones, and deletions. `contents` follows.
async fn change(store: &Embedded, contents: &mut Contents, number: usize) {
    let small = format!("small-{}", number % 5);
    let large = format!("large-{number:02}");
    let value = format!("{number:02}").repeat(LARGE_BYTES / 2);
    let mut ops = vec![
        Op::put(small.clone(), number.to_string()),
        Op::put(large.clone(), value.clone()),
    ];
    contents.insert(small, number.to_string());
    contents.insert(large, value);
    if number % 3 == 2 {
        let gone = format!("large-{:02}", number - 2);
        ops.push(Op::delete(gone.clone()));
        contents.remove(&gone);
    }
    store.txn(Txn::of(ops)).await.unwrap();
}

fn assert_same(found: &Contents, wanted: &Contents, number: usize) {
    // The values are too long to be shown.
    let keys = |contents: &Contents| contents.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(found), keys(wanted), "after transaction {number}");
    assert!(found == wanted, "values are lost after {number}");
}

#[tokio::test]
async fn what_is_acknowledged_outlives_a_power_loss() {
    let dir = tempfile::tempdir().unwrap();
    let (store, drive) = store_on_drive(dir.path());
    let empty = drive.power_loss().len();
    let mut contents = Contents::new();
    for number in 0..24 {
        change(&store, &mut contents, number).await;
        let left = drive.power_loss();
        assert_same(&found_in(&left).await, &contents, number);
    }
    let grown = drive.power_loss().len();
    assert!(grown > empty, "the file never grew from {empty} bytes");
}

#[tokio::test]
async fn a_power_loss_amid_a_commit_leaves_all_of_it_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, drive) = store_on_drive(dir.path());
    drive.during_syncs();
    let mut contents = Contents::new();
    for number in 0..10 {
        let before = contents.clone();
        change(&store, &mut contents, number).await;
        let left = drive.during_syncs();
        assert!(!left.is_empty(), "transaction {number} was not synced");
        for image in left {
            let found = found_in(&image).await;
            if found != before {
                assert_same(&found, &contents, number);
            }
        }
    }
}

#[tokio::test]
async fn everyone_whose_write_shares_a_commit_finds_it_after_a_power_loss() {
    const WRITERS: usize = 16;
    const ROUNDS: usize = 5;
    let dir = tempfile::tempdir().unwrap();
    let (store, drive) = store_on_drive(dir.path());
    let before = store.stats();
    let writers = (0..WRITERS).map(async |writer| {
        let mut left = Vec::new();
        for round in 0..ROUNDS {
            put(&store, &format!("w{writer:02}"), &round.to_string()).await;
            // At once, while the others' writes are under way.
            left.push((round, drive.power_loss()));
        }
        (writer, left)
    });
    let told = join_all(writers).await;
    let after = store.stats();
    assert_eq!(
        after.writes - before.writes,
        u64::try_from(WRITERS * ROUNDS).unwrap()
    );
    assert!(
        after.commits - before.commits <= u64::try_from(WRITERS * ROUNDS / 4).unwrap(),
        "{} commits are not shared",
        after.commits
    );
    for (writer, left) in told {
        for (round, image) in left {
            let found = found_in(&image).await;
            let value = found.get(&format!("w{writer:02}")).cloned();
            assert_eq!(value, Some(round.to_string()), "of writer {writer}");
        }
    }
}

/// The changes that `watch` tells up to `revision`, one after the other.
async fn told_until(watch: &mut WatchStream, revision: Revision) -> Contents {
    let mut contents = Contents::new();
    loop {
        let batch = next(watch).await;
        for event in batch.events {
            let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            match &event {
                Event::Put { key, value } => contents.insert(text(key), text(value)),
                Event::Delete { key } => contents.remove(&text(key)),
            };
        }
        if batch.revision >= revision {
            return contents;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_loses_nothing_acknowledged_and_every_watch_is_told_what_stayed() {
    let mut stayed = 0;
    // The only sync of a commit here; whether what it was to write is on the disk, nobody knows.
    for (number, reached) in REACHED.into_iter().cycle().take(16).enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (store, drive) = store_on_drive(dir.path());
        let mut contents = Contents::new();
        for number in 0..4 {
            change(&store, &mut contents, number).await;
        }
        let all = Range::prefix("");
        let mut watch = store.watch(Revision(0)).await.unwrap();
        drive.platter().failing = Some(reached);
        // The file is opened again when nobody holds the failed one.
        drop(drive);

        let tried = store.txn(Txn::of(vec![Op::put("tried", "1")])).await;
        assert!(tried.is_err(), "{tried:?}");
        // Readers and a writer open it again, all at once.
        let reads = join_all((0..4).map(|_| store.range(all.clone())));
        let (reads, after) = tokio::join!(reads, put(&store, "after", "1"));

        for read in reads {
            read.unwrap();
        }
        let mut found: Contents = text(&store.range(all).await.unwrap().kvs)
            .into_iter()
            .collect();
        assert_eq!(told_until(&mut watch, after).await, found, "round {number}");
        stayed += usize::from(found.remove("tried").is_some());
        contents.insert("after".to_owned(), "1".to_owned());
        assert_same(&found, &contents, 4);
    }
    assert!(stayed > 0, "no round left what could not be acknowledged");
    assert!(stayed < 16, "every round did");
}
