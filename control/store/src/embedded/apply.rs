// SPDX-License-Identifier: Apache-2.0
//! What a transaction, a compaction and a lease do to the tables of one write transaction.
//!
//! Nothing here commits; the writer carries many of these in one commit.

use std::collections::HashSet;

use bytes::Bytes;
use redb::ReadableTable;

use super::engine_error;
use super::format::{
    COMPACTED, Entry, FORMAT, FORMAT_VERSION, HEAD, NEXT_LEASE, Position, RESERVED,
    SUPERSEDED_BYTES, Tables, meta,
};
use super::overlay::{Changes, Overlay};
use super::read;
use super::writer::Published;
use crate::types::Lease;
use crate::{
    Compare, Event, EventKind, KeyValue, LeaseId, Op, OpResult, RangeResult, Relation, Revision,
    StoreError, Target, Txn, TxnResult, WatchBatch,
};

/// Longest key in bytes. Names are at most 253 bytes; three of them and a group fit.
pub(super) const KEY_BYTES_MAX: usize = 2048;
/// Longest value in bytes: a request of 3 MiB, and room for what the API server adds.
pub(super) const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most bytes of values in one transaction.
pub(super) const TXN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest lease in seconds, as etcd's `MaxLeaseTTL`; every clock can count that far.
pub(super) const LEASE_SECONDS_MAX: u64 = 9_000_000_000;

