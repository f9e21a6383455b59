// SPDX-License-Identifier: Apache-2.0
//! Watches and reads against a model: transactions of every size, volatile values, compactions and restarts at random,
//! and watches from any revision in between.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

/// Runs with different random numbers; each does `STEPS` things.
const SEEDS: u64 = 12;
const STEPS: usize = 60;
/// Keys are `PREFIX/NUMBER`.
const PREFIXES: [&str; 3] = ["a", "b", "c"];
const NUMBERS: u32 = 400;

type Key = String;
/// A key and what it holds after the change; `None`: it was deleted.
type Told = (Key, Option<String>);

/// Everything that has happened, as the store should tell it.
struct World {
    rng: StdRng,
    /// The newest value of every key that exists.
    now: BTreeMap<Key, String>,
    /// The newest durable value of every key that exists.
    durable: BTreeMap<Key, String>,
    /// Durable changes by revision.
    log: BTreeMap<u64, Vec<Told>>,
    /// Revision and value of keys whose newest value is volatile.
    volatile: BTreeMap<Key, (u64, String)>,
    head: u64,
    written: u64,
}

/// A watch that is open while things happen, and what it should have been told.
struct Open {
    stream: WatchStream,
    expected: Vec<(u64, Vec<Told>)>,
}

fn told(batch: &WatchBatch) -> (u64, Vec<Told>) {
    let events = batch.events.iter().map(|event| {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        match event {
            Event::Put { key, value } => (text(key), Some(text(value))),
            Event::Delete { key } => (text(key), None),
        }
    });
    (batch.revision.0, events.collect())
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: BTreeMap::new(),
            durable: BTreeMap::new(),
            log: BTreeMap::new(),
            volatile: BTreeMap::new(),
            head: 0,
            written: 0,
        }
    }

    fn key(&mut self) -> Key {
        let prefix = PREFIXES[self.rng.random_range(0..PREFIXES.len())];
        format!("{prefix}/{:03}", self.rng.random_range(0..NUMBERS))
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("v{}", self.written)
    }

    /// One transaction of random steps; returns what it should tell.
    fn transaction(&mut self) -> (Txn, Vec<Told>) {
        // Far more than is replayed in one piece as well.
        let sizes = [1, 1, 1, 1, 2, 5, 40, 300, 700];
        let size = sizes[self.rng.random_range(0..sizes.len())];
        let mut steps = Vec::new();
        let mut events = Vec::new();
        let keys: BTreeSet<Key> = (0..size).map(|_| self.key()).collect();
        for key in keys {
            if self.rng.random_bool(0.2) {
                if self.now.contains_key(&key) {
                    events.push((key.clone(), None));
                }
                steps.push(Op::delete(key));
            } else {
                let value = self.value();
                events.push((key.clone(), Some(value.clone())));
                steps.push(Op::put(key, value));
            }
        }
        (Txn::of(steps), events)
    }

    fn happened(&mut self, revision: u64, events: &[Told]) {
        if events.is_empty() {
            assert_eq!(revision, self.head, "nothing changed");
            return;
        }
        assert!(revision > self.head, "{revision} after {}", self.head);
        self.head = revision;
        for (key, value) in events {
            self.volatile.remove(key);
            match value {
                Some(value) => {
                    self.now.insert(key.clone(), value.clone());
                    self.durable.insert(key.clone(), value.clone());
                }
                None => {
                    self.now.remove(key);
                    self.durable.remove(key);
                }
            }
        }
        self.log.insert(revision, events.to_vec());
    }

    /// What a watch is told of what has happened after `after`.
    fn replay(&self, after: u64) -> Vec<(u64, Vec<Told>)> {
        let durable = self.log.range(after + 1..);
        let mut expected: BTreeMap<u64, Vec<Told>> = durable
            .map(|(revision, events)| (*revision, events.clone()))
            .collect();
        for (key, (revision, value)) in &self.volatile {
            if *revision > after {
                expected.insert(*revision, vec![(key.clone(), Some(value.clone()))]);
            }
        }
        expected.into_iter().collect()
    }

    /// What a list shows that was true right after `revision`; of volatile values only the newest are kept.
    fn as_of(&self, revision: u64) -> BTreeMap<Key, String> {
        let mut found = BTreeMap::new();
        for events in self.log.range(..=revision).map(|(_, events)| events) {
            for (key, value) in events {
                match value {
                    Some(value) => found.insert(key.clone(), value.clone()),
                    None => found.remove(key),
                };
            }
        }
        for (key, (at, value)) in &self.volatile {
            if *at <= revision {
                found.insert(key.clone(), value.clone());
            }
        }
        found
    }
}

fn note(open: &mut [Open], revision: u64, events: &[Told]) {
    if events.is_empty() {
        return;
    }
    for watch in open {
        watch.expected.push((revision, events.to_vec()));
    }
}

