// SPDX-License-Identifier: Apache-2.0
//! What a transaction and a compaction do to the tables of one write transaction.
//!
//! Nothing here commits; the writer carries many of these in one commit.

use bytes::Bytes;
use redb::ReadableTable;

use super::engine_error;
use super::format::{
    COMPACTED, Entry, EventKind, FORMAT, FORMAT_VERSION, HEAD, Position, RESERVED,
    SUPERSEDED_BYTES, Tables, meta,
};
use super::overlay::{Changes, Overlay};
use super::read;
use crate::{Compare, Event, KeyValue, Op, Revision, StoreError, Txn, TxnResult, WatchBatch};

/// Longest key in bytes. Names are at most 253 bytes; three of them and a group fit.
pub(super) const KEY_BYTES_MAX: usize = 2048;
/// Longest value in bytes: a request of 3 MiB, and room for what the API server adds.
pub(super) const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of values in one transaction.
pub(super) const TXN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Revisions that one durable write reserves for volatile changes. At a heartbeat every ten seconds that is a write every
/// nine hours for twenty nodes, and every two minutes for five thousand; a crash skips as many revisions.
const RESERVED_REVISIONS: u64 = 1 << 16;

/// Refuses what is too large before anything is done.
pub(super) fn check_sizes(txn: &Txn) -> Result<(), StoreError> {
    let mut total = 0;
    for op in &txn.then {
        if let Op::Put { key, value } | Op::PutVolatile { key, value } = op {
            limit("key", key.len(), KEY_BYTES_MAX)?;
            limit("value", value.len(), VALUE_BYTES_MAX)?;
            total += value.len();
        }
    }
    limit("transaction", total, TXN_BYTES_MAX)
}

fn limit(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size, limit });
    }
    Ok(())
}

/// The tables being written, and the numbers that go with them.
pub(super) struct Writer<'txn> {
    pub(super) tables: Tables<'txn>,
    /// The newest revision, counting the transactions applied so far.
    pub(super) head: Revision,
    pub(super) compacted: Revision,
    /// Bytes of entries that compaction could remove.
    superseded_bytes: u64,
    /// What each transaction changed, for the watches.
    batches: Vec<WatchBatch>,
    /// How many of the batches hold a change that is durable.
    durable_batches: u64,
    /// The volatile values as of the last group, and what this one changes.
    overlay: &'txn Overlay,
    volatile: Changes,
    /// The last revision that volatile changes may have.
    reserved: Revision,
    /// Whether anything has to be committed.
    pub(super) dirty: Dirty,
}

/// A key before a change of it.
#[derive(Default)]
struct Before {
    /// Where its newest durable change is.
    position: Option<Position>,
    /// What the durable value holds of the file; 0 where the key does not exist.
    bytes: u64,
    /// Whether the key exists.
    exists: bool,
}

/// Whether a write transaction holds a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dirty {
    Clean,
    Changed,
}

/// What a group did, now that as much of it is durable as has to be.
pub(super) struct Published {
    pub(super) batches: Vec<WatchBatch>,
    /// How many of them hold a change that is durable.
    pub(super) durable_batches: u64,
    pub(super) volatile: Changes,
    pub(super) head: Revision,
    pub(super) compacted: Revision,
    /// 0 where the group changed only what is in memory.
    pub(super) commits: u64,
}

impl<'txn> Writer<'txn> {
    pub(super) fn new(tables: Tables<'txn>, overlay: &'txn Overlay) -> Result<Self, StoreError> {
        let number = |name| meta(&tables.meta, name).map_err(engine_error);
        let head = Revision(number(HEAD)?).max(overlay.head());
        let compacted = Revision(number(COMPACTED)?);
        let superseded_bytes = number(SUPERSEDED_BYTES)?;
        let reserved = Revision(number(RESERVED)?);
        Ok(Self {
            tables,
            head,
            compacted,
            superseded_bytes,
            batches: Vec::new(),
            durable_batches: 0,
            overlay,
            volatile: Changes::new(),
            reserved,
            dirty: Dirty::Clean,
        })
    }

