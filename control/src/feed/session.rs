// SPDX-License-Identifier: Apache-2.0
//! One connected agent: what it is told, and what becomes of what it says.
//!
//! Two halves that share nothing but the node's name. [`tell`] writes deltas as the hub's log grows;
//! [`listen`] applies reports, several pods at a time but each pod's in order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use knarr_api::feed::{
    Change, Delta, FromNode, OpenStream, PodGone, PodReport, Snapshot, ToNode, from_node, to_node,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::Feed;
use super::hub::CHANGES_PER_DELTA_MAX;
use crate::clock;

/// Messages on their way to one agent; a slow agent is told later, never dropped for it.
pub(super) const OUTBOX_MAX: usize = 16;
/// Reports of different pods applied at once: enough to share one commit of the store.
const REPORTERS: usize = 8;
/// Reports waiting for one reporter; then the connection's flow control holds the agent back.
const REPORTS_WAITING_MAX: usize = 64;

/// Bytes of one part of a snapshot. One change may be larger by itself (an object has up to 3 MiB); the agent
/// takes messages of many times that.
const PART_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The agent's half of the conversation.
pub(super) type Outbox = mpsc::Sender<Result<ToNode, Status>>;

fn message(message: to_node::Message) -> ToNode {
    ToNode {
        message: Some(message),
    }
}

/// Tells the agent everything after `resume`, or everything there is, and then each change.
pub(super) async fn tell(
    feed: Arc<Feed>,
    node: String,
    resume: Option<u64>,
    outbox: Outbox,
    mut requests: mpsc::Receiver<OpenStream>,
) {
    let mut latest = feed.hub.subscribe();
    let mut version = resume;
    loop {
        let told = match version {
            Some(told) => told,
            None => match tell_everything(&feed, &node, &outbox).await {
                Some(told) => told,
                None => return,
            },
        };
        // Streams that people wait for do not queue behind a long run of changes.
        while let Ok(open) = requests.try_recv() {
            if outbox
                .send(Ok(message(to_node::Message::OpenStream(open))))
                .await
                .is_err()
            {
                return;
            }
        }
        latest.mark_unchanged();
        version = match feed.hub.since(told, &node) {
            Some(piece) if !piece.changes.is_empty() => {
                let delta = Delta {
                    version: piece.version,
                    changes: piece.changes,
                    snapshot: Snapshot::None.into(),
                };
                if outbox
                    .send(Ok(message(to_node::Message::Delta(delta))))
                    .await
                    .is_err()
                {
                    return;
                }
                Some(piece.version)
            }
            // Nothing for this node: wait for more. Both arms only receive, so dropping one loses nothing.
            Some(piece) => {
                tokio::select! {
                    changed = latest.changed() => if changed.is_err() { return },
                    Some(open) = requests.recv() => {
                        if outbox.send(Ok(message(to_node::Message::OpenStream(open)))).await.is_err() {
                            return;
                        }
                    }
                    () = outbox.closed() => return,
                }
                Some(piece.version)
            }
            None => None,
        };
    }
}

/// How many changes go into the next part of a snapshot: bounded by count and by bytes, at least one.
fn part_of(changes: &[Change]) -> usize {
    let mut bytes = 0;
    let fits = changes
        .iter()
        .take(CHANGES_PER_DELTA_MAX)
        .take_while(|change| {
            bytes += change.encoded_len();
            bytes <= PART_BYTES_MAX
        });
    fits.count().max(1).min(changes.len())
}

async fn tell_everything(feed: &Feed, node: &str, outbox: &Outbox) -> Option<u64> {
    let (version, mut changes) = feed.hub.snapshot(node);
    tracing::info!(
        node,
        version,
        changes = changes.len(),
        "sending a full snapshot"
    );
    loop {
        let rest = changes.split_off(part_of(&changes));
        let snapshot = if rest.is_empty() {
            Snapshot::Last
        } else {
            Snapshot::Part
        };
        let delta = Delta {
            version,
            changes,
            snapshot: snapshot.into(),
        };
        outbox
            .send(Ok(message(to_node::Message::Delta(delta))))
            .await
            .ok()?;
        if rest.is_empty() {
            return Some(version);
        }
        changes = rest;
    }
}

enum Report {
    Pod(PodReport),
    Gone(PodGone),
}

impl Report {
    fn uid(&self) -> &str {
        match self {
            Self::Pod(report) => &report.uid,
            Self::Gone(gone) => &gone.uid,
        }
    }
}

/// Applies what the agent says until it hangs up.
pub(super) async fn listen(feed: Arc<Feed>, node: String, mut inbox: Streaming<FromNode>) {
    let mut reporters = Vec::with_capacity(REPORTERS);
    let mut tasks = JoinSet::new();
    for _ in 0..REPORTERS {
        let (sender, mut reports) = mpsc::channel(REPORTS_WAITING_MAX);
        reporters.push(sender);
        let (feed, node) = (feed.clone(), node.clone());
        tasks.spawn(async move {
            while let Some(report) = reports.recv().await {
                match report {
                    Report::Pod(report) => feed.apply_pod(&node, report).await,
                    Report::Gone(gone) => feed.apply_gone(&node, gone).await,
                }
            }
        });
    }
    let dispatch = async |report: Report| {
        let mut hasher = DefaultHasher::new();
        report.uid().hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % REPORTERS as u64).unwrap_or_default();
        // A reporter ends only when its sender is dropped, below.
        let _ = reporters[index].send(report).await;
    };
    while let Some(received) = inbox.next().await {
        let received = match received {
            Ok(received) => received,
            Err(status) => {
                tracing::info!(node, %status, "the agent's connection broke");
                break;
            }
        };
        feed.heartbeats.beat(&node, clock::moment());
        match received.message {
            Some(from_node::Message::Heartbeat(_)) => feed.revive_node(&node).await,
            Some(from_node::Message::Pod(report)) => dispatch(Report::Pod(report)).await,
            Some(from_node::Message::PodGone(gone)) => dispatch(Report::Gone(gone)).await,
            Some(from_node::Message::Node(report)) => {
                feed.apply_node(&node, &report.node_json).await
            }
            Some(from_node::Message::Event(report)) => {
                feed.apply_event(&node, &report.event_json).await
            }
            Some(from_node::Message::Ack(ack)) => feed.sessions.acked(&node, ack.version),
            Some(from_node::Message::Hello(_)) => {
                tracing::warn!(
                    node,
                    "the agent said hello twice on one connection; ignored"
                );
            }
            None => tracing::warn!(
                node,
                "the agent sent a message of a kind this version does not know"
            ),
        }
    }
    drop(reporters);
    while tasks.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