async fn check_watch(store: &Embedded, world: &mut World, open: &mut [Open]) {
    let after = world.rng.random_range(0..=world.head + 3);
    let watch = store.watch(Revision(after)).await;
    if after < store.stats().compacted.0 {
        assert!(
            matches!(watch, Err(StoreError::Compacted { .. })),
            "after {after}"
        );
        return;
    }
    let mut watch = watch.unwrap();
    for expected in world.replay(after) {
        assert_eq!(told(&next(&mut watch).await), expected, "after {after}");
    }
    // Nothing else came: the next one is what is written now.
    loop {
        let (key, value) = (world.key(), world.value());
        let revision = put(store, &key, &value).await.0;
        let events = [(key, Some(value))];
        world.happened(revision, &events);
        note(open, revision, &events);
        if revision > after {
            assert_eq!(told(&next(&mut watch).await), (revision, events.to_vec()));
            break;
        }
    }
}

/// The history in pieces of any size, as a replay takes it.
fn check_pieces(store: &Embedded, world: &mut World) {
    let compacted = store.stats().compacted.0;
    if compacted >= world.head {
        return;
    }
    let start = world.rng.random_range(compacted..world.head);
    let mut found = Vec::new();
    let mut after = start;
    loop {
        let piece_max = world.rng.random_range(1..400);
        let view = store.shared.overlay.view(&[], &[0]);
        let piece = store
            .shared
            .read(|r| read::history(r, &view, Revision(after), piece_max))
            .unwrap();
        assert!(piece.through.0 > after, "a replay after {after} gets on");
        found.extend(piece.batches.iter().map(told));
        after = piece.through.0;
        if piece.through == piece.head {
            break;
        }
    }
    assert_eq!(found, world.replay(start), "after {start}");
}

async fn check_reads(store: &Embedded, world: &mut World) {
    let all = Range::prefix("");
    let found = store.range(all.clone()).await.unwrap();
    assert_eq!(found.revision.0, world.head);
    let found: BTreeMap<_, _> = text(&found.kvs).into_iter().collect();
    assert_eq!(found, world.now);
    let at = world
        .rng
        .random_range(store.stats().compacted.0..=world.head);
    let limit = world.rng.random_range(1..200);
    // Page by page, as lists are read.
    let mut paged = BTreeMap::new();
    let mut range = all.at(Revision(at)).limit(limit);
    loop {
        let page = store.range(range.clone()).await.unwrap();
        assert!(page.kvs.len() <= limit);
        assert!(!page.more || page.kvs.len() == limit);
        let last = page.kvs.last().map(|kv| kv.key.clone());
        paged.extend(text(&page.kvs));
        let (Some(last), true) = (last, page.more) else {
            break;
        };
        range.start = [&last[..], &[0]].concat().into();
    }
    assert_eq!(paged, world.as_of(at), "as of {at} of {}", world.head);
}

async fn run(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut world = World::new(seed);
    let mut watches: Vec<Open> = Vec::new();
    for _ in 0..STEPS {
        match world.rng.random_range(0..20) {
            0..8 => {
                let (txn, events) = world.transaction();
                let revision = store.txn(txn).await.unwrap().revision.0;
                world.happened(revision, &events);
                note(&mut watches, revision, &events);
            }
            8..12 => {
                let (key, value) = (world.key(), world.value());
                let exists = world.now.contains_key(&key);
                let txn = Txn::of(vec![Op::put_volatile(key.clone(), value.clone())]);
                let revision = store.txn(txn).await.unwrap().revision.0;
                if exists {
                    assert!(revision > world.head);
                    world.head = revision;
                    world.now.insert(key.clone(), value.clone());
                    world
                        .volatile
                        .insert(key.clone(), (revision, value.clone()));
                    note(&mut watches, revision, &[(key, Some(value))]);
                } else {
                    assert_eq!(revision, world.head, "what is not there stays so");
                }
            }
            12 => {
                let compacted = store.stats().compacted.0;
                let through = world.rng.random_range(compacted..=world.head);
                store.compact(Revision(through)).await.unwrap();
            }
            13 => {
                let stream = watch_now(&store).await;
                watches.push(Open {
                    stream,
                    expected: Vec::new(),
                });
            }
            14 => {
                store.close().await;
                for mut watch in watches.drain(..) {
                    for expected in std::mem::take(&mut watch.expected) {
                        assert_eq!(told(&next(&mut watch.stream).await), expected);
                    }
                    assert!(watch.stream.next().await.is_none());
                }
                store = open(dir.path());
                let head = store.stats().revision.0;
                assert!(
                    head >= world.head,
                    "{head} is no revision before {}",
                    world.head
                );
                world.head = head;
                world.volatile.clear();
                world.now.clone_from(&world.durable);
            }
            15..17 => check_watch(&store, &mut world, &mut watches).await,
            17..19 if world.head > 0 => check_pieces(&store, &mut world),
            _ => check_reads(&store, &mut world).await,
        }
    }
    store.close().await;
}

#[tokio::test]
async fn watches_and_reads_agree_with_a_model_whatever_happens() {
    for seed in 0..SEEDS {
        run(seed).await;
    }
}
