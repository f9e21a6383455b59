// SPDX-License-Identifier: Apache-2.0
//! Asks the Nodes whether a node's certificate still counts: for every call, and while a session runs.
//!
//! What counts is decided in `knarr_control_plan::feed::admission`.

use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_apiserver::Object;
use knarr_control_plan::feed::admission::{self, Certificate, Refusal};
use knarr_controllers::{Reflector, WatchEvent};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Feed;

/// Told to the agent, which says it in its log and at its health port.
fn status(refusal: &Refusal) -> Status {
    Status::permission_denied(refusal.to_string())
}

impl Feed {
    /// The Node, if a certificate of `node` opens the feed now.
    pub(super) async fn admit(
        &self,
        node: &str,
        certificate: &Certificate,
    ) -> Result<Node, Status> {
        let present = match self.client.get::<Node>(None, node).await {
            Ok(present) => Some(present),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                return Err(Status::unavailable(format!(
                    "cannot read the Node: {error}"
                )));
            }
        };
        admission::judge(node, present.as_ref(), certificate)
            .map_err(|refusal| status(&refusal))?;
        present.ok_or_else(|| status(&Refusal::Deleted(node.to_owned())))
    }

    /// Returns when a certificate of `node` is refused.
    pub(super) async fn refused(&self, node: &str, certificate: &Certificate) -> Status {
        let mut judged = self.judged.subscribe();
        loop {
            judged.mark_unchanged();
            match self.admit(node, certificate).await {
                Err(status) if status.code() == tonic::Code::PermissionDenied => return status,
                _ => {}
            }
            // The sender lives in `self`.
            let _ = judged.changed().await;
        }
    }

    /// Ends sessions whose certificate counts no more, until `shutdown`.
    pub async fn follow_nodes(self: Arc<Self>, shutdown: CancellationToken) {
        let cache = match self.client.cache_of::<Node>() {
            Ok(cache) => cache,
            Err(error) => {
                tracing::error!(%error, "Nodes cannot be followed, so the feed ends");
                shutdown.cancel();
                return;
            }
        };
        let mut nodes = Reflector::new(cache.clone());
        // Safe to drop: a session is judged between two awaits.
        let follow = async {
            loop {
                let changed = match nodes.next().await {
                    WatchEvent::Replaced(_) => self.sessions.nodes(),
                    WatchEvent::Applied(node) | WatchEvent::Deleted(node) => {
                        vec![node.meta.name.to_string()]
                    }
                };
                for node in changed {
                    self.judge(&node, cache.get("", &node).as_deref());
                }
            }
        };
        tokio::select! {
            () = follow => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn judge(&self, node: &str, present: Option<&Object>) {
        let present = match present.map(Object::parse::<Node>).transpose() {
            Ok(present) => present,
            Err(error) => {
                tracing::error!(node, %error, "a Node cannot be read; its certificate is not judged");
                return;
            }
        };
        let mut why = None;
        let is_refused = |certificate: &Certificate| {
            why = admission::judge(node, present.as_ref(), certificate).err();
            why.is_some()
        };
        let ended = self.sessions.refuse(node, is_refused);
        if ended && let Some(why) = why {
            tracing::warn!(node, %why, "the session was ended");
            // What it said counts no more: a machine may join under the name at once.
            self.heartbeats.cut_off(node);
        }
        self.judged.send_modify(|count| *count += 1);
    }
}
