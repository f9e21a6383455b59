// SPDX-License-Identifier: Apache-2.0
//! Trust in a control plane of which only the hash of its CA's public key is known.
//!
//! The server sends its CA beside its own certificate. The CA whose SubjectPublicKeyInfo has the given
//! SHA-256 (kubeadm's `--discovery-token-ca-cert-hash`) becomes the one root, and the ordinary checks of
//! chain, name and dates follow. Not here: connections of a node that has joined (`identity`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};

/// SHA-256 of a CA's SubjectPublicKeyInfo.
#[derive(Clone, PartialEq, Eq)]
pub struct CaHash([u8; 32]);

/// A text that is no hash.
#[derive(Debug, thiserror::Error)]
#[error("is not of the form sha256: and 64 hexadecimal digits")]
pub struct CaHashError;

impl FromStr for CaHash {
    type Err = CaHashError;

    fn from_str(text: &str) -> Result<CaHash, CaHashError> {
        let digits = text.strip_prefix("sha256:").ok_or(CaHashError)?;
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| CaHashError)?;
        Ok(CaHash(hash))
    }
}

impl fmt::Display for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for CaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl CaHash {
    /// The hash of a certificate's public key; none where the certificate cannot be read.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<CaHash> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let spki = parsed.tbs_certificate.subject_pki.raw;
        Some(CaHash(Sha256::digest(spki).into()))
    }
}

/// The crypto provider of every connection.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client that trusts exactly the CA with this hash and shows no certificate.
pub fn client_config(hash: CaHash) -> ClientConfig {
    let provider = provider();
    let verifier = PinVerifier {
        hash,
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider knows TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[derive(Debug)]
struct PinVerifier {
    hash: CaHash,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut offered = intermediates.iter();
        let ca = offered.find(|c| CaHash::of(c).as_ref() == Some(&self.hash));
        let Some(ca) = ca else {
            let seen = intermediates.last().unwrap_or(end_entity);
            let seen = CaHash::of(seen).map_or_else(|| "none".to_owned(), |h| h.to_string());
            return Err(Error::General(format!("{WRONG_CA}{seen}")));
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Begins the error of a server whose CA is another one; the hash it has follows.
pub const WRONG_CA: &str = "the control plane's CA is another one: ";
