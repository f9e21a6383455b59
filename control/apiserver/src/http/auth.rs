// SPDX-License-Identifier: Apache-2.0
//! Who is calling, and whether they may.
//!
//! `system:masters` may do everything. A node's certificate opens the node feed and nothing here. Other
//! proven users may look at discovery and ask what they may do.

use http::header::AUTHORIZATION;
use http::request::Parts;

use super::path::{ResourcePath, Review, Target};
use crate::core::Core;
use crate::identity::{ANONYMOUS, AUTHENTICATED, PeerIdentity};
use crate::{ApiError, Reason};

/// A proven caller.
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) PeerIdentity);

impl Caller {
    /// The groups with the one that every proven user is in.
    pub(crate) fn groups(&self) -> Vec<String> {
        let mut groups = self.0.groups.clone();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        groups
    }

    /// Whether an action is allowed; the answer of access reviews.
    pub(crate) fn may_everything(&self) -> Verdict {
        if self.0.is_master() {
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

/// The user on whose behalf `system:masters` may act, and that user's groups.
const IMPERSONATE_USER: &str = "impersonate-user";
const IMPERSONATE_GROUP: &str = "impersonate-group";

/// The proven caller, or the one that it acts for (`kubectl --as`).
pub(crate) async fn authenticate(core: &Core, parts: &Parts) -> Result<Caller, ApiError> {
    let caller = prove(core, parts).await?;
    let texts = |name: &str| -> Vec<String> {
        parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .map(str::to_owned)
            .collect()
    };
    let users = texts(IMPERSONATE_USER);
    let groups = texts(IMPERSONATE_GROUP);
    let Some(user) = users.into_iter().next() else {
        if groups.is_empty() {
            return Ok(caller);
        }
        return Err(ApiError::bad_request(
            "requested impersonation of groups without impersonating a user",
        ));
    };
    if caller.may_everything() == Verdict::Denied {
        return Err(ApiError::forbidden(
            "",
            "users",
            &user,
            &format!(
                "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
                caller.0.user
            ),
        ));
    }
    Ok(Caller(PeerIdentity { user, groups }))
}

/// Reads the certificate's user or the token's. Without either, and with a token nobody knows: 401.
async fn prove(core: &Core, parts: &Parts) -> Result<Caller, ApiError> {
    if let Some(identity) = parts.extensions.get::<PeerIdentity>() {
        return Ok(Caller(identity.clone()));
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
        Some(identity) if identity.user != ANONYMOUS => Ok(Caller(identity)),
        _ => Err(unauthorized()),
    }
}

/// Refuses what the caller may not do.
pub(crate) fn authorize(
    caller: &Caller,
    target: &Target,
    verb: &'static str,
) -> Result<(), ApiError> {
    if caller.may_everything() == Verdict::Allowed {
        return Ok(());
    }
    let is_node = caller.0.node_name().is_some();
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
    if open && !is_node {
        return Ok(());
    }
    Err(forbidden(caller, target, verb))
}

fn forbidden(caller: &Caller, target: &Target, verb: &str) -> ApiError {
    let user = &caller.0.user;
    match target {
        Target::Resource(path) => {
            let ResourcePath {
                kind,
                namespace,
                name,
                subresource,
            } = path;
            let resource = match subresource {
                Some(sub) => format!("{}/{sub}", kind.plural),
                None => kind.plural.to_owned(),
            };
            let verb = if verb == "log" { "get" } else { verb };
            let place = match namespace {
                Some(namespace) => format!("in the namespace {namespace:?}"),
                None => "at the cluster scope".to_owned(),
            };
            ApiError::forbidden(
                kind.group,
                kind.plural,
                name.as_deref().unwrap_or_default(),
                &format!(
                    "User {user:?} cannot {verb} resource {resource:?} in API group {:?} {place}",
                    kind.group
                ),
            )
        }
        Target::Review(review) => ApiError::forbidden(
            review.group(),
            &review.plural(),
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
            &format!("User {user:?} cannot {verb} this path"),
        ),
    }
}