    /// Writes the numbers back; the last thing before a commit.
    pub(super) fn finish(&mut self) -> Result<(), StoreError> {
        // Where volatile changes are made at all, a commit that takes place anyway reserves for them.
        if self.reserved != Revision(0)
            && self.reserved.0 < self.head.0.saturating_add(RESERVED_REVISIONS / 2)
        {
            self.reserve();
        }
        for (name, value) in [
            (HEAD, self.head.0),
            (COMPACTED, self.compacted.0),
            (SUPERSEDED_BYTES, self.superseded_bytes),
        ] {
            self.tables.meta.insert(name, value).map_err(engine_error)?;
        }
        if self.reserved != Revision(0) {
            // A file of an older version becomes one that the older program refuses.
            for (name, value) in [(RESERVED, self.reserved.0), (FORMAT, FORMAT_VERSION)] {
                self.tables.meta.insert(name, value).map_err(engine_error)?;
            }
        }
        Ok(())
    }

    /// Writes down that no revision after the head was given out, and whether there was need to.
    pub(super) fn release(&mut self) -> Result<bool, StoreError> {
        if self.reserved <= self.head {
            return Ok(false);
        }
        let meta = &mut self.tables.meta;
        meta.insert(RESERVED, self.head.0).map_err(engine_error)?;
        Ok(true)
    }

    fn reserve(&mut self) {
        self.reserved = Revision(self.head.0.saturating_add(RESERVED_REVISIONS));
        self.dirty = Dirty::Changed;
    }

    /// What is to be told of the group once it is as durable as it has to be; gives the tables back.
    pub(super) fn into_published(self) -> Published {
        Published {
            batches: self.batches,
            durable_batches: self.durable_batches,
            volatile: self.volatile,
            head: self.head,
            compacted: self.compacted,
            commits: u64::from(self.dirty == Dirty::Changed),
        }
    }

    /// Whether the group leaves nothing to tell and nothing to commit.
    pub(super) fn is_unchanged(&self) -> bool {
        self.dirty == Dirty::Clean && self.batches.is_empty()
    }

    /// The value that only memory has.
    fn volatile(&self, key: &[u8]) -> Option<KeyValue> {
        match self.volatile.get(key) {
            Some(changed) => changed.clone(),
            None => self.overlay.get(key),
        }
    }

    /// Does one transaction. An error that is not of kind `Io` has changed nothing.
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnResult, StoreError> {
        let conflicts = self.conflicts(&txn.compare)?;
        if conflicts.is_empty() {
            let revision = self.head.next();
            let mut events: Vec<Event> = Vec::new();
            for op in &txn.then {
                match op {
                    Op::Put { key, value } => self.put(revision, &mut events, key, value)?,
                    Op::PutVolatile { key, value } => {
                        self.put_volatile(revision, &mut events, key, value)?;
                    }
                    Op::Delete { key } => self.delete(revision, &mut events, key)?,
                }
            }
            self.end_revision(revision, events);
        }
        Ok(TxnResult {
            revision: self.head,
            conflicts,
        })
    }

    fn end_revision(&mut self, revision: Revision, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.head = revision;
        let is_volatile = |event: &Event| {
            let newest = self.volatile.get(event.key()).and_then(Option::as_ref);
            newest.is_some_and(|kv| kv.mod_revision == revision)
        };
        if !events.iter().all(is_volatile) {
            self.dirty = Dirty::Changed;
            self.durable_batches += 1;
        } else if revision > self.reserved {
            self.reserve();
        }
        self.batches.push(WatchBatch { revision, events });
    }

    /// The keys whose comparison does not hold.
    fn conflicts(&self, compares: &[Compare]) -> Result<Vec<Bytes>, StoreError> {
        let mut conflicts = Vec::new();
        for Compare { key, mod_revision } in compares {
            let found = match read::newest(&self.tables.keys, key).map_err(engine_error)? {
                Some((position, EventKind::Put)) => self
                    .volatile(key)
                    .map_or(Revision(position.0), |newer| newer.mod_revision),
                _ => Revision(0),
            };
            if found != *mod_revision {
                conflicts.push(key.clone());
            }
        }
        Ok(conflicts)
    }

    fn put(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        key: &Bytes,
        value: &Bytes,
    ) -> Result<(), StoreError> {
        let before = self.before(key)?;
        let entry = Entry {
            kind: EventKind::Put,
            key: key.clone(),
            value: value.clone(),
            previous: before.position,
        };
        self.append(revision, events, entry, &before)
    }

