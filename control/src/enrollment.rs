// SPDX-License-Identifier: Apache-2.0
//! Lets machines become nodes: a join token or an old certificate for a new certificate.
//!
//! Called by the node feed's server; what a token must be is `tokens`, what is signed is `pki`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use knarr_api::feed::{JoinRequest, NodeCertificate};
use knarr_api::k8s_openapi::api::core::v1::{Node, Secret};
use knarr_api::names;
use knarr_apiserver::{ApiError, Client};

use crate::clock;
use crate::feed::{Cause, Enroll, EnrollError, Heartbeats};
use crate::pki::{Authority, PkiError};
use crate::tokens::{self, Token};

/// The gate to the cluster for nodes.
pub struct Enrollment {
    client: Client,
    authority: Arc<Authority>,
    heartbeats: Arc<Heartbeats>,
    lifetime: Duration,
    /// A node that was heard this recently is alive.
    alive: Duration,
}

impl Enrollment {
    /// Certificates by `authority` last `lifetime`; a node counts as alive for `alive` after a heartbeat.
    #[must_use]
    pub fn new(
        client: Client,
        authority: Arc<Authority>,
        heartbeats: Arc<Heartbeats>,
        lifetime: Duration,
        alive: Duration,
    ) -> Self {
        Self {
            client,
            authority,
            heartbeats,
            lifetime,
            alive,
        }
    }

    fn sign(&self, node: &str, csr_pem: &str) -> Result<NodeCertificate, EnrollError> {
        let now = clock::utc();
        let certificate_pem = self
            .authority
            .sign_node(node, csr_pem, self.lifetime, now)
            .map_err(|error| match error {
                PkiError::Request(_) => EnrollError::Request {
                    node: node.to_owned(),
                    source: error.into(),
                },
                other => unavailable(other),
            })?;
        Ok(NodeCertificate {
            certificate_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
        })
    }

    /// A token must not take the place of a node that lives; a machine that was set up anew may come back.
    async fn refuse_living_namesake(&self, name: &str) -> Result<(), EnrollError> {
        let now = clock::moment().monotonic;
        let silent = self.heartbeats.heard_ago(name, now);
        if silent.is_none_or(|silent| silent > self.alive) {
            return Ok(());
        }
        match self.client.get::<Node>(None, name).await {
            Ok(_) => Err(EnrollError::Name {
                name: name.to_owned(),
                reason: format!(
                    "a node of this name is connected; choose another --node-name, or stop it and run `kubectl delete node {name}` first"
                ),
            }),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn unavailable(error: impl Into<Cause>) -> EnrollError {
    EnrollError::Unavailable(error.into())
}

fn found(secret: Result<Secret, ApiError>) -> Result<Option<Secret>, EnrollError> {
    match secret {
        Ok(secret) => Ok(Some(secret)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

#[async_trait]
impl Enroll for Enrollment {
    async fn join(&self, request: JoinRequest) -> Result<NodeCertificate, EnrollError> {
        let JoinRequest {
            token,
            node_name,
            csr_pem,
        } = request;
        let token: Token = token
            .trim()
            .parse()
            .map_err(|error: tokens::NoToken| EnrollError::Token(error.into()))?;
        let secret = self
            .client
            .get::<Secret>(Some(tokens::NAMESPACE), &tokens::secret_name(token.id()))
            .await;
        token
            .check(found(secret)?.as_ref(), clock::now())
            .map_err(|refusal| EnrollError::Token(refusal.into()))?;
        let wrong = names::validate_dns_subdomain(&node_name);
        if !wrong.is_empty() {
            return Err(EnrollError::Name {
                name: node_name,
                reason: wrong.join(", "),
            });
        }
        self.refuse_living_namesake(&node_name).await?;
        self.sign(&node_name, &csr_pem)
    }

    async fn renew(&self, node: &str, csr_pem: &str) -> Result<NodeCertificate, EnrollError> {
        // A node that was deleted, and with it its right to be here, must join again.
        match self.client.get::<Node>(None, node).await {
            Ok(_) => self.sign(node, csr_pem),
            Err(error) if error.is_not_found() => Err(EnrollError::Deleted(node.to_owned())),
            Err(error) => Err(unavailable(error)),
        }
    }
}
