// SPDX-License-Identifier: Apache-2.0
//! Asks a probe over HTTP or HTTPS as kubelet v1.37 does (`pkg/probe/http`): one GET on a connection of its own, which
//! follows redirects as long as they stay with the host, and takes whatever certificate it is shown.
//!
//! Unlike kubelet it speaks HTTP/1.1 only, and counts an answer that breaks off as a failure, where kubelet asks again.
//!
//! Not here: how long an answer may take and what it leads to (`probes`).

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue,
    InvalidHeaderName, InvalidHeaderValue, LOCATION, TRAILER, TRANSFER_ENCODING, USER_AGENT,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use knarr_agent_plan::probe::{HttpGet, Scheme};
use knarr_base::chain;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use url::{Position, Url};

use super::Answer;
use crate::join::pin::provider;

/// Requests for one question, the redirected ones included.
const REQUESTS_MAX: usize = 10;
/// No more of an answer's body than this is waited for and told (kubelet's `maxRespBodyLength`).
const BODY_BYTES_MAX: usize = 10 << 10;
/// What the probes call themselves.
const AGENT: &str = "kube-probe/1.37";

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Address(#[from] url::ParseError),
    #[error("the address has no host or no port")]
    NoHost,
    #[error("unsupported protocol scheme \"{0}\"")]
    Scheme(String),
    #[error(transparent)]
    HeaderName(#[from] InvalidHeaderName),
    #[error(transparent)]
    HeaderValue(#[from] InvalidHeaderValue),
    #[error(transparent)]
    ServerName(#[from] InvalidDnsNameError),
    #[error(transparent)]
    Connection(#[from] io::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Exchange(#[from] hyper::Error),
    #[error("the Location of a redirect is not UTF-8")]
    Location,
    #[error("stopped after {REQUESTS_MAX} redirects")]
    Redirects,
}

/// Asks once. `pod_ip` is the host where the probe names none.
pub(super) async fn ask(get: &HttpGet, pod_ip: &str) -> Answer {
    let host = get.host.as_deref().unwrap_or(pod_ip);
    let authority = authority(host, get.port);
    let scheme = match get.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let text = format!("{scheme}://{authority}{}", get.path);
    let asked = async {
        let url = Url::parse(&text)?;
        let headers = headers(&get.headers, &authority)?;
        follow(url, headers).await
    };
    match asked.await {
        Ok((url, Said { status, .. })) if status.is_success() => {
            tracing::trace!(%url, %status, "a probe was answered");
            Answer::Passed
        }
        Ok((_, Said { status, body })) if status.is_redirection() => Answer::Warned(format!(
            "Probe terminated redirects, Response body: {}",
            String::from_utf8_lossy(&body)
        )),
        Ok((_, Said { status, .. })) => Answer::Failed(format!(
            "HTTP probe failed with statuscode: {}",
            status.as_u16()
        )),
        Err(error) => Answer::Failed(format!("Get \"{text}\": {}", chain(&error))),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        // An IPv6 address.
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The probe's own headers before ours.
fn headers(own: &[(String, String)], authority: &str) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in own {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        let value = HeaderValue::from_bytes(value.as_bytes())?;
        // There is no body, so nothing may announce one.
        if [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(&name) {
            continue;
        }
        // One host is asked for, and an empty one is none.
        if name == HOST && (value.is_empty() || headers.contains_key(HOST)) {
            continue;
        }
        headers.append(name, value);
    }
    for (name, value) in [(USER_AGENT, AGENT), (ACCEPT, "*/*"), (HOST, authority)] {
        match headers.get(&name) {
            None => {
                headers.insert(name, HeaderValue::from_str(value)?);
            }
            // Asked not to be sent.
            Some(value) if value.is_empty() => {
                headers.remove(name);
            }
            Some(_) => {}
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// A last answer.
struct Said {
    status: StatusCode,
    /// The beginning of it, at most [`BODY_BYTES_MAX`].
    body: Vec<u8>,
}

/// What a request led to.
enum Next {
    Said(Said),
    /// The same host is to be asked again.
    Redirected(Redirect),
}

struct Redirect {
    url: Url,
    /// A whole address says itself which host is meant.
    is_whole: bool,
}

/// Gives the last address that was asked, and its answer.
async fn follow(mut url: Url, mut headers: HeaderMap) -> Result<(Url, Said), Failure> {
    for _ in 0..REQUESTS_MAX {
        match ask_once(&url, &headers).await? {
            Next::Said(said) => return Ok((url, said)),
            Next::Redirected(Redirect {
                url: next,
                is_whole,
            }) => {
                if is_whole {
                    headers.remove(HOST);
                }
                url = next;
            }
        }
    }
    Err(Failure::Redirects)
}

/// Where an answer sends the question, as long as that is the same host.
fn redirect(url: &Url, response: &Response<Incoming>) -> Result<Option<Redirect>, Failure> {
    let location = response.headers().get(LOCATION);
    let location = location.filter(|next| asks_elsewhere(response.status()) && !next.is_empty());
    let Some(location) = location else {
        return Ok(None);
    };
    let location = std::str::from_utf8(location.as_bytes()).map_err(|_| Failure::Location)?;
    let next = url.join(location)?;
    let stays = next.host_str() == url.host_str();
    Ok(stays.then(|| Redirect {
        url: next,
        is_whole: Url::parse(location).is_ok(),
    }))
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

/// One request.
async fn ask_once(url: &Url, headers: &HeaderMap) -> Result<Next, Failure> {
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        other => return Err(Failure::Scheme(other.to_owned())),
    };
    // Without the brackets of an IPv6 address, which belong to the text of an address only.
    let host = url.host_str().ok_or(Failure::NoHost)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_or_known_default().ok_or(Failure::NoHost)?;
    let stream = TcpStream::connect((host, port)).await?;
    if !tls {
        return send(stream, url, headers).await;
    }
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(trusting()).connect(name, stream).await?;
    send(stream, url, headers).await
}

async fn send<S>(stream: S, url: &Url, headers: &HeaderMap) -> Result<Next, Failure>
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
    if let Some(redirect) = redirect(url, &response)? {
        return Ok(Next::Redirected(redirect));
    }
    let body = read(&mut response).await?;
    Ok(Next::Said(Said {
        status: response.status(),
        body,
    }))
}

/// Waits for the body, or for as much of it as there has to be: one that breaks off is no answer.
async fn read(response: &mut Response<Incoming>) -> Result<Vec<u8>, hyper::Error> {
    let until_closed = response.body().size_hint().exact().is_none()
        && !response.headers().contains_key(TRANSFER_ENCODING);
    let mut body = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        match frame {
            Ok(frame) => {
                let room = BODY_BYTES_MAX - body.len();
                let data = frame.data_ref().map_or(&[][..], |data| data);
                body.extend_from_slice(&data[..data.len().min(room)]);
            }
            // Many servers end such a body without the alert that TLS has for it.
            Err(error) if until_closed && is_end_of_file(&error) => break,
            Err(error) => return Err(error),
        }
        if body.len() >= BODY_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

fn is_end_of_file(error: &hyper::Error) -> bool {
    knarr_base::error::causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

fn trusting() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the ring provider knows TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting))
            .with_no_client_auth();
        // Each question is a whole new one.
        config.resumption = Resumption::disabled();
        Arc::new(config)
    });
    config.clone()
}

/// Takes whatever is shown, also what it cannot read: a probe asks whether a container answers, not who it is. A
/// signature by the key of a certificate that nobody trusts says nothing either.
#[derive(Debug)]
struct Trusting;

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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
        ]
    }
}

#[cfg(test)]
mod tests;
