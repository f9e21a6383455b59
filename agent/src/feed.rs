// SPDX-License-Identifier: Apache-2.0
//! The agent's end of the node feed: one connection, kept, made again when it breaks, replaced without a
//! gap when the certificate is renewed.
//!
//! Not here: what the desired state means (`desired`), what is reported (`outbox`'s callers). Spawned once
//! by `run`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use knarr_api::feed::feed_client::FeedClient;
use knarr_api::feed::{Ack, FromNode, Heartbeat, Hello, RenewRequest, ToNode, from_node, to_node};
use knarr_base::jitter;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::join::connect::{self, ConnectError};
use crate::join::identity::{Identity, IdentityError, KeyRequest};
use crate::join::{JoinConfig, JoinError};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::ranges::NodeRanges;
use crate::streams::AnswerStreams;

mod persist;

pub use persist::DesiredFile;

/// The first and the longest pause between connections, in milliseconds.
const RECONNECT_MS: (u64, u64) = (100, 5_000);
/// A connection that lasted this long ends the row of failures.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Messages on their way to the control plane.
const OUTGOING_MAX: usize = 64;
/// A delta may hold many objects of up to 3 MiB each.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Used until the control plane says how often.
const HEARTBEAT_SECONDS_DEFAULT: u64 = 10;
/// Between attempts to renew a certificate, in milliseconds.
const RENEW_RETRY_MS: u64 = 30_000;
/// A control plane that accepts the connection and then says nothing is left.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(45);

/// Everything the feed needs.
pub struct Feed {
    /// How to reach the control plane, and how to join again.
    pub join: JoinConfig,
    /// Key and certificate.
    pub identity: Arc<Identity>,
    /// The state's file, through which every change goes.
    pub desired_file: DesiredFile,
    /// What is to be said.
    pub outbox: Arc<Outbox>,
    /// Who answers `OpenStream`.
    pub streams: Arc<dyn AnswerStreams>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Why a connection ended.
enum End {
    /// By wish.
    Shutdown,
    /// A new certificate and a connection that uses it.
    Renewed(Arc<Identity>, Channel),
    /// Something broke.
    Lost(FeedError),
    /// The control plane takes this node's certificate no more.
    Refused(tonic::Status),
}

/// Why there is no connection to the control plane. Another attempt follows each.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The certificate has ended, and the node cannot join again.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The certificate or the key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS failed where only a person can help; the text says how.
    #[error("{0}")]
    Advice(String),
    /// No connection could be made.
    #[error("{server}")]
    Connect {
        /// Host and port of the control plane.
        server: String,
        /// Why not.
        #[source]
        source: ConnectError,
    },
    /// The connection ended before Hello was sent.
    #[error("the connection ended before it began")]
    Unopened,
    /// Hello got no answer.
    #[error("no answer to hello")]
    Unanswered,
    /// The control plane ended the session.
    #[error("the control plane closed the connection")]
    Closed,
    /// The control plane takes no more messages.
    #[error("the control plane stopped listening")]
    NotRead,
    /// The session ended in an error.
    #[error("{}", words(.0))]
    Call(tonic::Status),
    /// The node is not let in, and has no token to join again with.
    #[error("{}; {JOIN_AGAIN}", words(.0))]
    Refused(tonic::Status),
    /// The node is not let in, and its token does not help.
    #[error("{}; joining again with this agent's token", words(.status))]
    Rejoin {
        /// What the control plane said.
        status: tonic::Status,
        /// Why the node could not join.
        #[source]
        source: JoinError,
    },
}

