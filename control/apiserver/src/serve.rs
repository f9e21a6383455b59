// SPDX-License-Identifier: Apache-2.0
//! TLS connections: accepts them, reads who is calling from the client certificate, and serves the router over
//! HTTP/1.1 and HTTP/2.
//!
//! knarr-control calls it once with its listeners; the router carries the API and the node feed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

mod tls;

pub use tls::Tls;

/// Open connections; beyond this new ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;
/// Time for a TLS handshake.
const HANDSHAKE_MS_MAX: u64 = 10_000;
/// Time until an HTTP/1.1 client has sent its request's head.
const HEAD_MS_MAX: u64 = 30_000;
/// Requests at once on one HTTP/2 connection, as Go's server allows.
const STREAMS_MAX: u32 = 250;
/// Silence after which an HTTP/2 client is asked whether it is still there.
const KEEPALIVE_INTERVAL_S: u64 = 30;
/// Time for its answer.
const KEEPALIVE_TIMEOUT_S: u64 = 20;
/// Time for open requests to end at shutdown.
const DRAIN_MS_MAX: u64 = 5_000;
/// Pause after the kernel could not hand out a connection (no file descriptors left, for example).
const ACCEPT_PAUSE_MS: u64 = 100;

/// In a request's extensions: cancelled when the server is to end, so that endless answers end too.
#[derive(Debug, Clone)]
pub struct ShutdownSignal(pub CancellationToken);

/// Serves until `shutdown`, or until a listener's task fails; then lets open requests end for a few seconds. New
/// connections take the newest TLS configuration, so certificates are renewed without a restart. Watches and logs end at once at shutdown.
pub async fn serve(
    listeners: Vec<TcpListener>,
    tls: watch::Receiver<Arc<Tls>>,
    router: Router,
    shutdown: CancellationToken,
) {
    // A listener's end ends the others, and with them the whole; the caller's token stays as it is.
    let shutdown = shutdown.child_token();
    let server = Arc::new(Server {
        tls,
        router,
        shutdown,
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
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
        let accepted = tokio::select! {
            // Accepting is cancel-safe: a connection is either returned or still queued.
            accepted = listener.accept() => accepted,
            () = server.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                connections
                    .0
                    .spawn(connection(Arc::clone(&server), stream, permit));
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

async fn connection(server: Arc<Server>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let tls = server.tls.borrow().clone();
    let handshake = tokio::time::timeout(
        Duration::from_millis(HANDSHAKE_MS_MAX),
        tls.acceptor().accept(stream),
    );
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!("TLS handshake took too long");
            return;
        }
    };
    let identity = tls.prove(stream.get_ref().1);
    let router = server.router.clone();
    let signal = ShutdownSignal(server.shutdown.clone());
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        request.extensions_mut().insert(signal.clone());
        let router = router.clone();
        async move {
            let response = router.oneshot(request).await;
            Ok::<_, Infallible>(response.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS_MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(KEEPALIVE_INTERVAL_S))
        .keep_alive_timeout(Duration::from_secs(KEEPALIVE_TIMEOUT_S));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // The connection is polled on below; it is only told to take no more requests.
        () = server.shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
