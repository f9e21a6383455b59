// SPDX-License-Identifier: Apache-2.0
//! The cluster's certificates: the CA made at first start, what it signs, and their renewal in place.
//!
//! Kept below `DATA/pki`: `ca`, `server` and `admin`, each a `.crt` and a `.key`. Signing keys never leave
//! this module. Nodes' certificates are signed on request and not kept.

mod authority;
mod files;
mod kubeconfig;
mod pair;
mod tls;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use knarr_apiserver::serve::Tls;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use authority::{Authority, SigningRequest};
use authority::{Profile, Usage};
pub use files::{private_dir, write_private, write_public};
pub use pair::Pair;
pub use tls::{ADMIN_GROUP, ADMIN_USER};

use crate::clock;
use crate::config::Config;

/// Server and admin certificates live a year, as kubeadm's.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// In the data directory: the URL at which commands on this machine find the API server.
pub const LOCAL_URL_FILE: &str = "local.url";
/// When writing a renewed certificate fails (a full disk), it is tried again after this.
const RETRY: Duration = Duration::from_secs(300);

/// What goes wrong with certificates and their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot {what} {path}", path = path.display())]
    File {
        /// `read`, `write`, `create`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key is broken, or does not belong to the other files.
    #[error("{path}: {reason}", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Somebody asked for a certificate with a request that cannot be used.
    #[error("the certificate signing request cannot be used: {0}")]
    Request(String),
    /// Making or signing a certificate failed.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// TLS does not accept a certificate.
    #[error("TLS cannot use the certificates")]
    Tls(#[source] Box<rustls::Error>),
}

/// The CA, and the certificates that this process serves with.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    data_dir: PathBuf,
    authority: Arc<Authority>,
    server: Profile,
    url: String,
    tls: watch::Sender<Arc<Tls>>,
}

impl Pki {
    /// Opens the certificates in the data directory, making those that are missing, have run out or do
    /// not name what `config` says. Writes the admin kubeconfig.
    pub fn open(config: &Config, now: OffsetDateTime) -> Result<Self, PkiError> {
        private_dir(&config.data_dir)?;
        let dir = config.data_dir.join("pki");
        private_dir(&dir)?;
        let authority = Arc::new(Authority::open(&dir, now)?);
        let server = Profile {
            common_name: "kube-apiserver".to_owned(),
            organization: None,
            unit: None,
            usage: Usage::Server,
            names: server_names(config),
            lifetime: LIFETIME,
        };
        let pair = current(&dir, "server", &authority, &server, now)?.pair;
        let (tls, _) = watch::channel(tls::server_config(&authority, &pair)?);
        let pki = Self {
            dir,
            data_dir: config.data_dir.clone(),
            authority,
            server,
            url: config.advertise_url.clone(),
            tls,
        };
        pki.renew_admin(now)?;
        Ok(pki)
    }

    /// Signs nodes' certificates.
    #[must_use]
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// What to serve TLS with, now and after each renewal.
    #[must_use]
    pub fn tls(&self) -> watch::Receiver<Arc<Tls>> {
        self.tls.subscribe()
    }

    /// Renews the server's and the admin's certificate before they end, until `shutdown`. Sleeps until
    /// the next one is due.
    pub async fn keep_renewed(&self, shutdown: CancellationToken) {
        loop {
            let now = clock::utc();
            let wait = match self.renew(now) {
                Ok(due) => Duration::try_from(due - now).unwrap_or(RETRY).max(RETRY),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot renew certificates"
                    );
                    RETRY
                }
            };
            // Nothing is in flight while sleeping.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Renews what is due at `now` and returns when something is due again.
    fn renew(&self, now: OffsetDateTime) -> Result<OffsetDateTime, PkiError> {
        let server = current(&self.dir, "server", &self.authority, &self.server, now)?;
        if server.made == Made::New {
            self.tls
                .send_replace(tls::server_config(&self.authority, &server.pair)?);
            tracing::info!("the server's certificate was renewed");
        }
        let admin = self.renew_admin(now)?;
        Ok(server.due.min(admin))
    }

    /// Says where commands on this machine find the API server.
    pub fn write_local_url(&self, url: &str) -> Result<(), PkiError> {
        write_private(&self.data_dir.join(LOCAL_URL_FILE), url.as_bytes())
    }

    /// Returns when the admin's certificate is due again.
    fn renew_admin(&self, now: OffsetDateTime) -> Result<OffsetDateTime, PkiError> {
        let admin = current(&self.dir, "admin", &self.authority, &admin_profile(), now)?;
        let text = kubeconfig::render(&self.url, self.authority.certificate_pem(), &admin.pair);
        write_private(&self.data_dir.join("admin.kubeconfig"), text.as_bytes())?;
        Ok(admin.due)
    }
}

fn admin_profile() -> Profile {
    Profile {
        common_name: ADMIN_USER.to_owned(),
        organization: Some(ADMIN_GROUP.to_owned()),
        unit: None,
        usage: Usage::Client,
        names: Vec::new(),
        lifetime: LIFETIME,
    }
}

/// The names under which clients reach the API server, as kubeadm puts them into its certificate.
fn server_names(config: &Config) -> Vec<String> {
    let domain = &config.cluster_domain;
    let mut names: Vec<String> = [
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
        "localhost".to_owned(),
    ]
    .into();
    let mut addresses: Vec<IpAddr> = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        config.kubernetes_service_address(),
        config.advertise_address,
    ];
    addresses.extend(config.listen.iter().map(std::net::SocketAddr::ip));
    addresses.retain(|address| !address.is_unspecified());
    names.extend(addresses.iter().map(ToString::to_string));
    names.extend(host_of(&config.advertise_url).map(str::to_owned));
    names.extend(config.tls_san.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// The host of `https://HOST[:PORT][/...]`.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    Kept,
    New,
}

struct Current {
    pair: Pair,
    made: Made,
    /// When it should be renewed.
    due: OffsetDateTime,
}

/// The certificate `name` in `dir` if it still serves, else a new one.
fn current(
    dir: &Path,
    name: &str,
    authority: &Authority,
    profile: &Profile,
    now: OffsetDateTime,
) -> Result<Current, PkiError> {
    let paths = (
        dir.join(format!("{name}.crt")),
        dir.join(format!("{name}.key")),
    );
    if let Some(pair) = files::read_pair(&paths.0, &paths.1)?
        && let Some(due) = authority.due(&pair, profile)
        && now < due
    {
        return Ok(Current {
            pair,
            made: Made::Kept,
            due,
        });
    }
    let pair = authority.issue(profile, now)?;
    // The key goes first: a crash in between leaves a pair that does not match, which is made anew.
    write_private(&paths.1, pair.key_pem.as_bytes())?;
    write_public(&paths.0, pair.certificate_pem.as_bytes())?;
    let due = authority.due(&pair, profile).unwrap_or(now);
    Ok(Current {
        pair,
        made: Made::New,
        due,
    })
}

#[cfg(test)]
mod tests;
