// SPDX-License-Identifier: Apache-2.0
//! TLS as the one port serves it: client certificates of the cluster's CA are checked, none is needed.
//!
//! Who may do what without a certificate is decided by the API server and the node feed.

use std::sync::Arc;

use knarr_apiserver::serve::Tls;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Authority, Pair, PkiError};

/// The user of the admin certificate, as kubeadm names it.
pub const ADMIN_USER: &str = "kubernetes-admin";
/// The group that may do everything.
pub const ADMIN_GROUP: &str = "system:masters";

fn tls(error: rustls::Error) -> PkiError {
    PkiError::Tls(Box::new(error))
}

/// What a connection is served with.
pub(super) fn server_config(authority: &Authority, pair: &Pair) -> Result<Arc<Tls>, PkiError> {
    let general = |error: &dyn std::fmt::Display| tls(rustls::Error::General(error.to_string()));
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).map_err(tls)?;
    let provider = Arc::new(ring::default_provider());
    let judge = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| general(&error))?;
    let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes())
        .map_err(|error| general(&error))?;
    let key =
        PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|error| general(&error))?;
    // The CA is sent along, so that a joining machine can check its hash before it trusts it.
    let chain = vec![certificate, authority.certificate().clone()];
    let tls = Tls::new(judge, |verifier| {
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok::<_, PkiError>(config)
    })?;
    Ok(Arc::new(tls))
}
