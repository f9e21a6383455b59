// SPDX-License-Identifier: Apache-2.0
//! How a machine becomes a node: it proves the control plane by the hash of its CA, shows the join token,
//! and receives a certificate of its own, which it renews before it ends.
//!
//! Not here: what travels over the connection afterwards (`feed`). Called by `run` and by the feed loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use knarr_agent_plan::secret::Secret;
use knarr_api::feed::enrollment_client::EnrollmentClient;
use knarr_api::feed::{JoinRequest, NodeCertificate};

use crate::config::{ConfigError, RunOptions, Server};

pub mod connect;
pub mod identity;
pub mod pin;

use identity::{Identity, IdentityError, KeyRequest};
use pin::CaHash;

/// How long a join waits for an answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(15);
/// The first and the longest pause between attempts to reach a control plane that does not answer.
const JOIN_RETRY_MS: (u64, u64) = (250, 5_000);

/// Why a machine could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// An option is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Key or certificate files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS says no.
    #[error("{0}")]
    Tls(String),
    /// The control plane says no.
    #[error(
        "the control plane at {server} refused the join: {message}; make a new token there with \
         `knarr-control token create` and start the agent with the line it prints"
    )]
    Refused {
        /// Where.
        server: String,
        /// Its words.
        message: String,
    },
    /// It could not be reached; worth another attempt.
    #[error("cannot reach the control plane at {server}")]
    Unreachable {
        /// Where.
        server: String,
        /// What happened.
        #[source]
        source: connect::ConnectError,
    },
    /// It could be reached and answered nonsense or nothing; worth another attempt.
    #[error("the control plane at {server} does not answer: {message}")]
    NoAnswer {
        /// Where.
        server: String,
        /// What happened.
        message: String,
    },
}

impl JoinError {
    /// Whether the same call may succeed later without anybody changing a setting.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            JoinError::Unreachable { .. } | JoinError::NoAnswer { .. }
        )
    }
}

/// Who and where.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// The control plane.
    pub server: Server,
    /// This node.
    pub node_name: String,
    /// Join token.
    pub token: Option<Secret>,
    /// Hash of the CA.
    pub ca_hash: Option<CaHash>,
    /// Directory of key and certificate.
    pub pki_dir: PathBuf,
}

impl JoinConfig {
    /// From the options.
    pub fn new(options: &RunOptions, node_name: &str) -> Result<JoinConfig, ConfigError> {
        let ca_hash = match &options.ca_hash {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|e: pin::CaHashError| ConfigError::Value {
                        option: "ca-hash",
                        value: text.clone(),
                        what: e.to_string(),
                    })?,
            ),
        };
        Ok(JoinConfig {
            server: options.server()?,
            node_name: node_name.to_owned(),
            token: options.token.clone(),
            ca_hash,
            pki_dir: options.data_dir().join("pki"),
        })
    }
}

/// The node's identity: from disk where it has joined before, otherwise by joining. An expired certificate
/// is good enough to start by, because the node's pods do not wait for the control plane.
pub async fn identity(config: &JoinConfig) -> Result<Arc<Identity>, JoinError> {
    let pki_dir = config.pki_dir.clone();
    match knarr_base::blocking::run(move || Identity::load(&pki_dir)).await? {
        Some(identity) if identity.node_name() == config.node_name => Ok(Arc::new(identity)),
        Some(identity) => {
            tracing::warn!(
                stored = identity.node_name(),
                wanted = config.node_name,
                "the stored certificate is another node's; joining anew"
            );
            join_until_done(config, NOT_JOINED).await
        }
        None => join_until_done(config, NOT_JOINED).await,
    }
}

/// A new identity after the old one has expired.
pub async fn join_again(config: &JoinConfig) -> Result<Arc<Identity>, JoinError> {
    join_until_done(
        config,
        "this node's certificate has expired while it was away; run `knarr-control token create` on the \
         control plane and start the agent once with the line it prints",
    )
    .await
}

const NOT_JOINED: &str = "this node has not joined yet; run `knarr-control token create` on the control \
                          plane and start the agent with the line it prints";

/// Waits for a control plane that is not there yet; gives up where only a person can help.
async fn join_until_done(
    config: &JoinConfig,
    help: &'static str,
) -> Result<Arc<Identity>, JoinError> {
    let token = config.token.as_ref().ok_or(ConfigError::Missing {
        option: "token",
        help,
    })?;
    let hash = config.ca_hash.clone().ok_or(ConfigError::Missing {
        option: "ca-hash",
        help: "without it the control plane cannot be told from an impostor; `knarr-control token \
               create` prints it beside the token",
    })?;
    let mut pause_ms = JOIN_RETRY_MS.0;
    let mut told = false;
    loop {
        match join(config, token.reveal(), &hash).await {
            Ok(identity) => return Ok(identity),
            Err(error) if error.is_retryable() => {
                if !told {
                    let error = anyhow::Error::from(error);
                    tracing::warn!("waiting to join: {}", knarr_base::chain(&*error));
                    told = true;
                }
                tokio::time::sleep(knarr_base::jitter(Duration::from_millis(pause_ms))).await;
                pause_ms = (pause_ms * 2).min(JOIN_RETRY_MS.1);
            }
            Err(error) => return Err(error),
        }
    }
}

/// One attempt.
pub async fn join(
    config: &JoinConfig,
    token: &str,
    hash: &CaHash,
) -> Result<Arc<Identity>, JoinError> {
    let server = config.server.authority();
    let request = KeyRequest::new(&config.node_name)?;
    let tls = pin::client_config(hash.clone());
    let channel = connect::channel(&config.server, tls)
        .await
        .map_err(|source| match source.tls_advice(&server) {
            Some(advice) => JoinError::Tls(advice),
            None => JoinError::Unreachable {
                server: server.clone(),
                source,
            },
        })?;
    let message = JoinRequest {
        token: token.to_owned(),
        node_name: config.node_name.clone(),
        csr_pem: request.csr_pem()?,
    };
    let mut client = EnrollmentClient::new(channel);
    let answer = tokio::time::timeout(JOIN_TIMEOUT, client.join(message)).await;
    let certificate: NodeCertificate = match answer {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(refusal(server, &status)),
        Err(_) => {
            return Err(JoinError::NoAnswer {
                server,
                message: format!("no answer within {} s", JOIN_TIMEOUT.as_secs()),
            });
        }
    };
    let identity = Arc::new(request.complete(&certificate, &config.node_name)?);
    let (saved, pki_dir) = (identity.clone(), config.pki_dir.clone());
    knarr_base::blocking::run(move || saved.save(&pki_dir)).await?;
    tracing::info!(node = config.node_name, server, "joined the cluster");
    Ok(identity)
}

fn refusal(server: String, status: &tonic::Status) -> JoinError {
    use tonic::Code;
    let message = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::NotFound => JoinError::Refused { server, message },
        code => JoinError::NoAnswer {
            server,
            message: format!("{code}: {message}"),
        },
    }
}