impl Feed {
    /// Keeps a connection until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut pause_ms = RECONNECT_MS.0;
        let mut ready: Option<Channel> = None;
        let mut last_error = String::new();
        loop {
            let started = Instant::now();
            let end = match ready.take() {
                Some(channel) => self.session(channel, &shutdown).await,
                None => match self.connect().await {
                    Ok(channel) => self.session(channel, &shutdown).await,
                    Err(error) => End::Lost(error),
                },
            };
            self.metrics.connected(0);
            let error = match end {
                End::Shutdown => return,
                End::Renewed(identity, channel) => {
                    self.identity = identity;
                    ready = Some(channel);
                    continue;
                }
                End::Refused(status) => match self.join_again(status).await {
                    Ok(()) => {
                        self.metrics.refused(None);
                        last_error.clear();
                        continue;
                    }
                    Err(error) => {
                        self.metrics.refused(Some(knarr_base::chain(&error)));
                        error
                    }
                },
                End::Lost(error) => error,
            };
            let message = knarr_base::chain(&error);
            if started.elapsed() > STABLE_AFTER {
                pause_ms = RECONNECT_MS.0;
                // The same words would tell of another outage.
                last_error.clear();
            }
            if message == last_error {
                tracing::debug!("still no control plane: {message}");
            } else {
                tracing::warn!("no control plane (pods and Services go on): {message}");
                last_error = message;
            }
            let mut pause = pin!(tokio::time::sleep(jitter(Duration::from_millis(pause_ms))));
            loop {
                // All arms only wait.
                tokio::select! {
                    () = &mut pause => break,
                    // What is on disk is what the node starts from when it has to start alone.
                    () = self.desired_file.due() => {
                        // Nobody is there to hear of it; the next Hello says what is stored.
                        let _unheard = self.desired_file.rewrite().await;
                    }
                    () = shutdown.cancelled() => return,
                }
            }
            pause_ms = (pause_ms * 2).min(RECONNECT_MS.1);
        }
    }

    /// The node was deleted or denied: with a token it joins again, without one a person has to help. Its pods and
    /// Services go on in either case.
    async fn join_again(&mut self, status: tonic::Status) -> Result<(), FeedError> {
        let (Some(token), Some(hash)) = (&self.join.token, self.join.ca_hash.clone()) else {
            return Err(FeedError::Refused(status));
        };
        match crate::join::join(&self.join, token.reveal(), &hash).await {
            Ok(identity) => {
                let message = words(&status);
                tracing::warn!("{message}; the node has joined again with its token");
                self.identity = identity;
                Ok(())
            }
            Err(source) => Err(FeedError::Rejoin { status, source }),
        }
    }

    async fn connect(&mut self) -> Result<Channel, FeedError> {
        if self.identity.is_expired(crate::clock::now_ms()) {
            self.identity = crate::join::join_again(&self.join).await?;
        }
        let tls = self.identity.client_config()?;
        let connected = connect::channel(&self.join.server, tls).await;
        connected.map_err(|source| {
            let server = self.join.server.authority();
            match source.tls_advice(&server) {
                Some(advice) => FeedError::Advice(advice),
                None => FeedError::Connect { server, source },
            }
        })
    }

    /// One connection from Hello to its end.
    async fn session(&mut self, channel: Channel, shutdown: &CancellationToken) -> End {
        let mut client = FeedClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MAX);
        let (epoch, version) = self.desired_file.resume().await;
        let hello = from_node::Message::Hello(Hello {
            node_json: self.outbox.node_json(),
            epoch,
            version,
        });
        if outgoing.send(from(hello)).await.is_err() {
            return End::Lost(FeedError::Unopened);
        }
        let call =
            tokio::time::timeout(WELCOME_TIMEOUT, client.sync(ReceiverStream::new(receiver)));
        // Dropping the call ends the connection, which is what a shutdown wants.
        let answer = tokio::select! {
            answer = call => answer,
            () = shutdown.cancelled() => return End::Shutdown,
        };
        let mut incoming = match answer {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return lost(status),
            Err(_) => return End::Lost(FeedError::Unanswered),
        };
        let (acks, ack) = watch::channel(0);
        let (beat, heartbeat) = watch::channel(HEARTBEAT_SECONDS_DEFAULT);
        let desired_file = self.desired_file.clone();
        let syncer = persist::Syncer::new(desired_file.clone(), acks);
        let (identity, outbox, join) = (
            self.identity.clone(),
            self.outbox.clone(),
            self.join.clone(),
        );
        let write = write(&outbox, outgoing, ack, heartbeat);
        let renew = renew(&join, &identity, client.clone());
        let read = async {
            loop {
                // Waiting for a message or for a moment takes nothing out; what was taken is kept.
                let message = tokio::select! {
                    biased;
                    () = desired_file.due() => {
                        syncer.sync(desired_file.rewrite().await);
                        continue;
                    }
                    message = incoming.message() => message,
                };
                match message {
                    Ok(Some(ToNode {
                        message: Some(message),
                    })) => self.take(message, &client, &syncer, &beat).await,
                    Ok(Some(ToNode { message: None })) => {}
                    Ok(None) => {
                        return End::Lost(FeedError::Closed);
                    }
                    Err(status) => return lost(status),
                }
            }
        };
        // Whichever ends first ends the connection; reports that were not sent are sent by the next one,
        // changes that were not applied come again after the acknowledged version.
        tokio::select! {
            end = read => end,
            () = write => End::Lost(FeedError::NotRead),
            (identity, channel) = renew => End::Renewed(identity, channel),
            () = shutdown.cancelled() => End::Shutdown,
        }
    }
}

fn from(message: from_node::Message) -> FromNode {
    FromNode {
        message: Some(message),
    }
}

