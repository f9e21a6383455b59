// SPDX-License-Identifier: Apache-2.0
//! One connected agent: what it is told, and what becomes of what it says.
//!
//! Two halves that share nothing but the node's name. [`tell`] writes deltas as the hub's log grows;
//! [`listen`] has reports applied, each kind in lanes of its own.

use std::sync::Arc;

use knarr_api::feed::{Change, Delta, FromNode, OpenStream, Snapshot, ToNode, from_node, to_node};
use knarr_api::k8s_openapi::api::core::v1::Event;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::Feed;
use super::hub::{CHANGES_PER_DELTA_MAX, DELTA_BYTES_MAX};
use super::lanes::{Lanes, Report};
use crate::clock;

/// Messages on their way to one agent; a slow agent is told later, never dropped for it. Each has up to
/// [`DELTA_BYTES_MAX`] bytes, so an agent that does not read keeps a few megabytes waiting and no more.
pub(super) const OUTBOX_MAX: usize = 2;
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
            bytes <= DELTA_BYTES_MAX
        });
    fits.count().max(1).min(changes.len())
}

/// Sends what the node has to know part by part. Each part is read when the one before is on its way, so that nothing holds
/// ten thousand Services at once, for many nodes that connect together. A part may show what changed after `version`;
/// the deltas that follow `version` say it again, which changes nothing.
async fn tell_everything(feed: &Feed, node: &str, outbox: &Outbox) -> Option<u64> {
    let version = feed.hub.version();
    tracing::info!(node, version, "sending a full snapshot");
    let mut after = None;
    loop {
        let (changes, next) = feed.hub.snapshot_services(after.as_ref());
        if !changes.is_empty() {
            tell_parts(version, changes, Snapshot::Part, outbox).await?;
        }
        match next {
            Some(name) => after = Some(name),
            None => break,
        }
    }
    let changes = feed.hub.snapshot_of_node(node);
    tell_parts(version, changes, Snapshot::Last, outbox).await?;
    Some(version)
}

/// Sends changes in messages of bounded size, the last of them (there is always one) marked `last`.
async fn tell_parts(
    version: u64,
    mut changes: Vec<Change>,
    last: Snapshot,
    outbox: &Outbox,
) -> Option<()> {
    loop {
        let rest = changes.split_off(part_of(&changes));
        let is_end = rest.is_empty();
        let snapshot = if is_end { last } else { Snapshot::Part };
        let delta = Delta {
            version,
            changes,
            snapshot: snapshot.into(),
        };
        outbox
            .send(Ok(message(to_node::Message::Delta(delta))))
            .await
            .ok()?;
        if is_end {
            return Some(());
        }
        changes = rest;
    }
}

/// Applies what the agent says until it hangs up.
pub(super) async fn listen(feed: Arc<Feed>, node: String, mut inbox: Streaming<FromNode>) {
    let (applying, about) = (feed.clone(), node.clone());
    let mut lanes = Lanes::start(move |report| {
        let (feed, node) = (applying.clone(), about.clone());
        async move {
            match report {
                Report::Pod(report) => feed.apply_pod(&node, report).await,
                Report::Gone(gone) => feed.apply_gone(&node, gone).await,
                Report::Event(event) => feed.apply_event(&node, *event).await,
                Report::Node(report) => feed.apply_node(&node, &report.node_json).await,
                Report::Heard => feed.heard(&node).await,
            }
        }
    });
    loop {
        // Safe to drop: a message that is not received stays in the connection, and an end stays an end.
        let received = tokio::select! {
            received = inbox.next() => received,
            () = lanes.broken() => break,
        };
        let received = match received {
            Some(Ok(received)) => received,
            Some(Err(status)) => {
                tracing::info!(node, %status, "the agent's connection broke");
                break;
            }
            None => break,
        };
        feed.heartbeats.beat(&node, clock::moment());
        let report = match received.message {
            Some(from_node::Message::Heartbeat(_)) => Report::Heard,
            Some(from_node::Message::Pod(report)) => Report::Pod(report),
            Some(from_node::Message::PodGone(gone)) => Report::Gone(gone),
            Some(from_node::Message::Node(report)) => Report::Node(report),
            Some(from_node::Message::Event(report)) => {
                match serde_json::from_slice::<Box<Event>>(&report.event_json) {
                    Ok(event) if feed.may_report(&node, &event) => Report::Event(event),
                    Ok(event) => {
                        let object = &event.involved_object.name;
                        tracing::warn!(
                            node,
                            ?object,
                            "an event about what is not this node's is refused"
                        );
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(node, %error, "an event cannot be read");
                        continue;
                    }
                }
            }
            Some(from_node::Message::Ack(ack)) => {
                feed.sessions.acked(&node, ack.version);
                continue;
            }
            Some(from_node::Message::Hello(_)) => {
                tracing::warn!(
                    node,
                    "the agent said hello twice on one connection; ignored"
                );
                continue;
            }
            None => {
                tracing::warn!(
                    node,
                    "the agent sent a message of a kind this version does not know"
                );
                continue;
            }
        };
        if lanes.send(report).await.is_err() {
            // The agent connects again and says everything anew.
            break;
        }
    }
    lanes.finish().await;
}

#[cfg(test)]
mod tests;
