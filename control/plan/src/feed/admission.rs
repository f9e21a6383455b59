// SPDX-License-Identifier: Apache-2.0
//! Which certificates of a node open the feed: those that were made for its very Node, and not before the moment that the
//! Node may name.
//!
//! A certificate names the uid of the Node that joining made or found. Deleting the Node takes back every certificate of
//! it, known or not, also where another Node gets its name; moving the moment on does so while the Node stays. There is
//! no list that could grow or be lost. Asked by the feed for each call and whenever a Node changes, and by enrollment.

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::k8s_openapi::jiff::Timestamp;

/// Annotation of a Node: certificates that begin earlier are refused.
pub const SINCE: &str = "knarr.io/certificates-since";
/// How the annotation's moment is written; certificates know seconds and no less.
const FORMAT: &str = "%Y-%m-%dT%H:%M:%SZ";

/// What a certificate of a node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The uid of its Node; `None` in certificates that an earlier version made.
    pub uid: Option<String>,
    /// When it begins, as a Unix second.
    pub begins: i64,
}

/// Why a certificate of a node is refused. The text is for the person at the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no Node of the name.
    #[error("there is no Node {0}: it was deleted, which takes its certificates back")]
    Deleted(String),
    /// There is another Node of the name.
    #[error(
        "the Node {0} that this machine joined as was deleted, which takes its certificates back; another has its name"
    )]
    Replaced(String),
    /// The Node wants newer certificates.
    #[error("certificates of node {0} from before {1} were taken back")]
    Denied(String, String),
    /// The annotation holds no time.
    #[error("the annotation {SINCE} of Node {0} holds no time: {1:?}")]
    Broken(String, String),
}

/// Judges a certificate of the node `name`.
pub fn judge(name: &str, node: Option<&Node>, certificate: &Certificate) -> Result<(), Refusal> {
    let Some(node) = node else {
        return Err(Refusal::Deleted(name.to_owned()));
    };
    let is_its_own = match &certificate.uid {
        Some(uid) => node.metadata.uid.as_ref() == Some(uid),
        // An older certificate belongs to a Node that its node has described; one made by hand has not been.
        None => {
            let info = node.status.as_ref().and_then(|s| s.node_info.as_ref());
            info.is_some_and(|info| !info.kubelet_version.is_empty())
        }
    };
    if !is_its_own {
        return Err(Refusal::Replaced(name.to_owned()));
    }
    let Some(text) = text(node) else {
        return Ok(());
    };
    match since(node) {
        None => Err(Refusal::Broken(name.to_owned(), text.to_owned())),
        Some(since) if certificate.begins < since => {
            Err(Refusal::Denied(name.to_owned(), text.to_owned()))
        }
        Some(_) => Ok(()),
    }
}

fn text(node: &Node) -> Option<&str> {
    let annotations = node.metadata.annotations.as_ref()?;
    annotations.get(SINCE).map(String::as_str)
}

/// The first second that a certificate of the node may begin with, where the Node says one.
pub fn since(node: &Node) -> Option<i64> {
    let since: Timestamp = text(node)?.parse().ok()?;
    Some(since.as_second())
}

/// The moment from which on no certificate that the node has now is accepted.
pub fn next_since(node: &Node, now: Timestamp) -> Timestamp {
    // One second later: a certificate of this second may be there already.
    let before = since(node).unwrap_or(i64::MIN);
    let next = now.as_second().max(before).saturating_add(1);
    Timestamp::from_second(next).unwrap_or(Timestamp::MAX)
}

/// The value of [`SINCE`].
#[must_use]
pub fn annotation(since: Timestamp) -> String {
    since.strftime(FORMAT).to_string()
}

#[cfg(test)]
mod tests;
