// SPDX-License-Identifier: Apache-2.0
//! TLS connections: accepts them, reads who is calling from the client certificate, and serves the router over
//! HTTP/1.1 and HTTP/2.
//!
//! knarr-control calls it once with its listeners; the router carries the API and the node feed.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use knarr_api::stream::WINDOW_BYTES;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

mod anonymous;
mod pool;
mod tls;

pub(crate) use anonymous::AnonymousConnection;
pub use tls::{PeerCertificate, Tls};

use pool::{Place, Places, Pool, Source};
use tls::Proof;

/// Open connections; beyond this new ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;
/// Connections in a TLS handshake, which is some milliseconds for each honest client and [`HANDSHAKE_MS_MAX`] for others.
/// Each takes some ten KB.
const HANDSHAKES_MAX: usize = 1024;
/// One source address may be in one in this many of those handshakes. A client that holds a certificate shows it only in
/// its handshake, and a load test or a proxy opens hundreds of connections at the same moment.
const HANDSHAKE_SHARE: usize = 2;
/// Connections that have proved nothing in their handshake. The rest of [`CONNECTIONS_MAX`] is kept for those who hold
/// certificates. Each takes about 60 KB at most, see the bounds of [`anonymous_builder`].
pub const ANONYMOUS_CONNECTIONS_MAX: usize = 512;
/// One source address may have one in this many of those places: several machines behind one address can join at
/// once, and no address can take all.
const SOURCE_SHARE: usize = 8;
/// Connections with one certificate of a node. An agent needs one, and a second for a moment when it connects again.
const NODE_CONNECTIONS_MAX: usize = 16;
/// Time for a TLS handshake.
const HANDSHAKE_MS_MAX: u64 = 10_000;
/// Time until an HTTP/1.1 client has sent its request's head.
const HEAD_MS_MAX: u64 = 30_000;
/// Requests at once on one HTTP/2 connection, as Go's server allows.
const STREAMS_MAX: u32 = 250;
/// Requests at once on one connection of a node: its session, and a stream for each open log, exec or port-forward.
const NODE_STREAMS_MAX: u32 = 128;
/// Bytes on their way to the server in all requests of such a connection: a stream that is not read, because its client is
/// slow, holds up neither other streams nor the session.
const NODE_CONNECTION_WINDOW: u32 = NODE_STREAMS_MAX * WINDOW_BYTES;
/// Requests that were reset before they were looked at; then the connection ends. hyper's own bound, said here because it
/// is what ends a reset storm (CVE-2023-44487).
const RESETS_WAITING_MAX: usize = 20;
/// Requests that were reset for a client's errors; then the connection ends.
const RESETS_FOR_ERRORS_MAX: usize = 128;
/// Requests at once without a certificate: health, the version, one Join.
const GUEST_STREAMS_MAX: u32 = 8;
/// Bytes on their way in one request without a certificate; a Join is smaller.
const GUEST_STREAM_WINDOW: u32 = 32 * 1024;
/// Bytes on their way in all requests of such a connection.
const GUEST_CONNECTION_WINDOW: u32 = 64 * 1024;
/// Bytes of an HTTP/1.1 head without a certificate, and of HTTP/2 headers.
const GUEST_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of an answer that wait for such a client.
const GUEST_SEND_BYTES_MAX: usize = 32 * 1024;
/// Silence after which an HTTP/2 client is asked whether it is still there.
const KEEPALIVE_INTERVAL_S: u64 = 30;
/// Time for its answer.
const KEEPALIVE_TIMEOUT_S: u64 = 20;
/// Time for open requests to end at shutdown.
const DRAIN_MS_MAX: u64 = 5_000;
/// Time for open requests to end when their connection has to.
const GOODBYE_MS_MAX: u64 = 1_000;
/// How often the clock is asked whether a certificate has ended: a timer alone would miss a clock that was set.
const CERTIFICATE_POLL_S_MAX: u64 = 600;
/// Pause after the kernel could not hand out a connection (no file descriptors left, for example).
const ACCEPT_PAUSE_MS: u64 = 100;

/// In a request's extensions: cancelled when the server is to end, so that endless answers end too.
#[derive(Debug, Clone)]
pub struct ShutdownSignal(pub CancellationToken);

