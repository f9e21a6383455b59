// SPDX-License-Identifier: Apache-2.0
//! The one writer: takes what is waiting, does all of it in one write transaction, commits once.
//!
//! While a commit waits for the disk, further requests queue up; they are the next group. A group
//! without a change is not committed at all. The writer sleeps until a request comes.

use std::sync::Arc;

use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;

use super::apply::{Dirty, Published, Writer};
use super::format::{EventKind, KEYS, Tables};
use super::overlay::{Overlay, Values, View};
use super::watch::Hub;
use super::{Shared, engine_error, read};
use crate::{Revision, StoreError, Txn, TxnResult};

/// Requests that may wait for the writer; more make their callers wait.
pub(super) const REQUEST_QUEUE: usize = 1024;
/// Requests in one commit, so that the first of them does not wait for ever.
const GROUP_MAX: usize = 512;
/// Log entries that one commit compacts beside its own work, so that no commit takes long.
const COMPACT_STEP: usize = 1000;
/// Log entries that one commit compacts when it was asked to: some ten milliseconds' work, so that a history of
/// millions of changes goes in many commits and others are served between them.
const COMPACT_ASKED_STEP: usize = 10_000;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Request {
    Txn(Txn, Reply<TxnResult>),
    Compact(Revision, Reply<()>),
    Close(oneshot::Sender<()>),
}

/// An answer that is given once the group is on disk.
enum Answer {
    Txn(Reply<TxnResult>, Result<TxnResult, StoreError>),
    Done(Reply<()>, Result<(), StoreError>),
}

impl Answer {
    /// Sends the answer, or `failure` if the group could not be committed. A caller that has gone
    /// away does not need one.
    fn send(self, failure: Option<&StoreError>) {
        fn one<T>(reply: Reply<T>, result: Result<T, StoreError>, failure: Option<&StoreError>) {
            let result = match failure {
                Some(error) => Err(error.clone()),
                None => result,
            };
            drop(reply.send(result));
        }
        match self {
            Self::Txn(reply, result) => one(reply, result, failure),
            Self::Done(reply, result) => one(reply, result, failure),
        }
    }
}

/// Runs until a `Close` request or until every sender is gone. An error is a panic under a group: what that group
/// did is not committed, and what is in memory is not to be trusted any more.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut requests: mpsc::Receiver<Request>,
) -> Result<(), JoinError> {
    let mut group = Vec::with_capacity(GROUP_MAX);
    let closed = loop {
        let goes_on = !group.is_empty();
        tokio::select! {
            // Dropping recv_many loses nothing: it takes requests out only when it is ready.
            received = requests.recv_many(&mut group, GROUP_MAX) => {
                if received == 0 {
                    break None;
                }
            }
            // A compaction that is not done yet waits for nobody.
            () = std::future::ready(()), if goes_on => {}
        }
        let mut closing = None;
        let mut work = Vec::with_capacity(group.len());
        for request in group.drain(..) {
            match request {
                Request::Close(done) => closing = Some(done),
                other => work.push(other),
            }
        }
        if !work.is_empty() {
            let shared = shared.clone();
            let committing = tokio::task::spawn_blocking(move || commit_group(&shared, work));
            // Compactions that have not reached their end are part of the next group.
            group = committing.await?;
        }
        if closing.is_some() {
            break closing;
        }
    };
    requests.close();
    shared.hub.close();
    let releasing = shared.clone();
    tokio::task::spawn_blocking(move || {
        // Without it the head jumps at the next start, as after a crash.
        if let Err(error) = release(&releasing) {
            let error = knarr_base::chain(&error);
            tracing::warn!(%error, "the store's reserved revisions could not be given back");
        }
    })
    .await?;
    // Whoever opens the file again may be waiting for the disk.
    tokio::task::spawn_blocking(move || shared.close_database()).await?;
    if let Some(done) = closed {
        // The caller of `close` may have gone away.
        let _ = done.send(());
    }
    Ok(())
}

/// Does a group, commits it, tells the watches and then the callers. Returns what has to go on in the next group.
fn commit_group(shared: &Shared, group: Vec<Request>) -> Vec<Request> {
    let mut answers = Vec::with_capacity(group.len());
    let mut unfinished = Vec::new();
    let outcome = apply_group(shared, group, &mut answers, &mut unfinished);
    let failure = match outcome {
        Ok(Some(published)) => {
            shared.publish(published);
            None
        }
        Ok(None) => None,
        Err(error) => {
            shared.failed(&error);
            let unfinished = unfinished.drain(..);
            answers.extend(unfinished.filter_map(|request| refusal(request, &error)));
            Some(error)
        }
    };
    for answer in answers {
        answer.send(failure.as_ref());
    }
    unfinished
}