/// Revisions that one durable write reserves for volatile changes. At a heartbeat every ten seconds that is a write every
/// nine hours for twenty nodes, and every two minutes for five thousand; a crash skips as many revisions.
const RESERVED_REVISIONS: u64 = 1 << 16;
/// What the engine needs for one change beside its key and value: its header, its position, its place in a page.
const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// Refuses what is too large before anything is done.
pub(super) fn check_sizes(txn: &Txn) -> Result<(), StoreError> {
    let mut total = 0;
    for op in txn.then.iter().chain(&txn.otherwise) {
        if let Op::Put { key, value, .. } | Op::PutVolatile { key, value } = op {
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

/// Refuses a transaction whose chosen branch writes one key twice.
fn check_duplicates(ops: &[Op]) -> Result<(), StoreError> {
    let mut puts: HashSet<&[u8]> = HashSet::new();
    let mut touched: Vec<(&[u8], &[u8])> = Vec::new();
    for op in ops {
        let (start, end): (&[u8], &[u8]) = match op {
            Op::Put { key, .. } | Op::PutVolatile { key, .. } => {
                if !puts.insert(key) {
                    return Err(duplicate(key));
                }
                continue;
            }
            Op::Delete { key } => (key, &[]),
            Op::DeleteRange { start, end } => (start, end),
            Op::Range(_) => continue,
        };
        touched.push((start, end));
    }
    for (start, end) in touched {
        if let Some(key) = puts.iter().find(|key| read::contains(start, end, key)) {
            return Err(duplicate(key));
        }
    }
    Ok(())
}

fn duplicate(key: &[u8]) -> StoreError {
    StoreError::DuplicateKey(String::from_utf8_lossy(key).into_owned())
}

/// Bytes of the file that a change holds.
fn held_bytes(key: &[u8], value: &[u8]) -> u64 {
    ENTRY_OVERHEAD_BYTES + (key.len() + value.len()) as u64
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
    /// What everybody sees: the volatile value where there is one.
    kv: Option<KeyValue>,
    /// Whether that is a volatile value.
    volatile: bool,
}

/// Whether a write transaction holds a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dirty {
    Clean,
    Changed,
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
        let succeeded = self.holds(&txn.compare)?;
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        check_duplicates(ops)?;
        self.check_leases(ops)?;
        self.check_revisions(ops)?;
        let revision = self.head.next();
        let mut events: Vec<Event> = Vec::new();
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match op {
                Op::Put { key, value, lease } => OpResult::Put {
                    previous: self.put(revision, &mut events, key, value, *lease)?,
                },
                Op::PutVolatile { key, value } => OpResult::Put {
                    previous: self.put_volatile(revision, &mut events, key, value)?,
                },
                Op::Delete { key } => OpResult::Delete {
                    deleted: self.delete(revision, &mut events, key, &[])?,
                },
                Op::DeleteRange { start, end } => OpResult::Delete {
                    deleted: self.delete(revision, &mut events, start, end)?,
                },
                Op::Range(range) => {
                    let newest = if events.is_empty() {
                        self.head
                    } else {
                        revision
                    };
                    OpResult::Range(self.range(range, newest)?)
                }
            };
            responses.push(response);
        }
        self.end_revision(revision, events);
        Ok(TxnResult {
            revision: self.head,
            succeeded,
            responses,
        })
    }

    fn range(&self, range: &crate::Range, newest: Revision) -> Result<RangeResult, StoreError> {
        let mut volatile = self.overlay.view(&range.start, &range.end).values;
        for (key, change) in &self.volatile {
            match change {
                Some(value) => drop(volatile.insert(key.clone(), value.clone())),
                None => drop(volatile.remove(key)),
            }
        }
        read::range(
            &self.tables.keys,
            &self.tables.log,
            &volatile,
            range,
            newest,
            self.compacted,
        )
    }

    fn end_revision(&mut self, revision: Revision, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.head = revision;
        let is_volatile = |event: &Event| {
            let newest = self.volatile.get(&event.kv.key).and_then(Option::as_ref);
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

    fn holds(&self, compares: &[Compare]) -> Result<bool, StoreError> {
        for compare in compares {
            let stored =
                match read::newest(&self.tables.keys, &compare.key).map_err(engine_error)? {
                    Some((position, EventKind::Put)) => {
                        // The revision is in the row; anything else needs the entry itself.
                        let volatile = self.volatile(&compare.key);
                        if let Target::ModRevision(given) = compare.target {
                            let found =
                                volatile.map_or(Revision(position.0), |newer| newer.mod_revision);
                            if !relates(&found, &given, compare.relation) {
                                return Ok(false);
                            }
                            continue;
                        }
                        match volatile {
                            Some(newer) => Some(newer),
                            None => read::entry(&self.tables.log, position)?
                                .map(|e| e.into_kv(position.0)),
                        }
                    }
                    _ => None,
                };
            if !compare_holds(stored.as_ref(), compare) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Refuses reads at revisions that are gone or to come before anything is written. As in etcd, what counts is
    /// the newest revision before the transaction.
    fn check_revisions(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            if let Op::Range(range) = op
                && let Some(at) = range.revision
            {
                read::check_revision(at, self.head, self.compacted)?;
            }
        }
        Ok(())
    }

    fn check_leases(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            if let Op::Put {
                lease: Some(lease), ..
            } = op
                && self
                    .tables
                    .leases
                    .get(lease.0)
                    .map_err(engine_error)?
                    .is_none()
            {
                return Err(StoreError::LeaseNotFound(*lease));
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        key: &Bytes,
        value: &Bytes,
        lease: Option<LeaseId>,
    ) -> Result<Option<KeyValue>, StoreError> {
        let before = self.before(key)?;
        let previous = before.kv.clone();
        let entry = Entry {
            kind: EventKind::Put,
            key: key.clone(),
            value: value.clone(),
            create_revision: previous
                .as_ref()
                .map_or(revision.0, |p| p.create_revision.0),
            version: previous.as_ref().map_or(1, |p| p.version + 1),
            lease,
            previous: before.position,
        };
        let old_lease = previous.as_ref().and_then(|p| p.lease);
        if old_lease != lease {
            self.move_lease(key, old_lease, lease)?;
        }
        self.append(revision, events, entry, before)?;
        Ok(previous)
    }

    fn put_volatile(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        key: &Bytes,
        value: &Bytes,
    ) -> Result<Option<KeyValue>, StoreError> {
        let Some(previous) = self.before(key)?.kv else {
            return Ok(None);
        };
        let kv = KeyValue {
            value: value.clone(),
            mod_revision: revision,
            version: previous.version + 1,
            ..previous.clone()
        };
        self.volatile.insert(key.clone(), Some(kv.clone()));
        events.push(Event {
            kind: EventKind::Put,
            kv,
            prev: Some(previous.clone()),
        });
        Ok(Some(previous))
    }

    fn delete(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        start: &[u8],
        end: &[u8],
    ) -> Result<Vec<KeyValue>, StoreError> {
        let Some(bounds) = read::bounds(start, end) else {
            return Ok(Vec::new());
        };
        let mut live = Vec::new();
        for row in self
            .tables
            .keys
            .range::<&[u8]>(bounds)
            .map_err(engine_error)?
        {
            let (key, row) = row.map_err(engine_error)?;
            if row.value().2 == 1 {
                live.push(Bytes::copy_from_slice(key.value()));
            }
        }
        let mut deleted = Vec::with_capacity(live.len());
        for key in live {
            let before = self.before(&key)?;
            let Some(previous) = before.kv.clone() else {
                continue;
            };
            if previous.lease.is_some() {
                self.move_lease(&key, previous.lease, None)?;
            }
            let entry = Entry {
                kind: EventKind::Delete,
                key,
                value: Bytes::new(),
                create_revision: 0,
                version: 0,
                lease: None,
                previous: before.position,
            };
            self.append(revision, events, entry, before)?;
            deleted.push(previous);
        }
        Ok(deleted)
    }

    fn before(&self, key: &[u8]) -> Result<Before, StoreError> {
        match read::newest(&self.tables.keys, key).map_err(engine_error)? {
            None => Ok(Before::default()),
            Some((position, EventKind::Delete)) => Ok(Before {
                position: Some(position),
                ..Before::default()
            }),
            Some((position, EventKind::Put)) => {
                let entry = read::entry(&self.tables.log, position)?;
                let newer = self.volatile(key);
                Ok(Before {
                    position: Some(position),
                    bytes: entry
                        .as_ref()
                        .map_or(0, |entry| held_bytes(&entry.key, &entry.value)),
                    volatile: newer.is_some(),
                    kv: newer.or_else(|| entry.map(|entry| entry.into_kv(position.0))),
                })
            }
        }
    }

    fn append(
        &mut self,
        revision: Revision,
        events: &mut Vec<Event>,
        entry: Entry,
        before: Before,
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
            self.superseded_bytes += held_bytes(&entry.key, &entry.value);
        }
        if before.volatile {
            self.volatile.insert(entry.key.clone(), None);
        }
        events.push(entry.into_event(revision.0, before.kv));
        Ok(())
    }

    fn move_lease(
        &mut self,
        key: &[u8],
        old: Option<LeaseId>,
        new: Option<LeaseId>,
    ) -> Result<(), StoreError> {
        let table = &mut self.tables.lease_keys;
        if let Some(old) = old {
            table.remove((old.0, key)).map_err(engine_error)?;
        }
        if let Some(new) = new {
            table.insert((new.0, key), ()).map_err(engine_error)?;
        }
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
            let entry = Entry::decode(bytes.value())?;
            let freed = held_bytes(&entry.key, &entry.value);
            self.superseded_bytes = self.superseded_bytes.saturating_sub(freed);
        }
        Ok(())
    }

    pub(super) fn lease_grant(&mut self, ttl: std::time::Duration) -> Result<Lease, StoreError> {
        let seconds = ttl.as_secs().max(1);
        if seconds > LEASE_SECONDS_MAX {
            return Err(StoreError::LeaseTooLong {
                seconds,
                limit: LEASE_SECONDS_MAX,
            });
        }
        let id = meta(&self.tables.meta, NEXT_LEASE).map_err(engine_error)? + 1;
        self.tables
            .meta
            .insert(NEXT_LEASE, id)
            .map_err(engine_error)?;
        self.tables
            .leases
            .insert(id, seconds)
            .map_err(engine_error)?;
        self.dirty = Dirty::Changed;
        Ok(Lease {
            id: LeaseId(id),
            ttl: std::time::Duration::from_secs(seconds),
        })
    }

    /// Ends a lease and deletes its keys, all at one revision.
    pub(super) fn lease_revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let known = self.tables.leases.remove(lease.0).map_err(engine_error)?;
        if known.is_none() {
            return Err(StoreError::LeaseNotFound(lease));
        }
        drop(known);
        self.dirty = Dirty::Changed;
        let mut keys = Vec::new();
        for row in self
            .tables
            .lease_keys
            .range((lease.0, [].as_slice())..(lease.0 + 1, [].as_slice()))
            .map_err(engine_error)?
        {
            let (row, _) = row.map_err(engine_error)?;
            keys.push(Bytes::copy_from_slice(row.value().1));
        }
        let revision = self.head.next();
        let mut events = Vec::new();
        for key in keys {
            self.delete(revision, &mut events, &key, &[])?;
        }
        self.end_revision(revision, events);
        Ok(())
    }
}

fn compare_holds(stored: Option<&KeyValue>, compare: &Compare) -> bool {
    let relation = compare.relation;
    match &compare.target {
        Target::ModRevision(given) => relates(
            &stored.map_or(Revision(0), |kv| kv.mod_revision),
            given,
            relation,
        ),
        Target::CreateRevision(given) => relates(
            &stored.map_or(Revision(0), |kv| kv.create_revision),
            given,
            relation,
        ),
        Target::Version(given) => relates(&stored.map_or(0, |kv| kv.version), given, relation),
        Target::Value(given) => match stored {
            Some(kv) => relates(&kv.value, given, relation),
            None => relation == Relation::NotEqual,
        },
    }
}

fn relates<T: Ord>(stored: &T, given: &T, relation: Relation) -> bool {
    match relation {
        Relation::Equal => stored == given,
        Relation::NotEqual => stored != given,
        Relation::Greater => stored > given,
        Relation::Less => stored < given,
    }
}
