// SPDX-License-Identifier: Apache-2.0
//! Who is calling, and whether they may.
//!
//! `system:masters` may do everything. A node's certificate opens the node feed and nothing here. Other
//! proven users may look at discovery and ask what they may do.

use std::collections::BTreeMap;

use http::header::AUTHORIZATION;
use http::request::Parts;

use super::path::{ResourcePath, Review, Target};
use crate::core::Core;
use crate::identity::{ANONYMOUS, AUTHENTICATED, PeerIdentity, UNAUTHENTICATED};
use crate::serve::Guest;
use crate::{ApiError, Reason};

mod impersonation;

/// A proven caller, or the user that it acts for.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) identity: PeerIdentity,
    /// Uid and further attributes; only impersonation names them.
    pub(crate) uid: String,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
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
    /// The groups with the one that every proven user is in.
    pub(crate) fn groups(&self) -> Vec<String> {
        let mut groups = self.identity.groups.clone();
        let named = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
        if !groups.iter().any(named) {
            groups.push(AUTHENTICATED.to_owned());
        }
        groups
    }

    /// Whether an action is allowed; the answer of access reviews.
    pub(crate) fn may_everything(&self) -> Verdict {
        if self.identity.is_master() {
            Verdict::Allowed
        } else {
            Verdict::Denied
        }
    }
}

/// The answer to "may they".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
}

fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

/// The proven caller, or the one that it acts for (`kubectl --as`).
pub(crate) async fn authenticate(core: &Core, parts: &Parts) -> Result<Caller, ApiError> {
    let caller = prove(core, parts).await?;
    let Some(wanted) = impersonation::wanted(&parts.headers)? else {
        return Ok(caller);
    };
    if caller.may_everything() == Verdict::Denied {
        return Err(ApiError::forbidden(
            "",
            "users",
            &wanted.identity.user,
            &format!(
                "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
                caller.identity.user
            ),
        ));
    }
    Ok(wanted)
}

/// Reads the certificate's user or the token's. Without either, and with a token nobody knows: 401.
async fn prove(core: &Core, parts: &Parts) -> Result<Caller, ApiError> {
    if let Some(identity) = parts.extensions.get::<PeerIdentity>() {
        return Ok(identity.clone().into());
    }
    let header = parts
        .headers
        .get(AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    let token = header.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    let (Some(token), Some(authenticator)) = (token, &core.config.authenticator) else {
        return Err(unauthorized());
    };
    match authenticator.authenticate(token).await {
        Some(identity) if identity.user != ANONYMOUS => {
            if let Some(guest) = parts.extensions.get::<Guest>() {
                guest.prove();
            }
            Ok(identity.into())
        }
        _ => Err(unauthorized()),
    }
}

/// Refuses what the caller may not do.
pub(crate) fn authorize(
    caller: &Caller,
    target: &Target,
    verb: &'static str,
    path: &str,
) -> Result<(), ApiError> {
    if caller.may_everything() == Verdict::Allowed {
        return Ok(());
    }
    let is_node = caller.identity.node_name().is_some();
    let open = match target {
        Target::Root
        | Target::Api
        | Target::Apis
        | Target::Group(_)
        | Target::GroupVersion(..)
        | Target::OpenApiV2
        | Target::OpenApiV3
        | Target::OpenApiV3Of(..) => verb == "get",
        Target::Review(review) => *review != Review::SubjectAccess,
        _ => false,
    };
    let is_anonymous = caller.identity.user == ANONYMOUS;
    if open && !is_node && !is_anonymous {
        return Ok(());
    }
    Err(forbidden(caller, target, verb, path))
}

fn forbidden(caller: &Caller, target: &Target, verb: &str, url: &str) -> ApiError {
    let user = &caller.identity.user;
    match target {
        Target::Resource(path) => {
            let ResourcePath {
                kind,
                namespace,
                name,
                subresource,
                ..
            } = path;
            let resource = match subresource {
                Some(sub) => format!("{}/{sub}", kind.plural),
                None => kind.plural.to_string(),
            };
            let verb = if verb == "log" { "get" } else { verb };
            let place = match namespace {
                Some(namespace) => format!("in the namespace {namespace:?}"),
                None => "at the cluster scope".to_owned(),
            };
            ApiError::forbidden(
                &kind.group,
                &kind.plural,
                name.as_deref().unwrap_or_default(),
                &format!(
                    "User {user:?} cannot {verb} resource {resource:?} in API group {:?} {place}",
                    kind.group
                ),
            )
        }
        Target::Review(review) => ApiError::forbidden(
            review.group(),
            review.plural(),
            "",
            &format!(
                "User {user:?} cannot {verb} resource {:?} in API group {:?} at the cluster scope",
                review.plural(),
                review.group()
            ),
        ),
        _ => ApiError::forbidden(
            "",
            "",
            "",
            &format!("User {user:?} cannot {verb} path {url:?}"),
        ),
    }
}
