// SPDX-License-Identifier: Apache-2.0
//! Which nodes are connected. A node has one session: a new connection ends the one before it.

use std::collections::HashMap;

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_control_plan::feed::admission::Certificate;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

struct Session {
    ended: CancellationToken,
    refused: CancellationToken,
    /// What the session was opened with.
    certificate: Certificate,
    acknowledged: u64,
    /// The Node as the agent last described it.
    reported: Option<Node>,
}

/// What a session is told from outside.
#[derive(Debug)]
pub(super) struct Signals {
    /// It is to end.
    pub(super) ended: CancellationToken,
    /// It is to end, and its node's certificate counts no more. Cancelled before `ended`.
    pub(super) refused: CancellationToken,
}

/// The sessions of this process, by node name.
#[derive(Default)]
pub(super) struct Sessions {
    sessions: Mutex<HashMap<String, Session>>,
}

impl Sessions {
    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock()
    }

    /// Starts a session of `node`, opened with `certificate`, and ends the one it had.
    pub(super) fn start(&self, node: &str, certificate: Certificate) -> Signals {
        let ended = CancellationToken::new();
        let refused = CancellationToken::new();
        let signals = Signals {
            ended: ended.clone(),
            refused: refused.clone(),
        };
        let session = Session {
            ended,
            refused,
            certificate,
            acknowledged: 0,
            reported: None,
        };
        let mut sessions = self.sessions();
        if let Some(before) = sessions.insert(node.to_owned(), session) {
            before.ended.cancel();
        }
        signals
    }

    /// Nodes with a session.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.sessions().keys().cloned().collect()
    }

    /// Ends the node's session where `is_refused` says so of its certificate. True where it ended one.
    pub(super) fn refuse(&self, node: &str, is_refused: impl FnOnce(&Certificate) -> bool) -> bool {
        let mut sessions = self.sessions();
        let refused = sessions
            .get(node)
            .is_some_and(|s| is_refused(&s.certificate));
        if refused && let Some(session) = sessions.remove(node) {
            session.refused.cancel();
            session.ended.cancel();
        }
        refused
    }

    /// The session that `ended` belongs to is over.
    pub(super) fn end(&self, node: &str, ended: &CancellationToken) {
        let mut sessions = self.sessions();
        // A session that was cancelled has been replaced, under this lock; its successor is not its to remove.
        if !ended.is_cancelled() {
            sessions.remove(node);
            ended.cancel();
        }
    }

    /// Ends every session; their agents connect again, here or to another control plane.
    pub(super) fn end_all(&self) {
        for (_, session) in self.sessions().drain() {
            session.ended.cancel();
        }
    }

    /// Ends the node's session, so that the agent connects again and says everything anew.
    pub(super) fn interrupt(&self, node: &str) {
        if let Some(session) = self.sessions().remove(node) {
            session.ended.cancel();
        }
    }

    /// The node has everything up to `version` on disk.
    pub(super) fn acked(&self, node: &str, version: u64) {
        if let Some(session) = self.sessions().get_mut(node) {
            session.acknowledged = session.acknowledged.max(version);
        }
    }

    /// Keeps what the agent last said about its Node.
    pub(super) fn reported(&self, node: &str, reported: Node) {
        if let Some(session) = self.sessions().get_mut(node) {
            session.reported = Some(reported);
        }
    }

    /// What the agent last said about its Node.
    pub(super) fn last_report(&self, node: &str) -> Option<Node> {
        self.sessions().get(node)?.reported.clone()
    }

    pub(super) fn acknowledged(&self) -> Vec<(String, u64)> {
        let sessions = self.sessions();
        let versions = sessions
            .iter()
            .map(|(node, session)| (node.clone(), session.acknowledged));
        versions.collect()
    }
}

#[cfg(test)]
mod tests;
