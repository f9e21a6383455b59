// SPDX-License-Identifier: Apache-2.0
//! Who a TLS client proves to be.
//!
//! A client with a certificate of somebody else's CA, or with one that has run out, is a client that has proved nothing:
//! it may ask for health like everybody and gets a 401 for the rest, as Kubernetes has it. A failed handshake would tell it
//! less. So the handshake takes every certificate whose key the client has, and the certificate is judged afterwards.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, ServerConnection,
    SignatureScheme,
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::PeerIdentity;

/// The certificate that a client proved itself with. In a request's extensions, beside the [`PeerIdentity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The serial number, in lower-case hexadecimal.
    pub serial: String,
    /// Its organizational unit. A node's certificate has the uid of the Node there.
    pub unit: Option<String>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends; the connection ends then as well.
    pub not_after: SystemTime,
}

impl PeerCertificate {
    /// Reads the serial number, the organizational unit and the two ends of a certificate. `None` where it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let moment = |time: ASN1Time| {
            let since = Duration::from_secs(u64::try_from(time.timestamp()).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        let validity = certificate.validity();
        Some(Self {
            serial: hex::encode(certificate.raw_serial()),
            unit: certificate
                .subject()
                .iter_organizational_unit()
                .next()
                .and_then(|unit| unit.as_str().ok())
                .map(str::to_owned),
            not_before: moment(validity.not_before)?,
            not_after: moment(validity.not_after)?,
        })
    }
}

/// What a client has proved.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) identity: PeerIdentity,
    pub(super) certificate: PeerCertificate,
}

/// What connections are served with: the configuration, and the judge of client certificates. Made together, so that none
/// goes without the other.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    judge: Arc<dyn ClientCertVerifier>,
}

impl Tls {
    /// `config` makes the configuration around the verifier that it is given; `judge` says which certificates prove
    /// something.
    ///
    /// # Errors
    /// What `config` says.
    pub fn new<E>(
        judge: Arc<dyn ClientCertVerifier>,
        config: impl FnOnce(Arc<dyn ClientCertVerifier>) -> Result<ServerConfig, E>,
    ) -> Result<Self, E> {
        let config = config(Arc::new(Unjudged(judge.clone())))?;
        Ok(Self {
            config: Arc::new(config),
            judge,
        })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }

    /// The user of the client's certificate, if the judge says that it proves one now.
    pub(super) fn prove(&self, connection: &ServerConnection) -> Option<Proof> {
        let (own, chain) = connection.peer_certificates()?.split_first()?;
        // A node's new certificate begins with the next second, so that it is newer than what was taken back in this one.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(now.unwrap_or_default() + Duration::from_secs(1));
        match self.judge.verify_client_cert(own, chain, now) {
            Ok(_) => Some(Proof {
                identity: PeerIdentity::from_certificate(own)?,
                certificate: PeerCertificate::read(own)?,
            }),
            Err(error) => {
                tracing::debug!(%error, "a client certificate proves nothing");
                None
            }
        }
    }
}

/// Checks that the client has the key of its certificate, and leaves the certificate to the judge.
#[derive(Debug)]
struct Unjudged(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Unjudged {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