    fn put_volatile(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        key: &Bytes,
        value: &Bytes,
    ) -> Result<(), StoreError> {
        let newest = read::newest(&self.tables.keys, key).map_err(engine_error)?;
        if !matches!(newest, Some((_, EventKind::Put))) {
            return Ok(());
        }
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            mod_revision: revision,
        };
        self.volatile.insert(key.clone(), Some(kv));
        events.push(Event::Put {
            key: key.clone(),
            value: value.clone(),
        });
        Ok(())
    }

    fn delete(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        key: &Bytes,
    ) -> Result<(), StoreError> {
        let before = self.before(key)?;
        if !before.exists {
            return Ok(());
        }
        let entry = Entry {
            kind: EventKind::Delete,
            key: key.clone(),
            value: Bytes::new(),
            previous: before.position,
        };
        self.append(revision, events, entry, &before)
    }

    fn before(&self, key: &[u8]) -> Result<Before, StoreError> {
        let Some((position, kind)) = read::newest(&self.tables.keys, key).map_err(engine_error)?
        else {
            return Ok(Before::default());
        };
        let mut before = Before {
            position: Some(position),
            ..Before::default()
        };
        if kind == EventKind::Put {
            before.exists = true;
            before.bytes = match self.tables.log.get(position).map_err(engine_error)? {
                Some(entry) => Entry::held_bytes(entry.value().len()),
                None => 0,
            };
        }
        Ok(before)
    }

    fn append(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        entry: Entry,
        before: &Before,
    ) -> Result<(), StoreError> {
        let sub = u32::try_from(events.len())
            .map_err(|_| StoreError::io("too many changes in one transaction"))?;
        let live = u8::from(entry.kind == EventKind::Put);
        let bytes = entry.encode();
        self.tables
            .log
            .insert((revision.0, sub), bytes.as_slice())
            .map_err(engine_error)?;
        self.tables
            .keys
            .insert(entry.key.as_ref(), (revision.0, sub, live))
            .map_err(engine_error)?;
        self.superseded_bytes += before.bytes;
        if entry.kind == EventKind::Delete {
            // What says that the key is gone goes with the history as well.
            self.superseded_bytes += Entry::held_bytes(bytes.len());
        }
        if self.volatile(&entry.key).is_some() {
            self.volatile.insert(entry.key.clone(), None);
        }
        events.push(entry.into_event());
        Ok(())
    }

    /// Bytes that compaction could give back.
    pub(super) fn superseded_bytes(&self) -> u64 {
        self.superseded_bytes
    }

    /// Removes what no revision from `through` on can see, looking at no more than `max_entries` of
    /// the log. Returns the revision reached. Where nothing durable has happened since the last compaction, nothing is
    /// written: volatile changes leave no history.
    pub(super) fn compact(
        &mut self,
        through: Revision,
        max_entries: usize,
    ) -> Result<Revision, StoreError> {
        let through = through.min(self.head);
        if through <= self.compacted {
            return Ok(self.compacted);
        }
        let mut reached = through;
        let mut superseded: Vec<Position> = Vec::new();
        let mut ended: Vec<(Position, Bytes)> = Vec::new();
        let first = (self.compacted.0 + 1, 0);
        let last = (through.0, u32::MAX);
        let mut at = 0;
        for (looked_at, row) in self
            .tables
            .log
            .range(first..=last)
            .map_err(engine_error)?
            .enumerate()
        {
            let (position, bytes) = row.map_err(engine_error)?;
            let position = position.value();
            if looked_at >= max_entries && position.0 != at {
                reached = Revision(at);
                break;
            }
            at = position.0;
            let entry = Entry::decode(bytes.value())?;
            superseded.extend(entry.previous);
            if entry.kind == EventKind::Delete {
                ended.push((position, entry.key));
            }
        }
        if at == 0 {
            return Ok(through);
        }
        for position in superseded {
            self.remove_entry(position)?;
        }
        for (position, key) in ended {
            self.remove_entry(position)?;
            let newest = read::newest(&self.tables.keys, &key).map_err(engine_error)?;
            if newest == Some((position, EventKind::Delete)) {
                self.tables
                    .keys
                    .remove(key.as_ref())
                    .map_err(engine_error)?;
            }
        }
        self.compacted = reached;
        self.dirty = Dirty::Changed;
        Ok(reached)
    }

    fn remove_entry(&mut self, position: Position) -> Result<(), StoreError> {
        let removed = self.tables.log.remove(position).map_err(engine_error)?;
        if let Some(bytes) = removed {
            let freed = Entry::held_bytes(bytes.value().len());
            self.superseded_bytes = self.superseded_bytes.saturating_sub(freed);
        }
        Ok(())
    }
}
