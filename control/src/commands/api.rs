// SPDX-License-Identifier: Apache-2.0
//! A few requests to the running API server with the admin certificate of its data directory.
//!
//! For commands on the control plane's own machine; not a general client.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::pki::{LOCAL_URL_FILE, host_of};

/// A control plane that is up answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What TLS, HTTP or a parser says.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was not answered as wished.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(
        "cannot read {path}: is this the control plane's machine, has `knarr-control serve` been started once, and is --data-dir right?",
        path = path.display()
    )]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0:?} is not a URL such as https://10.0.0.1:6443")]
    Url(String),
    #[error("admin.kubeconfig names no server: say where it is with --server")]
    NoServer,
    #[error("cannot use {what}")]
    Setup {
        what: &'static str,
        #[source]
        source: Cause,
    },
    #[error(
        "no control plane answers at {url}: start it with `knarr-control serve`, or say where it is with --server"
    )]
    Connect {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the connection to {url} failed")]
    Transfer {
        url: String,
        #[source]
        source: Cause,
    },
    #[error("{url} did not answer within {} s", TIMEOUT.as_secs())]
    Silent { url: String },
    #[error("{message}")]
    Status { code: StatusCode, message: String },
}

impl ApiError {
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code, .. } if *code == StatusCode::NOT_FOUND)
    }

    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Status { code, .. } if *code == StatusCode::CONFLICT)
    }
}

/// The running API server.
pub(super) struct Api {
    url: String,
    host: String,
    tls: TlsConnector,
    ca_pem: String,
    /// Where the admin kubeconfig finds it.
    advertised: String,
}

fn read(path: PathBuf) -> Result<String, ApiError> {
    std::fs::read_to_string(&path).map_err(|source| ApiError::File { path, source })
}

fn setup<E: Into<Cause>>(what: &'static str) -> impl Fn(E) -> ApiError {
    move |error| ApiError::Setup {
        what,
        source: error.into(),
    }
}

impl Api {
    /// The API server of a data directory, at `server` or where it last served.
    pub(super) fn open(data_dir: &Path, server: Option<&str>) -> Result<Self, ApiError> {
        let pki = data_dir.join("pki");
        let ca_pem = read(pki.join("ca.crt"))?;
        let certificate = read(pki.join("admin.crt"))?;
        let key = read(pki.join("admin.key"))?;
        let url = match server {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => read(data_dir.join(LOCAL_URL_FILE))?,
        };
        let kubeconfig = read(data_dir.join("admin.kubeconfig"))?;
        let advertised = server_of(&kubeconfig)?;
        let host = host_of(&url)
            .filter(|_| url.starts_with("https://"))
            .ok_or_else(|| ApiError::Url(url.clone()))?
            .to_owned();
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(setup("ca.crt"))?;
        roots.add(ca).map_err(setup("ca.crt"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setup("TLS"))?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![
                    CertificateDer::from_pem_slice(certificate.as_bytes())
                        .map_err(setup("admin.crt"))?,
                ],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(setup("admin.key"))?,
            )
            .map_err(setup("admin.crt and admin.key"))?;
        Ok(Self {
            url,
            host,
            tls: TlsConnector::from(Arc::new(config)),
            ca_pem,
            advertised,
        })
    }

    /// Where other machines reach the API server: where the kubeconfig says, unless that is loopback and
    /// this machine has something better.
    pub(super) fn url_for_others(&self) -> &str {
        if is_loopback(&self.advertised) && !is_loopback(&self.url) {
            return &self.url;
        }
        &self.advertised
    }

    /// The cluster's CA.
    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Sends one request; the answer's JSON, or the message of its Status.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        tokio::time::timeout(TIMEOUT, self.exchange(method, path, body))
            .await
            .map_err(|_| ApiError::Silent {
                url: self.url.clone(),
            })?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let failed = |source: Cause| ApiError::Transfer {
            url: self.url.clone(),
            source,
        };
        let connect = |source| ApiError::Connect {
            url: self.url.clone(),
            source,
        };
        let address = (self.host.as_str(), port_of(&self.url));
        let socket = TcpStream::connect(address).await.map_err(connect)?;
        let name = ServerName::try_from(self.host.clone()).map_err(setup("the URL's host"))?;
        let stream = self
            .tls
            .connect(name, socket)
            .await
            .map_err(|e| failed(e.into()))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(e.into()))?;
        let connection = tokio::spawn(connection);
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, &self.host)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::ACCEPT, "application/json")
            .body(Full::new(bytes))
            .map_err(setup("the request"))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| failed(e.into()))?;
        let code = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|e| failed(e.into()))?.to_bytes();
        connection.abort();
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if code.is_success() {
            return Ok(value);
        }
        let message = match value["message"].as_str() {
            Some(message) => message.to_owned(),
            None => format!("{} answered {code}", self.url),
        };
        Err(ApiError::Status { code, message })
    }
}

fn is_loopback(url: &str) -> bool {
    let host = host_of(url).unwrap_or_default();
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The port of `https://HOST[:PORT]`.
fn port_of(url: &str) -> u16 {
    let authority = url
        .split("://")
        .nth(1)
        .and_then(|rest| rest.split('/').next());
    let port = authority.and_then(|authority| {
        let after_host = authority
            .rsplit_once(']')
            .map_or(authority, |(_, rest)| rest);
        after_host.rsplit_once(':')?.1.parse().ok()
    });
    // https without a port; join lines and kubeconfigs of this program always have one.
    port.unwrap_or(443)
}

/// The server in an admin kubeconfig that this program wrote.
fn server_of(kubeconfig: &str) -> Result<String, ApiError> {
    kubeconfig
        .lines()
        .find_map(|line| line.trim().strip_prefix("server:"))
        .map(str::trim)
        .map(|server| serde_json::from_str(server).unwrap_or_else(|_| server.to_owned()))
        .ok_or(ApiError::NoServer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_url_is_found() {
        assert_eq!(port_of("https://10.0.0.1:6443"), 6443);
        assert_eq!(port_of("https://[fd00::1]:7000/x"), 7000);
        assert_eq!(port_of("https://[fd00::1]"), 443);
        assert_eq!(port_of("https://a.example"), 443);
    }

    #[test]
    fn the_server_of_a_kubeconfig_is_found() {
        let text = "clusters:\n- cluster:\n    server: \"https://10.0.0.1:6443\"\n";
        assert_eq!(server_of(text).unwrap(), "https://10.0.0.1:6443");
        assert!(server_of("kind: Config").is_err());
    }

    #[test]
    fn what_makes_a_data_directory_unusable_is_told_as_a_cause() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        for file in ["pki/ca.crt", "pki/admin.crt", "pki/admin.key"] {
            std::fs::write(dir.path().join(file), "no PEM").unwrap();
        }
        let kubeconfig = "server: \"https://10.0.0.1:6443\"\n";
        std::fs::write(dir.path().join("admin.kubeconfig"), kubeconfig).unwrap();
        let open = |url| Api::open(dir.path(), Some(url)).err().unwrap();
        let error = open("https://10.0.0.1:6443");
        assert_eq!(error.to_string(), "cannot use ca.crt");
        let cause = std::error::Error::source(&error).unwrap();
        assert!(cause.is::<rustls_pki_types::pem::Error>(), "{cause:?}");
        assert!(matches!(open("http://10.0.0.1"), ApiError::Url(_)));
    }
}
