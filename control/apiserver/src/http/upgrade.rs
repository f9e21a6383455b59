// SPDX-License-Identifier: Apache-2.0
//! A connection that leaves HTTP: exec, attach and port-forward speak another protocol on it.
//!
//! The server keeps what the connection becomes in the request; [`Upgrade`] takes it out, so that a handler decides after
//! everything else about the request is known. Not here: those protocols.

use std::future::Future;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::ApiError;

/// A connection after HTTP.
pub(crate) type Connection = TokioIo<Upgraded>;

/// What a request's connection can become.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    asked: Vec<String>,
    connection: Option<OnUpgrade>,
}

impl Upgrade {
    /// Takes it out of a request.
    pub(crate) fn take(parts: &mut Parts) -> Self {
        Self {
            asked: protocols(&parts.headers),
            connection: parts.extensions.remove::<OnUpgrade>(),
        }
    }

    /// Answers 101 and hands the connection to `work`, which ends with `shutdown`. `protocol` is in lower case.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "exec, attach and port-forward will call it")
    )]
    pub(crate) fn accept<F>(
        self,
        protocol: &'static str,
        shutdown: CancellationToken,
        work: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> Result<Response, ApiError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { asked, connection } = self;
        let connection = connection.filter(|_| asked.iter().any(|name| name == protocol));
        let Some(connection) = connection else {
            return Err(ApiError::bad_request(format!(
                "Upgrade request required: Upgrade: {protocol}"
            )));
        };
        tokio::spawn(async move {
            let upgraded = tokio::select! {
                // Safe to drop: a client that does not take its answer loses its connection.
                upgraded = connection => upgraded,
                () = shutdown.cancelled() => return,
            };
            match upgraded {
                // Safe to drop: at shutdown the client sees the connection's end.
                Ok(upgraded) => tokio::select! {
                    () = work(TokioIo::new(upgraded)) => {}
                    () = shutdown.cancelled() => {}
                },
                Err(error) => tracing::debug!(%error, protocol, "a connection was not upgraded"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(protocol));
        Ok(response)
    }
}

/// The protocols that a client can go on with, in lower case.
fn protocols(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(UPGRADE).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let names = texts.flat_map(|text| text.split(','));
    names.map(|name| name.trim().to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests;
