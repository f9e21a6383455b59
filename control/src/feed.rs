// SPDX-License-Identifier: Apache-2.0
//! The control plane's end of the node feed (`knarr.feed.v1`).
//!
//! [`Hub`] turns the watch cache into numbered changes, a session carries them to one agent and applies
//! what the agent reports, [`Streams`] lends the agent's connection to `kubectl logs`. Which change a node
//! is told and what a report may alter is planned in `knarr_control_plan::feed`. Wired by `lib.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use knarr_api::feed::enrollment_server::EnrollmentServer;
use knarr_api::feed::feed_server::FeedServer;
use knarr_apiserver::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod admission;
mod heartbeats;
mod hooks;
mod hub;
mod lanes;
mod log;
mod refusals;
mod reports;
mod server;
mod session;
mod sessions;
mod streams;

pub use heartbeats::Heartbeats;
pub use hub::Hub;
pub use server::{Cause, Enroll, EnrollError};
pub use streams::{Opened, Streams};

use refusals::Refusals;
use sessions::Sessions;

/// Bytes of the message of a call that is not a stream: a token, a name and a signing request, which is under 2 KiB whatever
/// the key. It is read before the caller is judged, and anybody may send a Join.
const CALL_BYTES_MAX: usize = 16 * 1024;
/// The one call of the feed that is not a stream.
const RENEW: &str = "/knarr.feed.v1.Feed/Renew";
/// Time for a call that is not a stream, from its head to its answer. Such a message fits into a few packets.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// The streams of the feed; they last as long as the agent likes.
const STREAMS: [&str; 2] = ["/knarr.feed.v1.Feed/Sync", "/knarr.feed.v1.Feed/Stream"];

/// What every node is told about the cluster when it connects.
#[derive(Debug, Clone)]
pub struct FeedSettings {
    /// Ranges of Service addresses, e.g. `10.96.0.0/12`.
    pub service_cidrs: Vec<String>,
    /// Ranges that all pod addresses come from, e.g. `10.244.0.0/16`.
    pub cluster_cidrs: Vec<String>,
    /// DNS domain of the cluster, e.g. `cluster.local`.
    pub cluster_domain: String,
    /// NodePorts, both ends included.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// How often a node shows that it lives.
    pub heartbeat: Duration,
}

/// The feed service with all that it shares.
pub struct Feed {
    client: Client,
    hub: Arc<Hub>,
    heartbeats: Arc<Heartbeats>,
    streams: Arc<Streams>,
    sessions: Sessions,
    settings: FeedSettings,
    enroll: Arc<dyn Enroll>,
    /// Events of nodes that could not be written.
    events_lost: AtomicU64,
    refusals: Refusals,
    /// Counts the changes of Nodes that were looked at for refused certificates.
    judged: watch::Sender<u64>,
    /// Sessions and streams.
    tasks: TaskTracker,
    /// Ends them, and those that begin later.
    stopping: CancellationToken,
}

impl Feed {
    /// A feed that serves once it is mounted; `hub` has to be run by the caller.
    pub fn new(
        client: Client,
        hub: Arc<Hub>,
        heartbeats: Arc<Heartbeats>,
        streams: Arc<Streams>,
        settings: FeedSettings,
        enroll: Arc<dyn Enroll>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            hub,
            heartbeats,
            streams,
            sessions: Sessions::default(),
            settings,
            enroll,
            events_lost: AtomicU64::new(0),
            refusals: Refusals::default(),
            judged: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    /// The gRPC services as routes for the API's port.
    pub fn router(self: &Arc<Self>) -> axum::Router {
        tonic::service::Routes::new(FeedServer::new(server::Service(self.clone())))
            .add_service(
                EnrollmentServer::new(server::Service(self.clone()))
                    .max_decoding_message_size(CALL_BYTES_MAX),
            )
            .into_axum_router()
            .route_service(
                RENEW,
                FeedServer::new(server::Service(self.clone()))
                    .max_decoding_message_size(CALL_BYTES_MAX),
            )
            .layer(middleware::from_fn(in_time))
    }

    /// Ends every session and stream, for a shutdown that does not wait for agents to hang up, and waits until
    /// they have ended.
    pub async fn end(&self) {
        self.stopping.cancel();
        self.sessions.end_all();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Runs `task` as one that [`Feed::end`] waits for. A panic in it is its own, and loud.
    fn supervise<T>(&self, node: String, what: &'static str, task: T)
    where
        T: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(async move {
            // Nothing of the task is used again after it panicked.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(node, what, "a part of the node feed panicked");
            }
        });
    }

    /// Connected nodes with the version each has on disk, for `/metrics` and tests.
    pub fn acknowledged(&self) -> Vec<(String, u64)> {
        self.sessions.acknowledged()
    }

    /// How many events of nodes could not be written, for `/metrics`.
    pub fn events_lost(&self) -> u64 {
        self.events_lost.load(Ordering::Relaxed)
    }
}

/// Ends a call that is not a stream after [`CALL_WITHIN`], also while its message is still coming in.
async fn in_time(request: Request, next: Next) -> Response {
    if STREAMS.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    match tokio::time::timeout(CALL_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => tonic::Status::deadline_exceeded(format!(
            "the call was not complete within {} s",
            CALL_WITHIN.as_secs()
        ))
        .into_http::<axum::body::Body>()
        .into_response(),
    }
}
