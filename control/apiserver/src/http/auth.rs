// SPDX-License-Identifier: Apache-2.0
//! Who is calling, and whether they may.
//!
//! `system:masters` may do everything. A node's certificate opens the node feed and nothing here. Other
//! proven users may look at discovery and ask what they may do.

use http::header::AUTHORIZATION;
use http::request::Parts;

use super::path::{ResourcePath, Target};
use crate::core::Core;
use crate::identity::{ANONYMOUS, Caller, PeerIdentity, Verdict, may_everything};
use crate::registry::Askers;
use crate::serve::AnonymousConnection;
use crate::{ApiError, Reason};

mod impersonation;

fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

/// The proven caller, or the one that it acts for (`kubectl --as`).
pub(crate) async fn authenticate(core: &Core, parts: &Parts) -> Result<Caller, ApiError> {
    let caller = prove(core, parts).await?;
    let Some(wanted) = impersonation::wanted(&parts.headers)? else {
        return Ok(caller);
    };
    if may_everything(&caller) == Verdict::Denied {
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
            if let Some(connection) = parts.extensions.get::<AnonymousConnection>() {
                connection.prove();
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
    if may_everything(caller) == Verdict::Allowed {
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
        // A review only tells the caller about itself.
        Target::Resource(path) => path.kind.strategy.askers() == Askers::ProvenUsers,
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
        _ => ApiError::forbidden(
            "",
            "",
            "",
            &format!("User {user:?} cannot {verb} path {url:?}"),
        ),
    }
}