fn apply_group(
    shared: &Shared,
    group: Vec<Request>,
    answers: &mut Vec<Answer>,
    unfinished: &mut Vec<Request>,
) -> Result<Option<Published>, StoreError> {
    // A failure before or during the commit must reach every caller of the group, so callers are
    // moved into `answers` even when their request is never looked at.
    let mut requests = group.into_iter();
    let result = (|| {
        let database = shared.database()?;
        let txn = database.begin_write().map_err(engine_error)?;
        let tables = Tables::open(&txn).map_err(engine_error)?;
        let mut writer = Writer::new(tables, &shared.overlay)?;
        for request in requests.by_ref() {
            apply_one(&mut writer, request, answers, unfinished)?;
        }
        if writer.dirty == Dirty::Clean {
            let published = (!writer.is_unchanged()).then(|| writer.into_published());
            txn.abort().map_err(engine_error)?;
            return Ok(published);
        }
        compact_step(&mut writer, shared)?;
        writer.finish()?;
        let published = writer.into_published();
        txn.commit().map_err(engine_error)?;
        Ok(Some(published))
    })();
    if let Err(error) = &result {
        for request in requests {
            answers.extend(refusal(request, error));
        }
    }
    result
}

/// Gives back the revisions that were reserved and not given out, so that clients can go on after an orderly restart where
/// they were.
fn release(shared: &Shared) -> Result<(), StoreError> {
    let database = shared.database()?;
    let txn = database.begin_write().map_err(engine_error)?;
    let tables = Tables::open(&txn).map_err(engine_error)?;
    let mut writer = Writer::new(tables, &shared.overlay)?;
    let released = writer.release()?;
    drop(writer);
    if released {
        txn.commit().map_err(engine_error)
    } else {
        txn.abort().map_err(engine_error)
    }
}

/// Does one request. Returns an error only if the whole group is lost.
fn apply_one(
    writer: &mut Writer<'_>,
    request: Request,
    answers: &mut Vec<Answer>,
    unfinished: &mut Vec<Request>,
) -> Result<(), StoreError> {
    let (answer, error) = match request {
        Request::Txn(txn, reply) => {
            let result = writer.txn(&txn);
            let error = result.as_ref().err().cloned();
            (Answer::Txn(reply, result), error)
        }
        Request::Compact(revision, reply) => {
            let result = match compact_asked(writer, revision) {
                Ok(reached) if reached < revision => {
                    unfinished.push(Request::Compact(revision, reply));
                    return Ok(());
                }
                other => other.map(drop),
            };
            let error = result.as_ref().err().cloned();
            (Answer::Done(reply, result), error)
        }
        // Taken out by the caller.
        Request::Close(_) => return Ok(()),
    };
    answers.push(answer);
    match error {
        // The tables may be half changed: nothing of this group may be committed.
        Some(error) if error.is_retryable() => Err(error),
        _ => Ok(()),
    }
}

fn refusal(request: Request, error: &StoreError) -> Option<Answer> {
    let error = error.clone();
    match request {
        Request::Txn(_, reply) => Some(Answer::Txn(reply, Err(error))),
        Request::Compact(_, reply) => Some(Answer::Done(reply, Err(error))),
        Request::Close(_) => None,
    }
}

/// One step of a compaction that somebody waits for; returns how far it got.
fn compact_asked(writer: &mut Writer<'_>, revision: Revision) -> Result<Revision, StoreError> {
    if revision > writer.head {
        return Err(StoreError::FutureRevision {
            requested: revision,
            newest: writer.head,
        });
    }
    writer.compact(revision, COMPACT_ASKED_STEP)
}

/// Keeps the history within its bytes, in steps that ride on commits which happen anyway. Each step takes the oldest of
/// the older half, so that the history is no shorter than it has to be.
fn compact_step(writer: &mut Writer<'_>, shared: &Shared) -> Result<(), StoreError> {
    if writer.superseded_bytes() <= shared.options.history_bytes {
        return Ok(());
    }
    let half = Revision(writer.compacted.0.midpoint(writer.head.0));
    if half > writer.compacted {
        writer.compact(half, COMPACT_STEP)?;
    }
    Ok(())
}

/// Tells the watches what was committed by a commit that was reported as failed, as found in the file that is opened
/// again. What that commit did to volatile values is followed first.
///
/// The commit may have compacted past what the watches have seen (a group holds whatever was asked for at that time).
/// Then nothing can tell them what they missed, and they are ended as if they had been too slow.
pub(super) fn catch_up(
    hub: &Hub,
    overlay: &Overlay,
    database: &Database,
) -> Result<Revision, StoreError> {
    let read = database.begin_read().map_err(engine_error)?;
    let (head, compacted) = read::revisions(&read)?;
    if hub.head() >= head {
        return Ok(compacted);
    }
    let keys = read.open_table(KEYS).map_err(engine_error)?;
    overlay.catch_up(head, |kv| {
        let newest = read::newest(&keys, &kv.key).map_err(engine_error)?;
        Ok::<_, StoreError>(newest.is_some_and(|(position, kind)| {
            kind == EventKind::Put && position.0 < kv.mod_revision.0
        }))
    })?;
    let view = View {
        head,
        values: Values::new(),
    };
    while hub.head() < head {
        let seen = hub.head();
        if seen < compacted {
            hub.cut_off(head);
            break;
        }
        let history = read::history(&read, &view, seen, super::REPLAY_EVENTS)?;
        hub.publish(&history.batches, history.through);
    }
    Ok(compacted)
}
