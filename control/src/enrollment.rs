// SPDX-License-Identifier: Apache-2.0
//! Lets machines become nodes: a join token or an old certificate for a new certificate.
//!
//! Called by the node feed's server; what a token must be is `tokens`, what is signed is `pki`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use knarr_api::feed::{JoinRequest, NodeCertificate};
use knarr_api::k8s_openapi::api::core::v1::{Node, Secret};
use knarr_api::names;
use knarr_apiserver::{ApiError, Client};
use knarr_control_plan::node_lifecycle::{self, Readiness};

use crate::clock;
use crate::feed::{Cause, Enroll, EnrollError, Heartbeats};
use crate::pki::{Authority, PkiError};
use crate::tokens::{self, Token};

/// Characters of an unusable node name that an error shows.
const NAME_SHOWN_MAX: usize = 64;

/// The gate to the cluster for nodes.
pub struct Enrollment {
    client: Client,
    authority: Arc<Authority>,
    heartbeats: Arc<Heartbeats>,
    lifetime: Duration,
    patience: Patience,
    /// From when on nodes could connect to this process.
    started: Instant,
}

/// For how long a silent node counts as alive.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After it was last heard.
    pub heard: Duration,
    /// After a start of the control plane, for a node that was alive before it.
    pub start: Duration,
}

/// What is known of the node that has the name which a machine wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namesake {
    /// It is not there any more; a machine that was set up anew may come back under its name.
    Gone,
    Connected,
    /// It was alive before this process started, and has this long to connect again.
    Awaited(Duration),
}

impl Enrollment {
    /// Certificates by `authority` last `lifetime`. Made when the control plane starts.
    #[must_use]
    pub fn new(
        client: Client,
        authority: Arc<Authority>,
        heartbeats: Arc<Heartbeats>,
        lifetime: Duration,
        patience: Patience,
    ) -> Self {
        Self {
            client,
            authority,
            heartbeats,
            lifetime,
            patience,
            started: clock::moment().monotonic,
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
        let node = match self.client.get::<Node>(None, name).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(unavailable(error)),
        };
        let now = clock::moment().monotonic;
        let silent = self.heartbeats.heard_ago(name, now);
        let up = now.saturating_duration_since(self.started);
        match judge(&node, silent, up, self.patience) {
            Namesake::Gone => Ok(()),
            Namesake::Connected => Err(EnrollError::Name {
                name: name.to_owned(),
                reason: format!(
                    "a node of this name is connected; choose another --node-name, or stop it and run `kubectl delete node {name}` first"
                ),
            }),
            Namesake::Awaited(wait) => Err(EnrollError::Awaited {
                name: name.to_owned(),
                wait,
            }),
        }
    }
}

/// Whether `node` lives: `silent` is how long ago this process, which is `up` for as long, has heard it.
///
/// Heartbeats are in memory alone. Before a node has had the time to connect again, what tells of it is the Node as the
/// process before this one left it: `Unknown` is what the control plane says of one that it has given up, and one
/// without a condition has never been a node.
fn judge(node: &Node, silent: Option<Duration>, up: Duration, patience: Patience) -> Namesake {
    if let Some(silent) = silent {
        return if silent <= patience.heard {
            Namesake::Connected
        } else {
            Namesake::Gone
        };
    }
    let readiness = node_lifecycle::readiness(node);
    let was_alive = matches!(readiness, Readiness::Ready | Readiness::NotReady);
    match patience.start.checked_sub(up) {
        Some(wait) if was_alive && !wait.is_zero() => Namesake::Awaited(wait),
        _ => Namesake::Gone,
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
            // A name that is none may be long, and the error ends up in the log.
            return Err(EnrollError::Name {
                name: node_name.chars().take(NAME_SHOWN_MAX).collect(),
                reason: wrong.join(", "),
            });
        }
        self.refuse_living_namesake(&node_name).await?;
        self.sign(&node_name, &csr_pem)
    }

    async fn renew(&self, node: &str, csr_pem: &str) -> Result<NodeCertificate, EnrollError> {
        // Whether there is a Node does not matter: `kubectl delete node` takes no certificate back. As a kubelet at its
        // next start, an agent whose Node was deleted makes it again with its next session; what keeps a machine out
        // is that its agent is stopped until its certificate has ended.
        self.sign(node, csr_pem)
    }
}

#[cfg(test)]
mod tests;
