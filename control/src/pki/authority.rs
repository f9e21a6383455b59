// SPDX-License-Identifier: Apache-2.0
//! The cluster's certificate authority: its own certificate, and what it signs.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rand::RngCore;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::pair::Pair;
use super::{PkiError, files};

/// The CA lives ten years, as kubeadm's.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates start this much in the past, for machines whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// A signing request of one key is under 2 KiB, whatever the key.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Server,
    Client,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) common_name: String,
    pub(super) organization: Option<String>,
    /// Organizational unit: the uid of a node's Node.
    pub(super) unit: Option<String>,
    pub(super) usage: Usage,
    /// DNS names and addresses.
    pub(super) names: Vec<String>,
    pub(super) lifetime: Duration,
}

/// A node's signing request, of which the key counts and nothing else.
pub struct SigningRequest(rcgen::PublicKey);

/// The authority that everything in the cluster trusts.
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    hash: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the authority from `ca.crt` and `ca.key` in `dir`, or makes it if neither exists.
    pub fn open(dir: &Path, now: OffsetDateTime) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let broken = |reason: String| PkiError::Broken {
            path: certificate_path.clone(),
            reason,
        };
        let (certificate_pem, key) = match (
            files::read(&certificate_path)?,
            files::read(&key_path)?,
        ) {
            (Some(certificate), Some(key)) => {
                let key = KeyPair::from_pem(&key).map_err(|error| PkiError::Broken {
                    path: key_path.clone(),
                    reason: format!("not a private key: {error}"),
                })?;
                (certificate, key)
            }
            // Either nothing has been made yet, or a crash came between key and certificate.
            (None, key) => {
                let key = match key {
                    Some(key) => KeyPair::from_pem(&key)?,
                    None => KeyPair::generate()?,
                };
                files::write_private(&key_path, key.serialize_pem().as_bytes())?;
                let certificate = ca_params(now)?.self_signed(&key)?.pem();
                files::write_public(&certificate_path, certificate.as_bytes())?;
                tracing::info!(path = %certificate_path.display(), "made the cluster's CA");
                (certificate, key)
            }
            (Some(_), None) => {
                return Err(broken(format!(
                    "there is a CA certificate without its key {}: restore the key from a backup",
                    key_path.display()
                )));
            }
        };
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| broken(format!("not a certificate: {error}")))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| broken(format!("not a certificate: {error}")))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(broken(format!(
                "the CA certificate does not belong to the key {}",
                key_path.display()
            )));
        }
        if parsed.validity().not_after.to_datetime() <= now {
            return Err(broken("the CA certificate has expired".to_owned()));
        }
        let hash = format!(
            "sha256:{}",
            hex::encode(Sha256::digest(parsed.public_key().raw))
        );
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            certificate_pem,
            certificate,
            hash,
            issuer,
        })
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// `sha256:` and the hash of the public key, as kubeadm's `--discovery-token-ca-cert-hash`.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Makes a key and a certificate for it.
    pub(super) fn issue(&self, profile: &Profile, now: OffsetDateTime) -> Result<Pair, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params(profile, now)?.signed_by(&key, &self.issuer)?;
        Ok(Pair {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Reads a node's signing request.
    pub fn read_request(csr_pem: &str) -> Result<SigningRequest, PkiError> {
        if csr_pem.len() > REQUEST_BYTES_MAX {
            return Err(PkiError::Request("it is too long".to_owned()));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|error| PkiError::Request(error.to_string()))?;
        Ok(SigningRequest(request.public_key))
    }

    /// Signs the key in a node's request, for a certificate that begins at `begins` or later. Only the key is taken from
    /// the request: who the certificate is for and what for is decided here. `uid` is that of the Node.
    pub fn sign_node(
        &self,
        node: &str,
        uid: &str,
        request: &SigningRequest,
        lifetime: Duration,
        now: OffsetDateTime,
        begins: OffsetDateTime,
    ) -> Result<String, PkiError> {
        let profile = Profile {
            common_name: format!("system:node:{node}"),
            organization: Some("system:nodes".to_owned()),
            unit: Some(uid.to_owned()),
            usage: Usage::Client,
            names: Vec::new(),
            lifetime,
        };
        let mut params = params(&profile, now)?;
        params.not_before = params.not_before.max(begins);
        let certificate = params.signed_by(&request.0, &self.issuer)?;
        Ok(certificate.pem())
    }

    /// When `pair` should be renewed: when a third of its life is left. `None` if it is not of this
    /// authority or does not say what `profile` says.
    pub(super) fn due(&self, pair: &Pair, profile: &Profile) -> Option<OffsetDateTime> {
        let der = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let (_, ca) = X509Certificate::from_der(&self.certificate).ok()?;
        certificate.verify_signature(Some(ca.public_key())).ok()?;
        let key = KeyPair::from_pem(&pair.key_pem).ok()?;
        let same_key = certificate.public_key().subject_public_key.data.as_ref() == key.der_bytes();
        let mut names = names_of(&certificate)?;
        names.sort();
        let mut wanted = profile.names.clone();
        wanted.sort();
        if !same_key || names != wanted {
            return None;
        }
        let validity = certificate.validity();
        let (start, end) = (
            validity.not_before.to_datetime(),
            validity.not_after.to_datetime(),
        );
        Some(end - (end - start) / 3)
    }
}

/// DNS names and addresses of a certificate.
fn names_of(certificate: &X509Certificate<'_>) -> Option<Vec<String>> {
    let Some(names) = certificate.subject_alternative_name().ok()? else {
        return Some(Vec::new());
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    };
    names.value.general_names.iter().map(text).collect()
}

fn name(common_name: &str, organization: Option<&str>, unit: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    if let Some(unit) = unit {
        name.push(DnType::OrganizationalUnitName, unit);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn serial() -> SerialNumber {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    // A serial number is positive (RFC 5280, 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x01;
    SerialNumber::from_slice(&bytes)
}

fn ca_params(now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + CA_LIFETIME;
    params.serial_number = Some(serial());
    params.distinguished_name = name("kubernetes", None, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    Ok(params)
}

fn params(profile: &Profile, now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(profile.names.clone())?;
    debug_assert!(
        params
            .subject_alt_names
            .iter()
            .all(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)))
    );
    params.not_before = now - CLOCK_SKEW.min(profile.lifetime / 10);
    params.not_after = now + profile.lifetime;
    params.serial_number = Some(serial());
    params.distinguished_name = name(
        &profile.common_name,
        profile.organization.as_deref(),
        profile.unit.as_deref(),
    );
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![match profile.usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
