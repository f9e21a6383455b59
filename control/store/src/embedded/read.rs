// SPDX-License-Identifier: Apache-2.0
//! Reads: a range as of a revision, and the history of a range.
//!
//! Works on the tables of a read transaction as well as on those of the write transaction that is
//! being built, so that a step of a transaction sees the steps before it.

use std::ops::Bound;

use redb::{ReadableTable, StorageError};

use super::engine_error;
use super::format::{COMPACTED, Entry, HEAD, KEYS, LOG, META, Position, meta};
use crate::{EventKind, KeyValue, Range, RangeResult, Revision, StoreError, WatchBatch};

/// Where a range of keys ends.
pub(super) enum End<'a> {
    /// The range is the one key it starts with.
    Key,
    /// Before this key.
    Before(&'a [u8]),
    /// There is no end.
    Open,
}

/// etcd's reading of a range's end: empty is one key, a single 0 byte is "no end".
pub(super) fn end_of(end: &[u8]) -> End<'_> {
    match end {
        [] => End::Key,
        [0] => End::Open,
        end => End::Before(end),
    }
}

/// Whether `key` lies in the range.
pub(super) fn contains(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end_of(end) {
        End::Key => key == start,
        End::Before(end) => key >= start && key < end,
        End::Open => key >= start,
    }
}

/// First and last key of a walk.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The bounds to walk a table of keys with; `None` where the range is empty.
pub(super) fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> Option<Bounds<'a>> {
    let first = Bound::Included(start);
    match end_of(end) {
        End::Key => Some((first, first)),
        End::Before(end) if end <= start => None,
        End::Before(end) => Some((first, Bound::Excluded(end))),
        End::Open => Some((first, Bound::Unbounded)),
    }
}

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
        return Err(StoreError::Compacted {
            requested: at,
            oldest: compacted,
        });
    }
    Ok(())
}

/// Reads `range` from the tables given. `head` is the newest revision in them.
pub(super) fn range(
    keys: &impl ReadableTable<&'static [u8], (u64, u32, u8)>,
    log: &impl ReadableTable<Position, &'static [u8]>,
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
        count: 0,
    };
    let Some(bounds) = bounds(&range.start, &range.end) else {
        return Ok(result);
    };
    let limit = range.limit.unwrap_or(usize::MAX);
    for row in keys.range::<&[u8]>(bounds).map_err(engine_error)? {
        let (_, row) = row.map_err(engine_error)?;
        let (revision, sub, live) = row.value();
        if revision <= at.0 {
            if live == 0 {
                continue;
            }
            result.count += 1;
            if result.kvs.len() < limit {
                let found = entry(log, (revision, sub))?.ok_or_else(|| missing(revision))?;
                result.kvs.push(found.into_kv(revision));
            }
        } else if let Some(kv) = as_of(log, (revision, sub), at)? {
            result.count += 1;
            if result.kvs.len() < limit {
                result.kvs.push(kv);
            }
        }
    }
    result.more = result.count > result.kvs.len();
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
    /// The changes inside the range, oldest first.
    pub(super) batches: Vec<WatchBatch>,
    /// The last revision that was looked at; equal to `head` when nothing is left.
    pub(super) through: Revision,
    /// The newest revision there is.
    pub(super) head: Revision,
}

/// The changes to the keys of a range from revision `from` on, at most about `max_events` of them.
pub(super) fn history(
    read: &redb::ReadTransaction,
    start: &[u8],
    end: &[u8],
    from: Revision,
    max_events: usize,
) -> Result<History, StoreError> {
    let (head, compacted) = revisions(read)?;
    if from <= compacted {
        return Err(StoreError::Compacted {
            requested: from,
            oldest: compacted,
        });
    }
    let log = read.open_table(LOG).map_err(engine_error)?;
    let mut history = History {
        batches: Vec::new(),
        through: head,
        head,
    };
    let rows = log.range((from.0, 0)..).map_err(engine_error)?;
    for (looked_at, row) in rows.enumerate() {
        let (position, bytes) = row.map_err(engine_error)?;
        let (revision, _) = position.value();
        let whole_revisions_before = history.batches.last().map(|b| b.revision.0) != Some(revision);
        if looked_at >= max_events && whole_revisions_before {
            history.through = Revision(revision - 1);
            break;
        }
        let found = Entry::decode(bytes.value())?;
        if !contains(start, end, &found.key) {
            continue;
        }
        let prev = previous_kv(&log, &found)?;
        let event = found.into_event(revision, prev);
        match history.batches.last_mut() {
            Some(batch) if batch.revision.0 == revision => batch.events.push(event),
            _ => history.batches.push(WatchBatch {
                revision: Revision(revision),
                events: vec![event],
            }),
        }
    }
    Ok(history)
}

/// The key before `entry`, where it existed.
pub(super) fn previous_kv(
    log: &impl ReadableTable<Position, &'static [u8]>,
    current: &Entry,
) -> Result<Option<KeyValue>, StoreError> {
    let Some(position) = current.previous else {
        return Ok(None);
    };
    Ok(entry(log, position)?
        .filter(|previous| previous.kind == EventKind::Put)
        .map(|previous| previous.into_kv(position.0)))
}

/// One range, read in a transaction of its own.
pub(super) fn read_range(
    read: &redb::ReadTransaction,
    wanted: &Range,
) -> Result<RangeResult, StoreError> {
    let (head, compacted) = revisions(read)?;
    let keys = read.open_table(KEYS).map_err(engine_error)?;
    let log = read.open_table(LOG).map_err(engine_error)?;
    range(&keys, &log, wanted, head, compacted)
}
