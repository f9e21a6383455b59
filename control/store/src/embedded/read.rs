// SPDX-License-Identifier: Apache-2.0
//! Reads: a range as of a revision, and the history of a range.
//!
//! Works on the tables of a read transaction as well as on those of the write transaction that is
//! being built, so that a step of a transaction sees the steps before it.

use redb::{ReadableTable, StorageError};

use super::bounds::bounds;
use super::engine_error;
use super::format::{COMPACTED, Entry, EventKind, HEAD, KEYS, LOG, META, Position, RESERVED, meta};
use super::overlay::{Values, View};
use crate::{Event, KeyValue, Range, RangeResult, Revision, StoreError, WatchBatch};

/// The entry at `position`; `None` where compaction has removed it.
pub(super) fn entry(
    log: &impl ReadableTable<Position, &'static [u8]>,
    position: Position,
) -> Result<Option<Entry>, StoreError> {
    let found = log.get(position).map_err(engine_error)?;
    found.map(|bytes| Entry::decode(bytes.value())).transpose()
}

/// The newest change of `key`, whether it exists or was deleted by that change.
pub(super) fn newest(
    keys: &impl ReadableTable<&'static [u8], (u64, u32, u8)>,
    key: &[u8],
) -> Result<Option<(Position, EventKind)>, StorageError> {
    Ok(keys.get(key)?.map(|row| {
        let (revision, sub, live) = row.value();
        let kind = if live == 1 {
            EventKind::Put
        } else {
            EventKind::Delete
        };
        ((revision, sub), kind)
    }))
}

/// Refuses a revision that cannot be read any more or yet.
pub(super) fn check_revision(
    at: Revision,
    head: Revision,
    compacted: Revision,
) -> Result<(), StoreError> {
    if at > head {
        return Err(StoreError::FutureRevision {
            requested: at,
            newest: head,
        });
    }
    if at < compacted {
        return Err(StoreError::Compacted { requested: at });
    }
    Ok(())
}

/// Reads `range` from the tables given and the volatile values beside them. `head` is the newest revision of both. Stops
/// at the first key after the limit, so that a page costs what it holds.
pub(super) fn range(
    keys: &impl ReadableTable<&'static [u8], (u64, u32, u8)>,
    log: &impl ReadableTable<Position, &'static [u8]>,
    volatile: &Values,
    range: &Range,
    head: Revision,
    compacted: Revision,
) -> Result<RangeResult, StoreError> {
    let at = range.revision.unwrap_or(head);
    check_revision(at, head, compacted)?;
    let mut result = RangeResult {
        revision: at,
        kvs: Vec::new(),
        more: false,
    };
    let Some(bounds) = bounds(&range.start, &range.end) else {
        return Ok(result);
    };
    let limit = range.limit.unwrap_or(usize::MAX);
    for row in keys.range::<&[u8]>(bounds).map_err(engine_error)? {
        let (key, row) = row.map_err(engine_error)?;
        let (revision, sub, live) = row.value();
        let durable = if revision > at.0 {
            as_of(log, (revision, sub), at)?
        } else if live == 0 {
            None
        } else {
            let found = entry(log, (revision, sub))?.ok_or_else(|| missing(revision))?;
            Some(found.into_kv(revision))
        };
        let Some(durable) = durable else { continue };
        if result.kvs.len() >= limit {
            result.more = true;
            break;
        }
        let newer = volatile
            .get(key.value())
            .filter(|kv| kv.mod_revision <= at && kv.mod_revision > durable.mod_revision);
        result.kvs.push(newer.cloned().unwrap_or(durable));
    }
    Ok(result)
}

/// The key whose newest change is at `newest`, as it was at the older revision `at`.
fn as_of(
    log: &impl ReadableTable<Position, &'static [u8]>,
    newest: Position,
    at: Revision,
) -> Result<Option<KeyValue>, StoreError> {
    let mut position = newest;
    loop {
        // An entry that is gone was a deletion at or below the compacted revision.
        let Some(found) = entry(log, position)? else {
            return Ok(None);
        };
        if position.0 <= at.0 {
            return Ok((found.kind == EventKind::Put).then(|| found.into_kv(position.0)));
        }
        match found.previous {
            Some(previous) => position = previous,
            None => return Ok(None),
        }
    }
}

