// SPDX-License-Identifier: Apache-2.0
//! A gRPC channel over one TLS connection of our own: TCP, TLS, then HTTP/2 by tonic.
//!
//! Not here: who trusts whom (`pin`, `identity`). Called by `join` and `feed`.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use knarr_api::stream::WINDOW_BYTES;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::config::Server;
use crate::join::pin::WRONG_CA;
use crate::limits::STREAMS_AT_ONCE_MAX;

/// For TCP and for TLS each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is silent for this long is asked whether it is there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// And has this long to answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls at once on one connection: the feed, the renewal of the certificate, and streams.
const CALLS_MAX: u32 = 2 + STREAMS_AT_ONCE_MAX;
/// Bytes on their way to this agent in all calls: a call that is not read holds up no other.
const CONNECTION_WINDOW_BYTES: u32 = CALLS_MAX * WINDOW_BYTES;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name or port cannot be reached.
    #[error("{0}")]
    Tcp(#[source] std::io::Error),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(#[source] std::io::Error),
    /// Nothing happened for too long.
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    /// The host name cannot be in a certificate.
    #[error("{0:?} is no host name")]
    Name(String),
    /// HTTP/2 could not begin.
    #[error("HTTP/2: {0}")]
    Http(#[source] tonic::transport::Error),
}

impl ConnectError {
    /// Where only a person can help: what to do.
    pub fn tls_advice(&self, server: &str) -> Option<String> {
        let ConnectError::Tls(error) = self else {
            return None;
        };
        let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        use rustls::{AlertDescription, CertificateError, Error};
        match inner {
            Error::General(text) if text.starts_with(WRONG_CA) => {
                let seen = text.trim_start_matches(WRONG_CA);
                Some(format!(
                    "the control plane at {server} is not the one that --ca-hash names: its CA has the \
                     hash {seen}. Either the address or the hash is wrong; `knarr-control token create` \
                     prints both"
                ))
            }
            Error::InvalidCertificate(CertificateError::Expired)
            | Error::InvalidCertificate(CertificateError::ExpiredContext { .. }) => Some(format!(
                "the certificate of the control plane at {server} has expired: restart knarr-control \
                 there, and compare this machine's clock"
            )),
            Error::InvalidCertificate(CertificateError::NotValidYet)
            | Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }) => {
                Some(format!(
                    "the certificate of the control plane at {server} is not valid yet: this machine's \
                     clock is behind"
                ))
            }
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Some(format!(
                "the certificate of the control plane does not name {server}: use the address that \
                 `knarr-control token create` prints, or add this one with --advertise-url there"
            )),
            Error::InvalidCertificate(_) => Some(format!(
                "the certificate of the control plane at {server} is not signed by this cluster's CA \
                 ({inner}): is this another cluster? To join it, remove the pki directory in the \
                 agent's data directory and start the agent with the line that `knarr-control token \
                 create` prints"
            )),
            Error::AlertReceived(
                AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateRevoked,
            ) => Some(format!(
                "the control plane at {server} does not accept this node's certificate ({inner}): run \
                 `knarr-control token create` there, remove the pki directory in the agent's data \
                 directory and start the agent with the line it prints"
            )),
            _ => None,
        }
    }
}

/// Connects, so that a TLS error is known here and not at the first call.
pub async fn channel(server: &Server, tls: ClientConfig) -> Result<Channel, ConnectError> {
    let name = ServerName::try_from(server.host.clone())
        .map_err(|_| ConnectError::Name(server.host.clone()))?;
    let timeout = |_| ConnectError::Timeout;
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(server.authority()))
        .await
        .map_err(timeout)?
        .map_err(ConnectError::Tcp)?;
    tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
    let connector = TlsConnector::from(Arc::new(tls));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, tcp))
        .await
        .map_err(timeout)?
        .map_err(ConnectError::Tls)?;
    // The scheme only labels requests; the stream below is TLS already. A channel that loses its stream
    // must not connect by itself: the feed loop decides about that.
    let uri = format!("http://{}", server.authority());
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take();
        async move {
            stream
                .map(TokioIo::new)
                .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))
        }
    });
    let endpoint = Endpoint::from_shared(uri).map_err(ConnectError::Http)?;
    bounded(endpoint)
        .connect_with_connector(connector)
        .await
        .map_err(ConnectError::Http)
}

/// How every connection to a control plane is kept alive and bounded.
pub(crate) fn bounded(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}
