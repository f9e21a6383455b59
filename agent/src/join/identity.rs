// SPDX-License-Identifier: Apache-2.0
//! The node's key and certificate: made, read, written, turned into TLS, and when to renew them.
//!
//! One file holds key, certificate and CA, so that a crash never leaves parts of two. Called by `join` and
//! by the feed loop.

use std::path::{Path, PathBuf};

use knarr_agent_plan::Millis;
use knarr_api::feed::NodeCertificate;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::join::pin;

/// The file in the pki directory.
const FILE: &str = "node.pem";
/// A certificate is renewed when this much of its life is over.
const RENEW_AFTER: (i64, i64) = (2, 3);

/// What can go wrong with key and certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The file or an answer is no certificate.
    #[error("{origin} holds no usable key and certificate ({what})")]
    Content {
        /// File or server.
        origin: String,
        /// What is wrong.
        what: String,
    },
    /// A key or request could not be made.
    #[error("cannot make a key")]
    Key(#[source] rcgen::Error),
    /// TLS refuses the pair.
    #[error("the node's key and certificate cannot be used")]
    Tls(#[source] rustls::Error),
}

/// A new key that waits for its certificate.
pub struct KeyRequest {
    key: KeyPair,
    node_name: String,
}

impl KeyRequest {
    /// Makes a key (ECDSA P-256).
    pub fn new(node_name: &str) -> Result<KeyRequest, IdentityError> {
        Ok(KeyRequest {
            key: KeyPair::generate().map_err(IdentityError::Key)?,
            node_name: node_name.to_owned(),
        })
    }

    /// The signing request.
    pub fn csr_pem(&self) -> Result<String, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = format!("system:node:{}", self.node_name);
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        params
            .serialize_request(&self.key)
            .and_then(|request| request.pem())
            .map_err(IdentityError::Key)
    }

    /// Key and certificate together.
    pub fn complete(
        self,
        certificate: &NodeCertificate,
        node_name: &str,
    ) -> Result<Identity, IdentityError> {
        let pem = format!(
            "{}{}{CA_MARK}{}",
            self.key.serialize_pem(),
            ends_with_newline(&certificate.certificate_pem),
            ends_with_newline(&certificate.ca_pem)
        );
        let identity = Identity::parse(pem, "the control plane's answer")?;
        if identity.node_name == node_name {
            Ok(identity)
        } else {
            Err(IdentityError::Content {
                origin: "the control plane's answer".to_owned(),
                what: format!("it is for the node {:?}", identity.node_name),
            })
        }
    }
}

fn ends_with_newline(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

/// Separates the node's chain from the CA in the file. PEM readers skip text between blocks.
const CA_MARK: &str = "# CA\n";

/// Key, certificate and CA of this node.
pub struct Identity {
    pem: String,
    node_name: String,
    not_before_ms: Millis,
    not_after_ms: Millis,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("node_name", &self.node_name)
            .field("not_after_ms", &self.not_after_ms)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the file; none where there is none.
    pub fn load(dir: &Path) -> Result<Option<Identity>, IdentityError> {
        let path = dir.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(pem) => Identity::parse(pem, &path.display().to_string()).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IdentityError::File {
                action: "read",
                path,
                source,
            }),
        }
    }

    fn parse(pem: String, origin: &str) -> Result<Identity, IdentityError> {
        let wrong = |what: String| IdentityError::Content {
            origin: origin.to_owned(),
            what,
        };
        let (chain, _) = split(&pem).ok_or_else(|| wrong("the CA is missing".to_owned()))?;
        let first = CertificateDer::pem_slice_iter(chain.as_bytes())
            .next()
            .ok_or_else(|| wrong("the certificate is missing".to_owned()))?
            .map_err(|e| wrong(e.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&first).map_err(|e| wrong(e.to_string()))?;
        let common_name = parsed.subject().iter_common_name().next();
        let common_name = common_name.and_then(|n| n.as_str().ok()).unwrap_or("");
        let node_name = common_name
            .strip_prefix("system:node:")
            .ok_or_else(|| wrong(format!("it is for {common_name:?}, which is no node")))?
            .to_owned();
        let validity = parsed.validity();
        let identity = Identity {
            not_before_ms: validity.not_before.timestamp().saturating_mul(1000),
            not_after_ms: validity.not_after.timestamp().saturating_mul(1000),
            node_name,
            pem,
        };
        identity.client_config()?;
        Ok(identity)
    }

    /// Writes the file as a whole, readable by root only.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join(FILE);
        let fail = |action, source| IdentityError::File {
            action,
            path: path.clone(),
            source,
        };
        crate::files::private_dir(dir).map_err(|e| fail("make the directory of", e))?;
        crate::files::replace(&path, self.pem.as_bytes(), crate::files::Durability::Disk)
            .map_err(|e| fail("write", e))
    }

    /// The node the certificate names.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// Whether the certificate has ended.
    pub fn is_expired(&self, now_ms: Millis) -> bool {
        now_ms >= self.not_after_ms
    }

    /// When a new certificate is due.
    pub fn renew_at_ms(&self) -> Millis {
        let life_ms = (self.not_after_ms - self.not_before_ms).max(0);
        self.not_before_ms + life_ms / RENEW_AFTER.1 * RENEW_AFTER.0
    }

    /// When the certificate ends.
    pub fn not_after_ms(&self) -> Millis {
        self.not_after_ms
    }

    /// TLS for the feed: this certificate, and trust in this CA only.
    pub fn client_config(&self) -> Result<ClientConfig, IdentityError> {
        let wrong = |what: String| IdentityError::Content {
            origin: "the node's identity".to_owned(),
            what,
        };
        let (chain, ca) = split(&self.pem).ok_or_else(|| wrong("no CA".to_owned()))?;
        let read = |text: &str| -> Result<Vec<CertificateDer<'static>>, IdentityError> {
            CertificateDer::pem_slice_iter(text.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| wrong(e.to_string()))
        };
        let key =
            PrivateKeyDer::from_pem_slice(chain.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in read(ca)? {
            roots.add(certificate).map_err(IdentityError::Tls)?;
        }
        let mut config = ClientConfig::builder_with_provider(pin::provider())
            .with_safe_default_protocol_versions()
            .map_err(IdentityError::Tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(read(chain)?, key)
            .map_err(IdentityError::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn split(pem: &str) -> Option<(&str, &str)> {
    pem.split_once(CA_MARK)
}