/// How rustls goes on when a connection broke: where its manual explains that to programmers.
const MANUAL: &str = ": https://docs.rs/";

/// Said at a node that is not let in and has no token to try.
const JOIN_AGAIN: &str = "run `knarr-control token create` on the control plane and start the agent with the line it prints";

fn lost(status: tonic::Status) -> End {
    match status.code() {
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => End::Refused(status),
        _ => End::Lost(FeedError::Call(status)),
    }
}

fn words(status: &tonic::Status) -> String {
    let mut text = format!("{}: {}", status.code(), status.message());
    for cause in knarr_base::error::causes(status).skip(1) {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
    }
    if let Some(end) = text.find(MANUAL) {
        text.truncate(end);
    }
    if matches!(
        status.code(),
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied
    ) {
        text.push_str("; the control plane does not take this node's certificate");
    }
    text
}

/// Says what there is to say, and that the node lives.
async fn write(
    outbox: &Outbox,
    outgoing: mpsc::Sender<FromNode>,
    mut ack: watch::Receiver<u64>,
    mut heartbeat: watch::Receiver<u64>,
) {
    let mut wake = outbox.watch();
    // The control plane answers Hello first; until then nothing is said.
    if heartbeat.changed().await.is_err() {
        return;
    }
    outbox.say_all_again();
    let seconds = (*heartbeat.borrow()).max(1);
    let mut tick = tokio::time::interval(Duration::from_secs(seconds));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        while let Some(message) = outbox.next() {
            if outgoing.send(from(message)).await.is_err() {
                return;
            }
        }
        // Every arm only waits; what it waits for stays where it is.
        let message = tokio::select! {
            changed = wake.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            changed = ack.changed() => match changed {
                Ok(()) => from_node::Message::Ack(Ack { version: *ack.borrow_and_update() }),
                Err(_) => return,
            },
            _ = tick.tick() => from_node::Message::Heartbeat(Heartbeat {}),
        };
        if outgoing.send(from(message)).await.is_err() {
            return;
        }
    }
}

/// Waits until the certificate is due, gets a new one and a connection that uses it.
async fn renew(
    join: &JoinConfig,
    identity: &Identity,
    mut client: FeedClient<Channel>,
) -> (Arc<Identity>, Channel) {
    tokio::time::sleep(crate::clock::until(identity.renew_at_ms())).await;
    loop {
        match try_renew(join, &mut client).await {
            Ok(renewed) => return renewed,
            Err(error) => {
                let left_s = crate::clock::until(identity.not_after_ms()).as_secs();
                tracing::warn!(
                    left_s,
                    "the certificate was not renewed: {}",
                    knarr_base::chain(&*error)
                );
            }
        }
        tokio::time::sleep(jitter(Duration::from_millis(RENEW_RETRY_MS))).await;
    }
}

async fn try_renew(
    join: &JoinConfig,
    client: &mut FeedClient<Channel>,
) -> anyhow::Result<(Arc<Identity>, Channel)> {
    let request = KeyRequest::new(&join.node_name)?;
    let csr_pem = request.csr_pem()?;
    let answer = client.renew(RenewRequest { csr_pem }).await?.into_inner();
    let identity = Arc::new(request.complete(&answer, &join.node_name)?);
    let (saved, pki_dir) = (identity.clone(), join.pki_dir.clone());
    knarr_base::blocking::run(move || saved.save(&pki_dir)).await?;
    let channel = connect::channel(&join.server, identity.client_config()?).await?;
    tracing::info!("the node's certificate was renewed");
    Ok((identity, channel))
}

impl Feed {
    async fn take(
        &mut self,
        message: to_node::Message,
        client: &FeedClient<Channel>,
        syncer: &persist::Syncer,
        beat: &watch::Sender<u64>,
    ) {
        if let to_node::Message::OpenStream(open) = message {
            self.streams.open(open, client.clone());
            return;
        }
        let whole = ToNode {
            message: Some(message),
        };
        let (whole, wish) = self.desired_file.take(whole).await;
        syncer.sync(wish);
        if let Some(to_node::Message::Welcome(welcome)) = whole.message {
            self.metrics.connected(1);
            self.metrics.refused(None);
            for refusal in NodeRanges::from(&welcome).refused {
                tracing::error!("the control plane's settings: {refusal}");
            }
            tracing::info!(
                epoch = welcome.epoch,
                resumed = welcome.resumed,
                "connected to the control plane"
            );
            let seconds = u64::from(welcome.heartbeat_seconds);
            beat.send_replace(if seconds == 0 {
                HEARTBEAT_SECONDS_DEFAULT
            } else {
                seconds
            });
        }
    }
}

#[cfg(test)]
mod tests;
