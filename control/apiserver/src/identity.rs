// SPDX-License-Identifier: Apache-2.0
//! Who is calling: the user and groups that a client certificate or a token proves.
//!
//! `serve` puts a [`PeerIdentity`] into each request's extensions; the node feed reads it as well.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use x509_parser::prelude::{FromDer, X509Certificate};

/// The group whose members may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of node certificates; they open the feed and nothing else.
pub(crate) const NODES: &str = "system:nodes";
/// The user of a request that proves nothing.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// The group of every proven user.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of users that prove nothing.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The user of calls inside the process, as kube-apiserver's own loopback client is called.
const IN_PROCESS: &str = "system:apiserver";

/// A proven user, as Kubernetes reads it from a client certificate: common name and organizations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Common name of the certificate, or the token's user.
    pub user: String,
    /// Organizations of the certificate, or the token's groups.
    pub groups: Vec<String>,
}

impl PeerIdentity {
    /// Reads subject CN and O of a certificate that was verified by the caller. `None` for one without a CN.
    #[must_use]
    pub fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok())
            .map(str::to_owned)
            .collect();
        (!user.is_empty()).then_some(Self { user, groups })
    }

    /// True for members of `system:masters`.
    #[must_use]
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS)
    }

    /// The node's name, for a node's certificate (`system:node:NAME` in `system:nodes`).
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        let name = self.user.strip_prefix("system:node:")?;
        self.groups.iter().any(|g| g == NODES).then_some(name)
    }
}

/// Who asks for something: a proven user, or the user that it acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User and groups.
    pub identity: PeerIdentity,
    /// Uid; only impersonation names one.
    pub uid: String,
    /// Further attributes; only impersonation names them.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<PeerIdentity> for Caller {
    fn from(identity: PeerIdentity) -> Self {
        Self {
            identity,
            uid: String::new(),
            extra: BTreeMap::new(),
        }
    }
}

impl Caller {
    /// The caller of everything that the in-process client does: `system:apiserver`, who may do everything.
    pub(crate) fn in_process() -> Arc<Self> {
        static CALLER: LazyLock<Arc<Caller>> = LazyLock::new(|| {
            let identity = PeerIdentity {
                user: IN_PROCESS.to_owned(),
                groups: vec![MASTERS.to_owned()],
            };
            Arc::new(identity.into())
        });
        Arc::clone(&CALLER)
    }

    /// The groups with the one that every proven user is in.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        let mut groups = self.identity.groups.clone();
        let named = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
        if !groups.iter().any(named) {
            groups.push(AUTHENTICATED.to_owned());
        }
        groups
    }
}
/// Whether a caller may do everything.
pub(crate) fn may_everything(caller: &Caller) -> Verdict {
    if caller.identity.is_master() {
        Verdict::Allowed
    } else {
        Verdict::Denied
    }
}

/// The answer to "may they".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
}
