// SPDX-License-Identifier: Apache-2.0
//! Asks a probe over HTTP or HTTPS as kubelet v1.37 does (`pkg/probe/http`): one GET on a connection of its own, which
//! follows redirects as long as they stay with the host, and trusts whatever certificate it is shown.
//!
//! Not here: how long an answer may take and what it leads to (`probes`).

use super::Answer;
use crate::join::pin::provider;
use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use knarr_agent_plan::probe::{HttpGet, Scheme};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::error::Error;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use url::{Position, Url};

/// Requests for one question, the redirected ones included.
const REQUESTS_MAX: usize = 10;
/// As much of an answer's body is waited for.
const BODY_BYTES_MAX: usize = 10 << 10;
/// What the probes call themselves.
const AGENT: &str = "kube-probe/1.37";

/// Asks once. `pod_ip` is the host where the probe names none.
pub(super) async fn ask(get: &HttpGet, pod_ip: &str) -> Answer {
    let host = get.host.as_deref().unwrap_or(pod_ip);
    let text = address(get, host);
    let asked = async {
        let url = Url::parse(&text)?;
        let headers = headers(&get.headers)?;
        follow(url, headers).await
    };
    match asked.await {
        Ok((url, status)) if status.is_success() => {
            tracing::trace!(%url, %status, "a probe was answered");
            Answer::Passed
        }
        Ok((_, status)) if status.is_redirection() => Answer::Warned(format!(
            "Probe terminated redirects, Response status: {status}"
        )),
        Ok((_, status)) => Answer::Failed(format!(
            "HTTP probe failed with statuscode: {}",
            status.as_u16()
        )),
        Err(error) => Answer::Failed(format!("Get \"{text}\": {}", chain(&*error))),
    }
}

type Failure = Box<dyn Error + Send + Sync>;

fn address(get: &HttpGet, host: &str) -> String {
    let scheme = match get.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let port = get.port;
    if host.contains(':') {
        // An IPv6 address.
        format!("{scheme}://[{host}]:{port}{}", get.path)
    } else {
        format!("{scheme}://{host}:{port}{}", get.path)
    }
}

/// The probe's own headers before ours; an empty one of these two is not sent at all.
fn headers(own: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in own {
        headers.append(
            HeaderName::from_bytes(name.as_bytes())?,
            HeaderValue::from_bytes(value.as_bytes())?,
        );
    }
    for (name, value) in [(USER_AGENT, AGENT), (ACCEPT, "*/*")] {
        match headers.get(&name) {
            None => {
                headers.insert(name, HeaderValue::from_static(value));
            }
            Some(value) if value.is_empty() => {
                headers.remove(name);
            }
            Some(_) => {}
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// Gives the last address that was asked, and its status.
async fn follow(mut url: Url, mut headers: HeaderMap) -> Result<(Url, StatusCode), Failure> {
    for _ in 0..REQUESTS_MAX {
        let (status, location) = get(&url, &headers).await?;
        let Some(location) = location.filter(|_| asks_elsewhere(status)) else {
            return Ok((url, status));
        };
        let next = url.join(&location)?;
        if next.host_str() != url.host_str() {
            return Ok((url, status));
        }
        if Url::parse(&location).is_ok() {
            // A whole address names the host that is meant; the probe's own word for it was for the first one.
            headers.remove(HOST);
        }
        url = next;
    }
    Err(format!("stopped after {REQUESTS_MAX} redirects").into())
}

fn asks_elsewhere(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    )
}

/// One request. Gives the status and where the answer leads, if it does.
async fn get(url: &Url, headers: &HeaderMap) -> Result<(StatusCode, Option<String>), Failure> {
    // Without the brackets of an IPv6 address, which belong to the text of an address only.
    let host = url.host_str().ok_or("no host in the address")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or("no port")?;
    let stream = TcpStream::connect((host, port)).await?;
    match url.scheme() {
        "http" => send(stream, url, headers).await,
        "https" => {
            let name = ServerName::try_from(host.to_owned())?;
            let stream = TlsConnector::from(trusting()).connect(name, stream).await?;
            send(stream, url, headers).await
        }
        other => Err(format!("unsupported protocol scheme \"{other}\"").into()),
    }
}

async fn send<S>(
    stream: S,
    url: &Url,
    headers: &HeaderMap,
) -> Result<(StatusCode, Option<String>), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this call, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
        .body(Empty::<Bytes>::new())?;
    *request.headers_mut() = headers.clone();
    if !headers.contains_key(HOST) {
        let host = &url[Position::BeforeHost..Position::AfterPort];
        request
            .headers_mut()
            .insert(HOST, HeaderValue::from_str(host)?);
    }
    let mut response = sender.send_request(request).await?;
    read(&mut response).await?;
    let location = response.headers().get(LOCATION);
    let location = location.map(HeaderValue::to_str).transpose()?;
    Ok((response.status(), location.map(str::to_owned)))
}

/// Waits for the body, or for as much of it as there has to be: one that breaks off is no answer.
async fn read(response: &mut Response<Incoming>) -> Result<(), Failure> {
    let mut bytes = 0;
    while let Some(frame) = response.body_mut().frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
        if bytes >= BODY_BYTES_MAX {
            break;
        }
    }
    Ok(())
}

/// An error with what caused it: hyper's own names only the step.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn trusting() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let provider = provider();
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the ring provider knows TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
            .with_no_client_auth();
        // Each question is a whole new one.
        config.resumption = Resumption::disabled();
        Arc::new(config)
    });
    config.clone()
}

/// Trusts every certificate whose key the server holds. A probe asks whether a container answers, not who it is.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
