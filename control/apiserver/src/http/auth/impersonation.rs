// SPDX-License-Identifier: Apache-2.0
//! The user whom a request wants to act for: its `Impersonate-*` headers, read whole or refused.
//!
//! A header that is dropped would let the request run with the caller's own rights. So every header that begins with
//! `Impersonate-` is either understood or answered with 400.
//!
//! Follows `processImpersonationHeaders` of apiserver (v1.37). It is stricter in three things: Kubernetes takes the
//! first of several users, ignores an empty one, and ignores headers that it does not know.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};

use crate::ApiError;
use crate::identity::{ANONYMOUS, AUTHENTICATED, Caller, PeerIdentity, UNAUTHENTICATED};

const PREFIX: &str = "impersonate-";
const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA_PREFIX: &str = "impersonate-extra-";
/// How the user of a ServiceAccount begins; its namespace and name follow.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The group of all ServiceAccounts; those of one namespace have it with `:NAMESPACE` behind it.
const ACCOUNTS: &str = "system:serviceaccounts";

/// The user to act for; `None` where no header asks for one.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
    let mut users = Vec::new();
    let mut uids = Vec::new();
    let mut groups = Vec::new();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let text = text(name, value)?;
        match name {
            USER => users.push(text),
            UID => uids.push(text),
            GROUP => groups.push(text),
            _ => match name.strip_prefix(EXTRA_PREFIX) {
                Some(key) if !key.is_empty() => extra.entry(unescaped(key)).or_default().push(text),
                _ => {
                    return Err(ApiError::bad_request(format!(
                        "unknown impersonation header {name:?}"
                    )));
                }
            },
        }
    }
    let user = only(USER, users)?;
    let uid = only(UID, uids)?;
    let Some(user) = user else {
        if uid.is_none() && groups.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request(
            "requested impersonation of a uid, groups or extra attributes without impersonating a user name",
        ));
    };
    let groups = all_groups(&user, groups);
    Ok(Some(Caller {
        identity: PeerIdentity { user, groups },
        uid: uid.unwrap_or_default(),
        extra,
    }))
}

/// The one value of a header that may stand once.
fn only(name: &str, values: Vec<String>) -> Result<Option<String>, ApiError> {
    match <[String; 1]>::try_from(values) {
        Ok([value]) if value.is_empty() => Err(ApiError::bad_request(format!(
            "impersonation header {name:?} is empty"
        ))),
        Ok([value]) => Ok(Some(value)),
        Err(values) if values.is_empty() => Ok(None),
        Err(_) => Err(ApiError::bad_request(format!(
            "impersonation header {name:?} is given more than once"
        ))),
    }
}

fn text(name: &str, value: &HeaderValue) -> Result<String, ApiError> {
    std::str::from_utf8(value.as_bytes())
        .map(str::to_owned)
        .map_err(|_| {
            ApiError::bad_request(format!(
                "impersonation header {name:?} has a value that is not UTF-8"
            ))
        })
}

/// A key of `extra` without its percent signs; as it is where they make no sense.
fn unescaped(key: &str) -> String {
    super::super::path::percent_decoded(key).unwrap_or_else(|| key.to_owned())
}

/// The groups of the user: those that are named, else those of a ServiceAccount, and the one that says whether the user
/// is known.
fn all_groups(user: &str, named: Vec<String>) -> Vec<String> {
    let mut groups = named;
    let account = user
        .strip_prefix(ACCOUNT_PREFIX)
        .and_then(|account| account.split_once(':'));
    if groups.is_empty()
        && let Some((namespace, _)) = account
    {
        groups = vec![ACCOUNTS.to_owned(), format!("{ACCOUNTS}:{namespace}")];
    }
    let has = |group: &str| groups.iter().any(|g| g == group);
    if user == ANONYMOUS {
        if !has(UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    groups
}

#[cfg(test)]
mod tests;
