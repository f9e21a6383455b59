// SPDX-License-Identifier: Apache-2.0
//! Lets machines become nodes: a join token or an old certificate for a new certificate.
//!
//! Called by the node feed's server; what a token must be is `tokens`, what is signed is `pki`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use knarr_api::feed::{JoinRequest, NodeCertificate};
use knarr_api::k8s_openapi::api::core::v1::{Node, Secret};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};
use knarr_api::names;
use knarr_apiserver::{ApiError, Client};
use knarr_control_plan::feed::admission;
use knarr_control_plan::join_tokens::{self, Token};
use knarr_control_plan::node_lifecycle::{self, Readiness};
use time::OffsetDateTime;

use crate::clock;
use crate::feed::{Cause, Enroll, EnrollError, Heartbeats};
use crate::pki::{Authority, SigningRequest};

/// A certificate begins this much later at most; more means that the clock was set back.
const CLOCK_BACK_MAX: SignedDuration = SignedDuration::from_secs(3);
/// How often a Node is written again after somebody else changed it first.
const CONFLICTS_MAX: usize = 8;
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

    /// Signs a certificate that `node` accepts.
    fn sign(&self, node: &Node, request: &SigningRequest) -> Result<NodeCertificate, EnrollError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (name, uid) = (text(&node.metadata.name), text(&node.metadata.uid));
        let begins = admission::since(node).unwrap_or(0);
        let begins = OffsetDateTime::from_unix_timestamp(begins).map_err(unavailable)?;
        let certificate_pem = self
            .authority
            .sign_node(&name, &uid, request, self.lifetime, clock::utc(), begins)
            .map_err(unavailable)?;
        Ok(NodeCertificate {
            certificate_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
        })
    }

    async fn node(&self, name: &str) -> Result<Option<Node>, EnrollError> {
        match self.client.get::<Node>(None, name).await {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The Node that a machine joins as: a new one, or the one that there is, for which no certificate of before counts any
    /// more.
    async fn admit(&self, name: &str, node: Option<Node>) -> Result<Node, EnrollError> {
        let Some(mut node) = node else {
            // A certificate of before certificates had uids would count for every Node of the name.
            let since = admission::annotation(clock::now());
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                annotations: Some(BTreeMap::from([(admission::SINCE.to_owned(), since)])),
                ..ObjectMeta::default()
            };
            let node = Node {
                metadata,
                ..Node::default()
            };
            // Where somebody else was faster, the agent asks again.
            return self.client.create(&node).await.map_err(unavailable);
        };
        for _ in 0..CONFLICTS_MAX {
            let since = admission::next_since(&node, clock::now());
            begins_now(since).await?;
            let annotations = node.metadata.annotations.get_or_insert_default();
            annotations.insert(admission::SINCE.to_owned(), admission::annotation(since));
            match self.client.update(&node).await {
                Err(error) if error.is_conflict() => {}
                result => return result.map_err(unavailable),
            }
            node = match self.node(name).await? {
                Some(node) => node,
                None => break,
            };
        }
        Err(unavailable(format!("the Node {name} kept changing")))
    }

    /// A token must not take the place of a node that lives; a machine that was set up anew may come back.
    fn refuse_living_namesake(&self, name: &str, node: &Node) -> Result<(), EnrollError> {
        if self.heartbeats.was_cut_off(name) {
            return Ok(());
        }
        let now = clock::moment().monotonic;
        let silent = self.heartbeats.heard_ago(name, now);
        let up = now.saturating_duration_since(self.started);
        match judge(node, silent, up, self.patience) {
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

/// Returns when a certificate that begins at `since` can be used: at once, or a second later where certificates were taken
/// back in this very second. TLS here takes the next second as now.
async fn begins_now(since: Timestamp) -> Result<(), EnrollError> {
    let left = since.duration_since(clock::now());
    if left > CLOCK_BACK_MAX {
        return Err(unavailable(format!(
            "the control plane's clock is {} s behind what it was when certificates of this node were taken back last",
            left.as_secs()
        )));
    }
    let wait = left - SignedDuration::from_secs(1);
    tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
    Ok(())
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
            .map_err(|error: join_tokens::NoToken| EnrollError::Token(error.into()))?;
        let secret = self
            .client
            .get::<Secret>(
                Some(join_tokens::NAMESPACE),
                &join_tokens::secret_name(token.id()),
            )
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
        let request = read_request(&node_name, &csr_pem)?;
        let node = self.node(&node_name).await?;
        if let Some(node) = &node {
            self.refuse_living_namesake(&node_name, node)?;
        }
        let node = self.admit(&node_name, node).await?;
        self.sign(&node, &request)
    }

    fn renew(&self, judged: &Node, csr_pem: &str) -> Result<NodeCertificate, EnrollError> {
        let name = judged.metadata.name.as_deref().unwrap_or_default();
        self.sign(judged, &read_request(name, csr_pem)?)
    }
}

fn read_request(node: &str, csr_pem: &str) -> Result<SigningRequest, EnrollError> {
    Authority::read_request(csr_pem).map_err(|error| EnrollError::Request {
        node: node.to_owned(),
        source: error.into(),
    })
}

#[cfg(test)]
mod tests;
