// SPDX-License-Identifier: Apache-2.0
//! The store's values as etcd's messages and back. Plain functions, called by the engine `etcd`.

use bytes::Bytes;

use crate::{Compare, Event, KeyValue, Op, Range, Revision, Txn, WatchBatch};

#[allow(missing_docs, clippy::all)]
pub(super) mod pb {
    tonic::include_proto!("etcdserverpb");
}

use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;
use pb::response_op::Response;

/// The first key that there can be. As the end of a range it means that the range has none.
pub(super) const FIRST_KEY: Bytes = Bytes::from_static(&[0]);

/// etcd counts with signed numbers and never below 0.
pub(super) fn number(signed: i64) -> u64 {
    u64::try_from(signed).unwrap_or(0)
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn key_value(kv: pb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        mod_revision: Revision(number(kv.mod_revision)),
    }
}

pub(super) fn range(range: Range) -> pb::RangeRequest {
    let Range {
        start,
        end,
        revision,
        limit,
    } = range;
    pb::RangeRequest {
        // No key is empty, and etcd refuses to start there.
        key: if start.is_empty() { FIRST_KEY } else { start },
        range_end: end,
        limit: limit.map_or(0, |limit| i64::try_from(limit).unwrap_or(i64::MAX)),
        revision: revision.map_or(0, |revision| signed(revision.0)),
        ..pb::RangeRequest::default()
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn put(key: &Bytes, value: &Bytes) -> pb::RequestOp {
    op(Request::RequestPut(pb::PutRequest {
        key: key.clone(),
        value: value.clone(),
    }))
}

fn step(step: &Op) -> pb::RequestOp {
    match step {
        Op::Put { key, value } => put(key, value),
        // A key that does not exist stays so.
        Op::PutVolatile { key, value } => op(Request::RequestTxn(pb::TxnRequest {
            compare: vec![pb::Compare {
                result: CompareResult::Greater.into(),
                target: CompareTarget::Version.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::Version(0)),
            }],
            success: vec![put(key, value)],
            failure: Vec::new(),
        })),
        Op::Delete { key } => op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.clone(),
        })),
    }
}

fn compare(compare: &Compare) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: compare.key.clone(),
        target_union: Some(TargetUnion::ModRevision(signed(compare.mod_revision.0))),
    }
}

/// Where a comparison does not hold, every compared key is read: etcd does not say which it was.
pub(super) fn txn(txn: &Txn) -> pb::TxnRequest {
    let look = |compare: &Compare| {
        op(Request::RequestRange(pb::RangeRequest {
            key: compare.key.clone(),
            keys_only: true,
            ..pb::RangeRequest::default()
        }))
    };
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        success: txn.then.iter().map(step).collect(),
        failure: txn.compare.iter().map(look).collect(),
    }
}

/// The compared keys that are not as compared.
pub(super) fn conflicts(txn: &Txn, answer: &pb::TxnResponse) -> Vec<Bytes> {
    if answer.succeeded {
        return Vec::new();
    }
    let found = |response: &pb::ResponseOp| match &response.response {
        Some(Response::ResponseRange(range)) => range.kvs.first().map(|kv| kv.mod_revision),
        _ => None,
    };
    let compared = txn.compare.iter().zip(&answer.responses);
    compared
        .filter(|(compare, response)| {
            number(found(response).unwrap_or(0)) != compare.mod_revision.0
        })
        .map(|(compare, _)| compare.key.clone())
        .collect()
}

/// All keys, from revision `start` on.
pub(super) fn watch(start: Revision) -> pb::WatchRequest {
    let create = pb::WatchCreateRequest {
        key: FIRST_KEY,
        range_end: FIRST_KEY,
        start_revision: signed(start.0),
    };
    pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    }
}

/// The changes after revision `after`, by revision. etcd sends all changes of a revision in one message, and never the
/// revisions out of order.
pub(super) fn batches(events: Vec<pb::Event>, after: Revision) -> Vec<WatchBatch> {
    let mut batches: Vec<WatchBatch> = Vec::new();
    for event in events {
        let deleted = event.r#type() == pb::event::EventType::Delete;
        let Some(kv) = event.kv.map(key_value) else {
            continue;
        };
        let revision = kv.mod_revision;
        if revision <= after {
            continue;
        }
        let KeyValue { key, value, .. } = kv;
        let event = if deleted {
            Event::Delete { key }
        } else {
            Event::Put { key, value }
        };
        match batches.last_mut() {
            Some(batch) if batch.revision == revision => batch.events.push(event),
            _ => batches.push(WatchBatch {
                revision,
                events: vec![event],
            }),
        }
    }
    batches
}

#[cfg(test)]
mod tests;
