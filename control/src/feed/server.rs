// SPDX-License-Identifier: Apache-2.0
//! The gRPC services: who may call, and the start and end of a session.
//!
//! The node's name always comes from its client certificate, never from a message.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use knarr_api::feed::enrollment_server::Enrollment;
use knarr_api::feed::feed_server::Feed as FeedService;
use knarr_api::feed::{
    FromNode, JoinRequest, NodeCertificate, RenewRequest, StreamFrame, ToNode, Welcome, from_node,
    to_node,
};
use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::stream::FRAMES_MAX;
use knarr_apiserver::PeerIdentity;
use knarr_apiserver::serve::PeerCertificate;
use knarr_base::chain;
use knarr_control_plan::feed::admission::Certificate;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::sessions::Signals;
use super::{Feed, hub, refusals, session};
use crate::clock;

/// Time for the first message of a session. An agent sends it with the call.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Requests for logs and the like that wait for the agent to be told of them.
const STREAMS_WAITING_MAX: usize = 16;

/// What is behind a refusal: an error of whoever enrolls.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a machine gets no node certificate. The text, with its causes, is for the person who joins it.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The token is unknown, wrong or expired.
    #[error(transparent)]
    Token(Cause),
    /// The node's name is none, or that of another.
    #[error("the node name {name:?} cannot be used: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A node of this name may be alive, and has some time left to show it; asking again after that may help.
    #[error(
        "the node name {name:?} cannot be used yet: a node of this name was alive before the control plane started, \
         and has {} s left to connect again; wait for that, choose another --node-name, or, if that node is gone, \
         run `kubectl delete node {name}`",
        wait.as_secs() + 1
    )]
    Awaited {
        /// The name.
        name: String,
        /// For how long.
        wait: Duration,
    },
    /// The signing request cannot be used.
    #[error("no certificate for {node:?}")]
    Request {
        /// The node.
        node: String,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// The control plane could not decide now; asking again may help.
    #[error("the control plane cannot let nodes in now")]
    Unavailable(#[source] Cause),
}

impl From<EnrollError> for Status {
    fn from(error: EnrollError) -> Self {
        // The other side has the text alone.
        let text = chain(&error);
        match error {
            EnrollError::Token(_) => Self::unauthenticated(text),
            EnrollError::Name { .. } | EnrollError::Request { .. } => Self::invalid_argument(text),
            // The agent asks again by itself.
            EnrollError::Awaited { .. } | EnrollError::Unavailable(_) => Self::unavailable(text),
        }
    }
}

/// Makes nodes of machines: the cluster's certificate authority as the feed sees it.
#[async_trait]
pub trait Enroll: Send + Sync {
    /// Trades a join token for a certificate.
    async fn join(&self, request: JoinRequest) -> Result<NodeCertificate, EnrollError>;
    /// A new certificate for the Node that the old certificate was judged by. It must not be read again: it may have been
    /// denied meanwhile, and the new certificate would begin late enough to survive that.
    fn renew(&self, judged: &Node, csr_pem: &str) -> Result<NodeCertificate, EnrollError>;
}

/// The generated traits are implemented for this, so that `Feed` needs no `self: Arc` everywhere.
pub(super) struct Service(pub Arc<Feed>);

/// A node that has proved to be itself.
struct Caller {
    node: String,
    certificate: Certificate,
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let identity = request.extensions().get::<PeerIdentity>();
    let identity = identity.ok_or_else(|| {
        Status::unauthenticated("the node feed needs a node's client certificate")
    })?;
    let node = identity
        .node_name()
        .map(str::to_owned)
        .ok_or_else(|| Status::permission_denied(format!("{} is no node", identity.user)))?;
    let certificate = request.extensions().get::<PeerCertificate>();
    let certificate = certificate.ok_or_else(|| Status::unauthenticated("no certificate"))?;
    let certificate = Certificate {
        uid: certificate.unit.clone(),
        begins: clock::timestamp(certificate.not_before).as_second(),
    };
    Ok(Caller { node, certificate })
}

impl Service {
    /// The node that calls, if its certificate still counts, and the Node that says so.
    async fn admitted<T>(&self, request: &Request<T>) -> Result<(Caller, Node), Status> {
        let caller = caller(request)?;
        let judged = self.0.admit(&caller.node, &caller.certificate).await?;
        Ok((caller, judged))
    }
}

#[async_trait]
impl Enrollment for Service {
    async fn join(
        &self,
        request: Request<JoinRequest>,
    ) -> Result<Response<NodeCertificate>, Status> {
        let request = request.into_inner();
        let node = request.node_name.clone();
        match self.0.enroll.join(request).await {
            Ok(certificate) => {
                tracing::info!(node, "a node joined");
                Ok(Response::new(certificate))
            }
            Err(error) => {
                if let Some(left_out) = self.0.refusals.line(clock::moment().monotonic) {
                    let node = refusals::beginning(&node);
                    tracing::warn!(
                        node,
                        error = chain(&error),
                        left_out,
                        "a node was not let in"
                    );
                }
                Err(error.into())
            }
        }
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<ToNode, Status>> + Send>>;

#[async_trait]
impl FeedService for Service {
    type SyncStream = Outgoing;
    type StreamStream = Pin<Box<dyn Stream<Item = Result<StreamFrame, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (Caller { node, certificate }, _) = self.admitted(&request).await?;
        let unreadable = hub::has_unreadable(&self.0.client)
            .map_err(|error| Status::internal(format!("cannot tell what can be read: {error}")))?;
        if unreadable {
            // A pod that cannot be read would be missing in what the node is told, and the node would end it.
            return Err(Status::unavailable(
                "stored objects that nodes are told of cannot be read, so nobody is told what there is; the control plane's log names them",
            ));
        }
        let inbox = request.into_inner();
        let (outbox, messages) = mpsc::channel(session::OUTBOX_MAX);
        let feed = self.0.clone();
        let about = node.clone();
        self.0.supervise(about, "session", async move {
            let session = Started::new(&feed, &node, certificate.clone());
            // Its Node may have gone before the session could be found and ended.
            if let Err(status) = feed.admit(&node, &certificate).await {
                let _ = outbox.try_send(Err(status));
                return;
            }
            // Safe to drop: a session that is replaced leaves nothing half-done but reports that the agent
            // sends again on its new connection.
            tokio::select! {
                biased;
                () = session.refused.cancelled() => {
                    // There may be no room; then the agent hears it when it connects again.
                    let refused = feed.admit(&node, &certificate).await.err();
                    let _ = outbox.try_send(Err(refused.unwrap_or_else(|| Status::unavailable("the Node was replaced"))));
                }
                result = run(session.feed, &node, inbox, outbox.clone()) => {
                    if let Err(status) = result {
                        tracing::warn!(node, %status, "the session ended");
                        let _ = outbox.try_send(Err(status));
                    }
                }
                () = session.ended.cancelled() => tracing::info!(node, "the session was ended: the node connected again, or a report could not be written"),
                () = feed.stopping.cancelled() => tracing::info!(node, "the session was ended: the control plane stops"),
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn stream(
        &self,
        request: Request<Streaming<StreamFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (Caller { node, certificate }, _) = self.admitted(&request).await?;
        let frames = request.into_inner();
        let streams = self.0.streams.clone();
        let (to_node, messages) = mpsc::channel(FRAMES_MAX);
        let (about, stopping) = (node.clone(), self.0.stopping.clone());
        let feed = self.0.clone();
        self.0.supervise(about, "stream", async move {
            // Safe to drop: whoever reads the stream sees it end.
            let served = tokio::select! {
                served = streams.serve(&node, frames, to_node.clone()) => served,
                () = stopping.cancelled() => Err(Status::unavailable("the control plane stops")),
                status = feed.refused(&node, &certificate) => Err(status),
            };
            if let Err(status) = served {
                // Where frames wait that the agent does not take, the stream ends without words.
                let _ = to_node.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<NodeCertificate>, Status> {
        let (Caller { node, .. }, judged) = self.admitted(&request).await?;
        let certificate = self
            .0
            .enroll
            .renew(&judged, &request.into_inner().csr_pem)
            .inspect_err(|error| {
                tracing::warn!(
                    node,
                    error = chain(error),
                    "a node's certificate was not renewed"
                );
            })?;
        tracing::info!(node, "the node's certificate was renewed");
        Ok(Response::new(certificate))
    }
}

async fn run(
    feed: &Arc<Feed>,
    node: &str,
    mut inbox: Streaming<FromNode>,
    outbox: session::Outbox,
) -> Result<(), Status> {
    // A connection that says nothing would keep a session open that tells nothing.
    let first = tokio::time::timeout(HELLO_WITHIN, inbox.next())
        .await
        .map_err(|_| {
            Status::deadline_exceeded(format!("no Hello came within {} s", HELLO_WITHIN.as_secs()))
        })?
        .transpose()?
        .and_then(|first| first.message);
    let Some(from_node::Message::Hello(hello)) = first else {
        return Err(Status::invalid_argument(
            "the first message of a connection must be Hello",
        ));
    };
    feed.hub.ready().await;
    feed.heartbeats.beat(node, clock::moment());
    let pod_cidrs = feed.register(node, &hello.node_json).await?;
    let resume = feed
        .hub
        .can_resume(&hello.epoch, hello.version)
        .then_some(hello.version);
    tracing::info!(node, resumed = resume.is_some(), "the node is connected");
    let settings = &feed.settings;
    let welcome = Welcome {
        epoch: feed.hub.epoch.clone(),
        resumed: resume.is_some(),
        pod_cidrs,
        service_cidrs: settings.service_cidrs.clone(),
        cluster_cidrs: settings.cluster_cidrs.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        heartbeat_seconds: u32::try_from(settings.heartbeat.as_secs()).unwrap_or(u32::MAX),
        node_port_first: (*settings.node_ports.start()).into(),
        node_port_last: (*settings.node_ports.end()).into(),
    };
    let message = Some(to_node::Message::Welcome(welcome));
    if outbox.send(Ok(ToNode { message })).await.is_err() {
        return Ok(());
    }
    let (requests, to_open) = mpsc::channel(STREAMS_WAITING_MAX);
    // Taken back however this ends: a session may be dropped at any await.
    let _connected = feed.streams.connect(node, requests);
    // Safe to drop: the end of either half is the end of the connection.
    tokio::select! {
        () = session::tell(feed.clone(), node.to_owned(), resume, outbox, to_open) => {}
        () = session::listen(feed.clone(), node.to_owned(), inbox) => {}
    }
    Ok(())
}

/// A session that is over when this is dropped, also by a panic.
struct Started<'a> {
    feed: &'a Arc<Feed>,
    node: &'a str,
    ended: CancellationToken,
    refused: CancellationToken,
}

impl<'a> Started<'a> {
    fn new(feed: &'a Arc<Feed>, node: &'a str, certificate: Certificate) -> Self {
        let Signals { ended, refused } = feed.sessions.start(node, certificate);
        Self {
            feed,
            node,
            ended,
            refused,
        }
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.feed.sessions.end(self.node, &self.ended);
    }
}

#[cfg(test)]
mod tests;
