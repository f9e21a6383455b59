// SPDX-License-Identifier: Apache-2.0
//! When a connection that has proved nothing has to end: silent, idle, too long, or too busy.
//!
//! Such a connection may ask for health and the version, and join with a token. All that takes moments.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Notify;

use super::pool::{Place, Source};

/// Time until the first request. A client that opens a connection has something to ask.
pub(super) const FIRST_REQUEST_MS_MAX: u64 = 10_000;
/// Time between requests. Programs that ask for health do so every few seconds; others connect again.
const IDLE_MS_MAX: u64 = 30_000;
/// The longest life. It ends clients that never read an answer or never finish a request.
const LIFE_MS_MAX: u64 = 120_000;
/// Requests on one connection. HTTP/2 lets a client open and reset requests without waiting; this bounds what one
/// handshake, which costs the client as much as the server, can cause.
const REQUESTS_MAX: u64 = 500;

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitReached {
    #[error("there was no request for {} s after the handshake", FIRST_REQUEST_MS_MAX / 1000)]
    Silent,
    #[error("there was no request for {} s", IDLE_MS_MAX / 1000)]
    Idle,
    #[error("it was open for {} s without a certificate", LIFE_MS_MAX / 1000)]
    Old,
    #[error("it made {REQUESTS_MAX} requests without a certificate")]
    Busy,
}

/// A connection that has proved nothing yet. In a request's extensions, for whoever checks tokens.
#[derive(Debug, Clone)]
pub(crate) struct AnonymousConnection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Arc<Place<Source>>,
    open: AtomicUsize,
    requests: AtomicU64,
    proven: AtomicBool,
    changed: Notify,
}

impl AnonymousConnection {
    pub(super) fn new(place: Arc<Place<Source>>) -> Self {
        Self(Arc::new(Inner {
            place,
            open: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            changed: Notify::new(),
        }))
    }

    /// The connection carried a valid token: no bound of this file holds for it any more.
    pub(crate) fn prove(&self) {
        self.0.place.leave();
        self.0.proven.store(true, Ordering::SeqCst);
        self.0.changed.notify_one();
    }

    /// A request has come; it is open until the value is dropped.
    pub(super) fn request(&self) -> OpenRequest {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        self.0.open.fetch_add(1, Ordering::SeqCst);
        self.0.changed.notify_one();
        OpenRequest(Arc::clone(&self.0))
    }

    /// Returns when the connection has to end; never for one that has proved itself.
    pub(super) async fn limit_reached(&self) -> LimitReached {
        let life = tokio::time::sleep(Duration::from_millis(LIFE_MS_MAX));
        let mut life = std::pin::pin!(life);
        loop {
            if self.0.proven.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            let requests = self.0.requests.load(Ordering::SeqCst);
            if requests > REQUESTS_MAX {
                return LimitReached::Busy;
            }
            let quiet = async {
                if self.0.open.load(Ordering::SeqCst) > 0 {
                    return std::future::pending().await;
                }
                let (ms, why) = match requests {
                    0 => (FIRST_REQUEST_MS_MAX, LimitReached::Silent),
                    _ => (IDLE_MS_MAX, LimitReached::Idle),
                };
                tokio::time::sleep(Duration::from_millis(ms)).await;
                why
            };
            // A notification that comes between two waits is kept; the timers only wait.
            tokio::select! {
                () = self.0.changed.notified() => {}
                why = quiet => return why,
                () = life.as_mut() => return LimitReached::Old,
            }
        }
    }
}

/// A request whose answer has not been sent to its end.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Inner>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

/// An answer's body that keeps its request open until it has been sent.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) _request: OpenRequest,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