fn missing(revision: u64) -> StoreError {
    StoreError::io(format!("the log has no entry for revision {revision}"))
}

/// No revision up to this one may be given out again: the newest of the log, or what was reserved for volatile changes.
pub(super) fn used(read: &redb::ReadTransaction) -> Result<Revision, StoreError> {
    let table = read.open_table(META).map_err(engine_error)?;
    let number = |name| meta(&table, name).map_err(engine_error);
    Ok(Revision(number(HEAD)?.max(number(RESERVED)?)))
}

/// Head and compacted revision as of a read transaction.
pub(super) fn revisions(read: &redb::ReadTransaction) -> Result<(Revision, Revision), StoreError> {
    let table = read.open_table(META).map_err(engine_error)?;
    Ok((
        Revision(meta(&table, HEAD).map_err(engine_error)?),
        Revision(meta(&table, COMPACTED).map_err(engine_error)?),
    ))
}

/// A piece of history.
pub(super) struct History {
    /// The changes, oldest first.
    pub(super) batches: Vec<WatchBatch>,
    /// The last revision that was looked at; equal to `head` when nothing is left.
    pub(super) through: Revision,
    /// The newest revision there is.
    pub(super) head: Revision,
}

/// The changes after revision `after` up to the view's head. Looks at `max_events` changes and goes on to the end of
/// the revision that it is in, so that each piece gets further than the one before.
pub(super) fn history(
    read: &redb::ReadTransaction,
    view: &View,
    after: Revision,
    max_events: usize,
) -> Result<History, StoreError> {
    let (_, compacted) = revisions(read)?;
    if after < compacted {
        return Err(StoreError::Compacted { requested: after });
    }
    let head = view.head;
    let mut history = History {
        batches: Vec::new(),
        through: head.max(after),
        head,
    };
    if after >= head {
        return Ok(history);
    }
    let log = read.open_table(LOG).map_err(engine_error)?;
    let rows = log
        .range((after.next().0, 0)..=(head.0, u32::MAX))
        .map_err(engine_error)?;
    for (looked_at, row) in rows.enumerate() {
        let (position, bytes) = row.map_err(engine_error)?;
        let (revision, _) = position.value();
        let is_new = history
            .batches
            .last()
            .is_none_or(|batch| batch.revision.0 != revision);
        if looked_at >= max_events && is_new {
            history.through = Revision(revision - 1);
            break;
        }
        let event = Entry::decode(bytes.value())?.into_event();
        match history.batches.last_mut() {
            Some(batch) if !is_new => batch.events.push(event),
            _ => history.batches.push(WatchBatch {
                revision: Revision(revision),
                events: vec![event],
            }),
        }
    }
    add_volatile(view, after, &mut history);
    Ok(history)
}

/// Puts the volatile changes of the piece where their revisions belong.
fn add_volatile(view: &View, after: Revision, history: &mut History) {
    for kv in view.values.values() {
        if kv.mod_revision <= after || kv.mod_revision > history.through {
            continue;
        }
        let event = Event::Put {
            key: kv.key.clone(),
            value: kv.value.clone(),
        };
        let batches = &mut history.batches;
        match batches.binary_search_by_key(&kv.mod_revision, |batch| batch.revision) {
            Ok(at) => batches[at].events.push(event),
            Err(at) => batches.insert(
                at,
                WatchBatch {
                    revision: kv.mod_revision,
                    events: vec![event],
                },
            ),
        }
    }
}

/// One range, read in a transaction of its own.
pub(super) fn read_range(
    read: &redb::ReadTransaction,
    view: &View,
    wanted: &Range,
) -> Result<RangeResult, StoreError> {
    let (_, compacted) = revisions(read)?;
    let keys = read.open_table(KEYS).map_err(engine_error)?;
    let log = read.open_table(LOG).map_err(engine_error)?;
    range(&keys, &log, &view.values, wanted, view.head, compacted)
}
