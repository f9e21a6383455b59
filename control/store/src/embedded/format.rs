// SPDX-License-Identifier: Apache-2.0
//! The layout of the embedded engine's file: tables, the encoding of a log entry, the version check.
//!
//! `log` holds every change by revision, values included; `keys` says which change a key's newest is.
//! Each entry of the log points to the entry before it of the same key, so an older revision is read
//! by following these pointers, and compaction removes what a later entry at or below the compacted
//! revision points to. A deletion is an entry without value, whose row in `keys` stays until
//! compaction passes it.

use std::path::Path;

use bytes::Bytes;
use redb::{
    Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError, WriteTransaction,
};

use crate::{Event, KeyValue, OpenError, Revision, StoreError};

/// The version of the layout that this program writes. Raised when an older program would misread it.
///
/// 2: `reserved`. An older program would give out revisions again that clients have seen.
pub(super) const FORMAT_VERSION: u64 = 2;

/// Where a change stands in the log: revision, and its number within the transaction.
pub(super) type Position = (u64, u32);

/// Named numbers: `format`, `head`, `reserved`, `compacted`, `superseded_bytes`.
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("knarr-meta");
/// Key to (revision, number in the transaction, 1 if it exists or 0 if that change deleted it).
pub(super) const KEYS: TableDefinition<&[u8], (u64, u32, u8)> = TableDefinition::new("keys");
/// Position to [`Entry`].
pub(super) const LOG: TableDefinition<Position, &[u8]> = TableDefinition::new("log");
pub(super) const HEAD: &str = "head";
/// No revision after this one was given out to a volatile change; 0 while there was none.
pub(super) const RESERVED: &str = "reserved";
pub(super) const COMPACTED: &str = "compacted";
pub(super) const SUPERSEDED_BYTES: &str = "superseded_bytes";
pub(super) const FORMAT: &str = "format";

/// The tables of one write transaction.
pub(super) struct Tables<'txn> {
    pub(super) meta: Table<'txn, &'static str, u64>,
    pub(super) keys: Table<'txn, &'static [u8], (u64, u32, u8)>,
    pub(super) log: Table<'txn, Position, &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            meta: txn.open_table(META)?,
            keys: txn.open_table(KEYS)?,
            log: txn.open_table(LOG)?,
        })
    }
}

/// What a change did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventKind {
    Put,
    Delete,
}

/// One change in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: EventKind,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    /// The change before this one of the same key.
    pub(super) previous: Option<Position>,
}

/// Bytes that are 0. Earlier programs kept a create revision, a version and a lease there, which nothing read.
const UNUSED_BYTES: usize = 8 + 8 + 8;
/// Bytes before the key: kind, unused, previous position, key length.
const HEADER_BYTES: usize = 1 + UNUSED_BYTES + 8 + 4 + 4;
/// What the engine needs for one change beside its key and value: its header, its position, its place in a page.
const ENTRY_OVERHEAD_BYTES: usize = 96;

impl Entry {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.key.len() + self.value.len());
        out.push(match self.kind {
            EventKind::Put => 1,
            EventKind::Delete => 0,
        });
        out.extend_from_slice(&[0; UNUSED_BYTES]);
        let (revision, sub) = self.previous.unwrap_or((0, 0));
        out.extend_from_slice(&revision.to_le_bytes());
        out.extend_from_slice(&sub.to_le_bytes());
        // Keys are limited to far less than 4 GiB by `check_sizes`.
        let key_len = u32::try_from(self.key.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&key_len.to_le_bytes());
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.value);
        out
    }

    /// Bytes of the file that an entry of `encoded` bytes holds.
    pub(super) fn held_bytes(encoded: usize) -> u64 {
        (encoded + ENTRY_OVERHEAD_BYTES - HEADER_BYTES) as u64
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader { rest: bytes };
        let kind = match reader.array::<1>()?[0] {
            0 => EventKind::Delete,
            1 => EventKind::Put,
            other => return Err(damaged(&format!("unknown kind {other}"))),
        };
        reader.array::<UNUSED_BYTES>()?;
        let revision = u64::from_le_bytes(reader.array()?);
        let sub = u32::from_le_bytes(reader.array()?);
        let key_len = u32::from_le_bytes(reader.array()?) as usize;
        if reader.rest.len() < key_len {
            return Err(damaged("shorter than its key"));
        }
        // One allocation holds both; key and value are views of it.
        let tail = Bytes::copy_from_slice(reader.rest);
        Ok(Self {
            kind,
            key: tail.slice(..key_len),
            value: tail.slice(key_len..),
            previous: (revision != 0).then_some((revision, sub)),
        })
    }

    pub(super) fn into_kv(self, revision: u64) -> KeyValue {
        KeyValue {
            key: self.key,
            value: self.value,
            mod_revision: Revision(revision),
        }
    }

    pub(super) fn into_event(self) -> Event {
        let Self {
            kind, key, value, ..
        } = self;
        match kind {
            EventKind::Put => Event::Put { key, value },
            EventKind::Delete => Event::Delete { key },
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| damaged("too short"))?;
        self.rest = rest;
        Ok(*head)
    }
}

fn damaged(reason: &str) -> StoreError {
    StoreError::io(format!("damaged log entry: {reason}"))
}

/// A number of `META`, 0 where it was never written.
pub(super) fn meta(
    table: &impl ReadableTable<&'static str, u64>,
    name: &'static str,
) -> Result<u64, redb::StorageError> {
    Ok(table.get(name)?.map_or(0, |value| value.value()))
}

/// Refuses a file that is no store or of a newer version; makes the tables in an empty one.
pub(super) fn check_or_create(database: &Database, path: &Path) -> Result<(), OpenError> {
    let engine = |source: redb::Error| OpenError::Engine {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let read = database.begin_read().map_err(|e| engine(e.into()))?;
    let found = match read.open_table(META) {
        Ok(table) => meta(&table, FORMAT).map_err(|e| engine(e.into()))?,
        Err(TableError::TableDoesNotExist(_)) => {
            let tables = read.list_tables().map_err(|e| engine(e.into()))?.count();
            drop(read);
            if tables > 0 {
                return Err(OpenError::NotAStore {
                    path: path.to_owned(),
                    reason: "it is a redb database of another program".to_owned(),
                });
            }
            return create(database).map_err(engine);
        }
        Err(error) => return Err(engine(error.into())),
    };
    if found > FORMAT_VERSION {
        return Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found,
            supported: FORMAT_VERSION,
        });
    }
    Ok(())
}

fn create(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut tables = Tables::open(&txn)?;
        tables.meta.insert(FORMAT, FORMAT_VERSION)?;
    }
    txn.commit()?;
    Ok(())
}

/// Writes a version number into the file, for the test of the refusal.
#[cfg(test)]
pub(super) fn set_format(database: &Database, version: u64) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(META)?.insert(FORMAT, version)?;
    txn.commit()?;
    Ok(())
}
