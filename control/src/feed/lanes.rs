// SPDX-License-Identifier: Apache-2.0
//! Carries an agent's reports to whoever applies them, so that what is slow holds up nothing of another kind.
//!
//! A lane applies one report after the other. Everything about one pod takes the same lane, and so do all
//! events about one object, which are written in the order in which they happened; the Node has a lane of its
//! own. A burst of events waits for events only. A session owns its lanes: when it is dropped, so are they,
//! and the agent says everything again.

use std::hash::{DefaultHasher, Hash, Hasher};

use knarr_api::feed::{NodeReport, PodGone, PodReport};
use knarr_api::k8s_openapi::api::core::v1::Event;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;

/// Reports of different pods applied at once: enough to share one commit of the store.
const POD_LANES: usize = 8;
/// Events written at once. Fewer, because pods matter more.
const EVENT_LANES: usize = 4;
/// Reports waiting in one lane; then the connection's flow control holds the agent back.
const WAITING_MAX: usize = 64;
/// Events waiting in one lane. An agent keeps up to 512 for a control plane that is away; together the lanes
/// take them all at once, so that they do not hold back what follows.
const EVENTS_WAITING_MAX: usize = 512;

/// Something that an agent said.
#[derive(Debug)]
pub(super) enum Report {
    Pod(PodReport),
    Gone(PodGone),
    Event(Box<Event>),
    Node(NodeReport),
    /// A heartbeat.
    Heard,
}

/// A lane's end is gone: what it still held is lost unless the agent says it again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LaneEnded;

/// The lanes of one session.
pub(super) struct Lanes {
    pods: Vec<mpsc::Sender<Report>>,
    events: Vec<mpsc::Sender<Report>>,
    node: mpsc::Sender<Report>,
    tasks: JoinSet<()>,
}

impl Lanes {
    /// Starts lanes that hand each report to `apply`.
    pub(super) fn start<A, R>(apply: A) -> Self
    where
        A: Fn(Report) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let mut lane = |waiting_max| {
            let (sender, mut reports) = mpsc::channel(waiting_max);
            let apply = apply.clone();
            tasks.spawn(async move {
                while let Some(report) = reports.recv().await {
                    apply(report).await;
                }
            });
            sender
        };
        Self {
            pods: (0..POD_LANES).map(|_| lane(WAITING_MAX)).collect(),
            events: (0..EVENT_LANES).map(|_| lane(EVENTS_WAITING_MAX)).collect(),
            node: lane(WAITING_MAX),
            tasks,
        }
    }

    /// Puts a report into its lane, waiting for room where there is none.
    pub(super) async fn send(&self, report: Report) -> Result<(), LaneEnded> {
        let lane = match &report {
            Report::Pod(PodReport { uid, .. }) | Report::Gone(PodGone { uid, .. }) => {
                of(&self.pods, uid)
            }
            Report::Event(event) => {
                let about = &event.involved_object;
                of(
                    &self.events,
                    &(&about.kind, &about.namespace, &about.name, &about.uid),
                )
            }
            Report::Node(_) => Some(&self.node),
            Report::Heard => {
                return match self.node.try_send(report) {
                    // The next heartbeat says the same, and a Node report that waits says more.
                    Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
                    Err(TrySendError::Closed(_)) => Err(LaneEnded),
                };
            }
        };
        let lane = lane.ok_or(LaneEnded)?;
        lane.send(report).await.map_err(|_| LaneEnded)
    }

    /// Waits until a lane ends, which it does by a panic only.
    pub(super) async fn broken(&mut self) {
        match self.tasks.join_next().await {
            Some(Err(error)) => tracing::error!(%error, "applying a report panicked"),
            Some(Ok(())) => tracing::error!("a lane of reports ended by itself"),
            None => std::future::pending().await,
        }
    }

    /// Applies what is in the lanes, and ends them.
    pub(super) async fn finish(self) {
        let Self {
            pods,
            events,
            node,
            mut tasks,
        } = self;
        drop((pods, events, node));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "applying a report panicked");
            }
        }
    }
}

fn of<'a>(lanes: &'a [mpsc::Sender<Report>], key: &impl Hash) -> Option<&'a mpsc::Sender<Report>> {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let index = hasher.finish() % u64::try_from(lanes.len()).ok()?;
    lanes.get(usize::try_from(index).ok()?)
}

#[cfg(test)]
mod tests;
