// SPDX-License-Identifier: Apache-2.0
//! What the certificates say, how they are kept, and that renewal reaches those who serve with them.

use std::os::unix::fs::PermissionsExt;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::config::Settings;

fn config(dir: &Path, listen: &str) -> Config {
    let settings = Settings {
        data_dir: Some(dir.join("data")),
        listen: vec![listen.parse().unwrap()],
        ..Settings::default()
    };
    settings.resolve(&[]).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn subject(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    certificate.subject().to_string()
}

fn request() -> (rcgen::KeyPair, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "kubernetes-admin");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:masters");
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, request)
}

#[test]
fn keys_and_directories_are_readable_by_their_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "10.0.0.5:6443");
    Pki::open(&config, OffsetDateTime::now_utc()).unwrap();
    let data = &config.data_dir;
    for directory in [data.clone(), data.join("pki")] {
        assert_eq!(mode(&directory), 0o700, "{}", directory.display());
    }
    for secret in [
        "admin.kubeconfig",
        "pki/ca.key",
        "pki/server.key",
        "pki/admin.key",
    ] {
        assert_eq!(mode(&data.join(secret)), 0o600, "{secret}");
    }
    for public in ["pki/ca.crt", "pki/server.crt", "pki/admin.crt"] {
        assert_eq!(mode(&data.join(public)), 0o644, "{public}");
    }
}

#[test]
fn a_second_start_keeps_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "10.0.0.5:6443");
    let read = || {
        [
            "pki/ca.crt",
            "pki/ca.key",
            "pki/server.crt",
            "pki/admin.crt",
            "admin.kubeconfig",
        ]
        .map(|file| std::fs::read(config.data_dir.join(file)).unwrap())
    };
    Pki::open(&config, OffsetDateTime::now_utc()).unwrap();
    let first = read();
    Pki::open(&config, OffsetDateTime::now_utc()).unwrap();
    assert_eq!(read(), first);
}

#[test]
fn the_servers_certificate_names_all_ways_to_reach_it_and_follows_the_flags() {
    let dir = tempfile::tempdir().unwrap();
    let names = |config: &Config| {
        Pki::open(config, OffsetDateTime::now_utc()).unwrap();
        let pem = std::fs::read(config.data_dir.join("pki/server.crt")).unwrap();
        let der = CertificateDer::from_pem_slice(&pem).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let extension = certificate.subject_alternative_name().unwrap().unwrap();
        format!("{:?}", extension.value.general_names)
    };
    let first = names(&config(dir.path(), "10.0.0.5:6443"));
    for name in ["localhost", "kubernetes.default.svc.cluster.local"] {
        assert!(first.contains(name), "{first}");
    }
    for address in ["[127, 0, 0, 1]", "[10, 96, 0, 1]", "[10, 0, 0, 5]"] {
        let bytes: Vec<u8> = serde_json::from_str(address).unwrap();
        assert!(
            first.contains(&format!(
                "{:?}",
                x509_parser::prelude::GeneralName::IPAddress(&bytes)
            )),
            "{first}"
        );
    }
    let second = names(&config(dir.path(), "10.0.0.6:6443"));
    assert_ne!(first, second);
}

#[test]
fn a_node_gets_a_node_certificate_whatever_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "10.0.0.5:6443");
    let now = OffsetDateTime::now_utc();
    let authority = Pki::open(&config, now).unwrap().authority();
    let (key, request) = request();
    let lifetime = Duration::from_secs(3600);
    let pem = authority
        .sign_node(
            "node-1",
            "uid-1",
            &Authority::read_request(&request).unwrap(),
            lifetime,
            now,
            now - Duration::from_secs(3600),
        )
        .unwrap();
    assert_eq!(
        subject(&pem),
        "O=system:nodes, OU=uid-1, CN=system:node:node-1"
    );
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    assert!(!certificate.is_ca());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let end = certificate.validity().not_after.to_datetime();
    assert!((end - now - lifetime).abs() < time::Duration::seconds(2));
    let spki = certificate.public_key().subject_public_key.data.as_ref();
    assert_eq!(spki, key.public_key_raw());
}

#[test]
fn a_request_with_a_broken_signature_is_refused() {
    for wrong in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        let Err(error) = Authority::read_request(wrong) else {
            panic!("{wrong:?} was taken");
        };
        assert!(matches!(error, PkiError::Request(_)), "{error}");
    }
}

#[test]
fn a_certificate_that_is_due_is_renewed_and_handed_to_those_who_serve() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "10.0.0.5:6443");
    let now = OffsetDateTime::now_utc();
    let pki = Pki::open(&config, now).unwrap();
    let mut tls = pki.tls();
    let before = tls.borrow_and_update().clone();
    let due = pki.renew(now).unwrap();
    assert!(!tls.has_changed().unwrap(), "nothing was due yet");
    assert!(due > now + Duration::from_secs(200 * 24 * 3600));
    let later = due + Duration::from_secs(1);
    let next = pki.renew(later).unwrap();
    assert!(next > later);
    assert!(tls.has_changed().unwrap());
    assert!(!Arc::ptr_eq(&before, &tls.borrow_and_update()));
}

#[test]
fn the_hash_is_that_of_the_cas_public_key() {
    use sha2::{Digest, Sha256};
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "10.0.0.5:6443");
    let authority = Pki::open(&config, OffsetDateTime::now_utc())
        .unwrap()
        .authority();
    let der = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let spki = certificate.tbs_certificate.subject_pki.raw;
    assert_eq!(
        authority.hash(),
        format!("sha256:{:x}", Sha256::digest(spki))
    );
}

#[test]
fn a_ca_without_its_key_is_an_error_and_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "10.0.0.5:6443");
    let now = OffsetDateTime::now_utc();
    Pki::open(&config, now).unwrap();
    let ca = config.data_dir.join("pki/ca.crt");
    let before = std::fs::read(&ca).unwrap();
    std::fs::remove_file(config.data_dir.join("pki/ca.key")).unwrap();
    let error = Pki::open(&config, now).unwrap_err();
    assert!(error.to_string().contains("restore the key"), "{error}");
    assert_eq!(std::fs::read(&ca).unwrap(), before);
}

#[test]
fn the_host_of_a_url_is_found() {
    assert_eq!(host_of("https://a.example:6443/x"), Some("a.example"));
    assert_eq!(host_of("https://[fd00::1]:6443"), Some("fd00::1"));
    assert_eq!(host_of("https://10.0.0.1"), Some("10.0.0.1"));
    assert_eq!(host_of("nonsense"), None);
}