/// Serves until `shutdown`, or until a listener's task fails; then lets open requests end for a few seconds. New
/// connections take the newest TLS configuration, so certificates are renewed without a restart. Watches and logs end at once at shutdown.
/// At most `anonymous_max` connections at once may be without a valid client certificate.
pub async fn serve(
    listeners: Vec<TcpListener>,
    tls: watch::Receiver<Arc<Tls>>,
    router: Router,
    anonymous_max: usize,
    shutdown: CancellationToken,
) {
    // A listener's end ends the others, and with them the whole; the caller's token stays as it is.
    let shutdown = shutdown.child_token();
    let server = Arc::new(Server {
        tls,
        router,
        shutdown,
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        handshakes: Pool::new(Places {
            total: HANDSHAKES_MAX,
            each: HANDSHAKES_MAX.div_ceil(HANDSHAKE_SHARE),
        }),
        anonymous: Pool::new(Places {
            total: anonymous_max,
            each: anonymous_max.div_ceil(SOURCE_SHARE),
        }),
        nodes: Pool::new(Places {
            total: CONNECTIONS_MAX,
            each: NODE_CONNECTIONS_MAX,
        }),
    });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(Arc::clone(&server), listener));
    }
    while let Some(ended) = accepting.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a listener's task failed, so the server ends");
            server.shutdown.cancel();
        }
    }
    // Every accepting task has ended, but connection tasks still share the server until they end.
    let drained = tokio::time::timeout(Duration::from_millis(DRAIN_MS_MAX), async {
        while server.connections.available_permits() < CONNECTIONS_MAX {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    if drained.await.is_err() {
        tracing::info!("some requests did not end in time and are cut off");
    }
}

struct Server {
    tls: watch::Receiver<Arc<Tls>>,
    router: Router,
    shutdown: CancellationToken,
    connections: Arc<Semaphore>,
    /// Connections in a TLS handshake, by source.
    handshakes: Arc<Pool<Source>>,
    /// Connections that have proved nothing in it, by source.
    anonymous: Arc<Pool<Source>>,
    /// Connections of nodes, by the serial number of the certificate. By name, a machine whose certificate was taken back
    /// could end the connections of the one that has the name now.
    nodes: Arc<Pool<String>>,
}

async fn accept(server: Arc<Server>, listener: TcpListener) {
    // They go on without their owner at shutdown: `serve` waits for their permits.
    let mut connections = Connections(JoinSet::new());
    loop {
        connections.notice_failures();
        let permit = tokio::select! {
            // Dropping the wait for a permit gives nothing away.
            permit = Arc::clone(&server.connections).acquire_owned() => permit,
            () = server.shutdown.cancelled() => return,
        };
        let Ok(permit) = permit else { return };
        tokio::select! {
            // Both only wait.
            () = server.handshakes.room() => {}
            () = server.shutdown.cancelled() => return,
        }
        let accepted = tokio::select! {
            // Accepting is cancel-safe: a connection is either returned or still queued.
            accepted = listener.accept() => accepted,
            () = server.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = peer.ip();
                let place = server.handshakes.enter(peer.into(), Instant::now());
                connections
                    .0
                    .spawn(connection(Arc::clone(&server), stream, peer, place, permit));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// The connections of one listener. A panic ends one connection and no more, and is noticed.
struct Connections(JoinSet<()>);

impl Connections {
    fn notice_failures(&mut self) {
        while let Some(ended) = self.0.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a connection's task failed");
            }
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

async fn connection(
    server: Arc<Server>,
    stream: TcpStream,
    peer: IpAddr,
    place: Place<Source>,
    _permit: OwnedSemaphorePermit,
) {
    let ended = place.ended();
    let shaken = tokio::select! {
        // Safe to drop, here and below: all that a connection has in hand belongs to a client that is cut off.
        shaken = shake_hands(&server, stream, peer) => shaken,
        () = ended.cancelled() => {
            tracing::debug!(%peer, "a TLS handshake made room for another one");
            return;
        }
    };
    drop(place);
    let Some((stream, proof)) = shaken else {
        return;
    };
    let Some(proof) = proof else {
        let place = server.anonymous.enter(peer.into(), Instant::now());
        let ended = place.ended();
        tokio::select! {
            () = serve_anonymous(&server, stream, peer, place) => {}
            () = ended.cancelled() => {
                tracing::debug!(%peer, "a connection without a certificate made room for another one");
            }
        }
        return;
    };
    let Some(node) = proof.identity.node_name().map(str::to_owned) else {
        return serve_proven(&server, stream, proof).await;
    };
    let place = server
        .nodes
        .enter(proof.certificate.serial.clone(), Instant::now());
    let ended = place.ended();
    tokio::select! {
        // An agent repeats what was not acknowledged.
        () = serve_proven(&server, stream, proof) => {}
        () = ended.cancelled() => {
            // A node could fill the log with it.
            tracing::debug!(node, %peer, "the node has {NODE_CONNECTIONS_MAX} connections with this certificate and opened another one: its oldest is closed");
        }
    }
}

/// The TLS handshake, and what the client has proved in it. None where it failed.
async fn shake_hands(
    server: &Server,
    stream: TcpStream,
    peer: IpAddr,
) -> Option<(Stream, Option<Proof>)> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let tls = server.tls.borrow().clone();
    let handshake = tokio::time::timeout(
        Duration::from_millis(HANDSHAKE_MS_MAX),
        tls.acceptor().accept(stream),
    );
    match handshake.await {
        Ok(Ok(stream)) => {
            let proof = tls.prove(stream.get_ref().1);
            Some((stream, proof))
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake took too long");
            None
        }
    }
}

type Stream = tokio_rustls::server::TlsStream<TcpStream>;

/// Serves a client that has proved who it is, until it hangs up or its certificate ends.
async fn serve_proven(server: &Arc<Server>, stream: Stream, proof: Proof) {
    let Proof {
        identity,
        certificate,
    } = proof;
    let ends = certificate.not_after;
    let builder = match identity.node_name() {
        Some(_) => node_builder(),
        None => proven_builder(STREAMS_MAX),
    };
    let (router, signal) = (
        server.router.clone(),
        ShutdownSignal(server.shutdown.clone()),
    );
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(identity.clone());
        extensions.insert(certificate.clone());
        extensions.insert(signal.clone());
        let router = router.clone();
        async move {
            let response = router.oneshot(request).await;
            Ok::<_, Infallible>(response.unwrap_or_else(|never| match never {}))
        }
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // The connection is polled on below; it is only told to take no more requests.
        () = server.shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = certificate_ended(ends) => {
            tracing::debug!("a connection ends with its client's certificate");
            serving.as_mut().graceful_shutdown();
            goodbye(serving).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// Serves a client that has proved nothing, within the bounds of [`AnonymousConnection`].
async fn serve_anonymous(server: &Arc<Server>, stream: Stream, peer: IpAddr, place: Place<Source>) {
    let connection = AnonymousConnection::new(Arc::new(place));
    let (router, signal) = (
        server.router.clone(),
        ShutdownSignal(server.shutdown.clone()),
    );
    let about = connection.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let open = about.request();
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(about.clone());
        extensions.insert(signal.clone());
        let router = router.clone();
        async move {
            let response = router.oneshot(request).await;
            let response = response.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(response.map(|body| anonymous::Answer {
                body,
                _request: open,
            }))
        }
    });
    let builder = anonymous_builder();
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // As for those that have proved themselves.
        () = server.shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        why = connection.limit_reached() => {
            tracing::debug!(%peer, %why, "a connection without a certificate is closed");
            serving.as_mut().graceful_shutdown();
            goodbye(serving).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Lets open requests of a connection end for a moment.
async fn goodbye<E>(serving: impl Future<Output = Result<(), E>>) -> Result<(), E> {
    let within = Duration::from_millis(GOODBYE_MS_MAX);
    tokio::time::timeout(within, serving)
        .await
        .unwrap_or(Ok(()))
}

/// Returns when the clock says `ends`.
async fn certificate_ended(ends: SystemTime) {
    while let Ok(left) = ends.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(Duration::from_secs(CERTIFICATE_POLL_S_MAX))).await;
    }
}

fn proven_builder(streams: u32) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS_MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_pending_accept_reset_streams(RESETS_WAITING_MAX)
        .max_local_error_reset_streams(RESETS_FOR_ERRORS_MAX)
        .keep_alive_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S))
        .keep_alive_timeout(Duration::from_secs(KEEPALIVE_TIMEOUT_S));
    builder
}

/// Serves connections of nodes.
#[must_use]
pub fn node_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = proven_builder(NODE_STREAMS_MAX);
    builder
        .http2()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(NODE_CONNECTION_WINDOW);
    builder
}

fn anonymous_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(GUEST_HEAD_BYTES_MAX)
        .header_read_timeout(Duration::from_millis(anonymous::FIRST_REQUEST_MS_MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(GUEST_STREAMS_MAX)
        .initial_stream_window_size(GUEST_STREAM_WINDOW)
        .initial_connection_window_size(GUEST_CONNECTION_WINDOW)
        .max_header_list_size(GUEST_HEAD_BYTES_MAX as u32)
        .max_send_buf_size(GUEST_SEND_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_WAITING_MAX)
        .max_local_error_reset_streams(RESETS_FOR_ERRORS_MAX)
        .keep_alive_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S))
        .keep_alive_timeout(Duration::from_secs(KEEPALIVE_TIMEOUT_S));
    builder
}
