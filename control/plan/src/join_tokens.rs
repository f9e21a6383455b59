// SPDX-License-Identifier: Apache-2.0
//! Join tokens, in the form and storage of Kubernetes' bootstrap tokens.
//!
//! `abcdef.0123456789abcdef`: the part before the dot names the Secret `bootstrap-token-abcdef` in `kube-system`, the part
//! behind it is the secret. The control plane reads the Secrets when machines join, `knarr-control token` writes them over
//! the API, and the controller `token-cleaner` deletes them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use knarr_api::k8s_openapi::ByteString;
use knarr_api::k8s_openapi::api::core::v1::Secret;
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";
/// Their type.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Their names are this and the token's id.
pub const NAME_PREFIX: &str = "bootstrap-token-";

/// How long a token that has expired is kept: a machine that uses it then learns that it expired, and not that it is
/// unknown.
const KEPT_AFTER_END: SignedDuration = SignedDuration::from_hours(1);

const ID_LEN: usize = 6;
const SECRET_LEN: usize = 16;
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret must not reach a log.
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Text that is no token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a token has the form abcdef.0123456789abcdef (six and sixteen of a-z and 0-9)")]
pub struct NoToken;

/// Why a token is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such token, or its secret is another.
    #[error(
        "the token {0}.* is not known to this cluster (it may have been deleted): make one with `knarr-control token create`"
    )]
    Unknown(String),
    /// The token has ended.
    #[error("the token {0}.* expired at {1}: make a new one with `knarr-control token create`")]
    Expired(String, Timestamp),
    /// The Secret does not allow joining.
    #[error(
        "the token {0}.* is not for joining (its Secret lacks usage-bootstrap-authentication): make one with `knarr-control token create`"
    )]
    NotForJoining(String),
}

impl Token {
    /// A new token. It is unguessable if `random_below` is: a number below its argument, another one with each call.
    #[must_use]
    pub fn generate(mut random_below: impl FnMut(usize) -> usize) -> Self {
        let mut text = |len: usize| -> String {
            let indices = (0..len).map(|_| random_below(ALPHABET.len()));
            let characters = indices.filter_map(|index| ALPHABET.get(index));
            characters.map(|byte| char::from(*byte)).collect()
        };
        Self {
            id: text(ID_LEN),
            secret: text(SECRET_LEN),
        }
    }

    /// The public part.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The Secret that makes the token known; it ends `lifetime` after `now`, or never.
    #[must_use]
    pub fn to_secret(
        &self,
        description: &str,
        lifetime: Option<SignedDuration>,
        now: Timestamp,
    ) -> Secret {
        let mut data: BTreeMap<&str, String> = BTreeMap::from([
            ("token-id", self.id.clone()),
            ("token-secret", self.secret.clone()),
            ("usage-bootstrap-authentication", "true".to_owned()),
        ]);
        if !description.is_empty() {
            data.insert("description", description.to_owned());
        }
        if let Some(end) = lifetime.and_then(|lifetime| now.checked_add(lifetime).ok()) {
            data.insert("expiration", end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        Secret {
            metadata: ObjectMeta {
                name: Some(secret_name(&self.id)),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(SECRET_TYPE.to_owned()),
            data: Some(
                data.into_iter()
                    .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
                    .collect(),
            ),
            ..Secret::default()
        }
    }

    /// Whether the token is accepted, by the Secret of its id (`None`: there is none).
    pub fn check(&self, secret: Option<&Secret>, now: Timestamp) -> Result<(), Refusal> {
        let unknown = || Refusal::Unknown(self.id.clone());
        let stored = secret.map(Stored::read).ok_or_else(unknown)?;
        // Compared first, so that only who knows the secret learns why it is not enough.
        if stored.id != self.id || !equal(stored.secret.as_bytes(), self.secret.as_bytes()) {
            return Err(unknown());
        }
        match stored.expiration {
            Expiration::At(end) if end <= now => {
                return Err(Refusal::Expired(self.id.clone(), end));
            }
            // As Kubernetes: a time that cannot be read never was.
            Expiration::Broken => return Err(unknown()),
            Expiration::At(_) | Expiration::Never => {}
        }
        if !stored.joins {
            return Err(Refusal::NotForJoining(self.id.clone()));
        }
        Ok(())
    }
}

/// When a token's Secret is to be removed; nothing for one that never ends, and for other Secrets. A token whose end
/// cannot be read has ended, as for Kubernetes' token cleaner.
#[must_use]
pub fn kept_until(secret: &Secret) -> Option<Timestamp> {
    let meta = &secret.metadata;
    if meta.namespace.as_deref() != Some(NAMESPACE) || secret.type_.as_deref() != Some(SECRET_TYPE)
    {
        return None;
    }
    let end = match Stored::read(secret).expiration {
        Expiration::Never => return None,
        Expiration::At(end) => end,
        Expiration::Broken => meta
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::MIN, |time| time.0),
    };
    Some(end.saturating_add(KEPT_AFTER_END).unwrap_or(Timestamp::MAX))
}

/// The name of the Secret of the token `id`.
#[must_use]
pub fn secret_name(id: &str) -> String {
    format!("{NAME_PREFIX}{id}")
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    /// It does not.
    Never,
    /// At this moment.
    At(Timestamp),
    /// The Secret says something that is no time.
    Broken,
}

/// What a token's Secret says.
#[derive(PartialEq, Eq)]
pub struct Stored {
    /// The public part.
    pub id: String,
    secret: String,
    /// What it is for, as its maker described it.
    pub description: String,
    /// When it ends.
    pub expiration: Expiration,
    joins: bool,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            // It must not reach a log.
            secret: _,
            description,
            expiration,
            joins,
        } = self;
        f.debug_struct("Stored")
            .field("id", id)
            .field("description", description)
            .field("expiration", expiration)
            .field("joins", joins)
            .finish_non_exhaustive()
    }
}

impl Stored {
    /// Reads a Secret; what is missing is empty.
    #[must_use]
    pub fn read(secret: &Secret) -> Self {
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes
                .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
                .unwrap_or_default()
        };
        let expiration = match text("expiration") {
            end if end.is_empty() => Expiration::Never,
            end => end.parse().map_or(Expiration::Broken, Expiration::At),
        };
        let right_type = secret.type_.as_deref() == Some(SECRET_TYPE);
        Self {
            id: if right_type {
                text("token-id")
            } else {
                String::new()
            },
            secret: text("token-secret"),
            description: text("description"),
            expiration,
            joins: text("usage-bootstrap-authentication") == "true",
        }
    }
}

/// Compares in a time that does not depend on where the difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a
        .iter()
        .zip(b)
        .fold(a.len() ^ b.len(), |all, (a, b)| all | usize::from(a ^ b));
    std::hint::black_box(difference) == 0
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Self, NoToken> {
        let (id, secret) = text.split_once('.').ok_or(NoToken)?;
        if !is_id(id) || secret.len() != SECRET_LEN || !is_of_alphabet(secret) {
            return Err(NoToken);
        }
        Ok(Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

/// Whether `text` has the form of a token's public part.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && is_of_alphabet(text)
}

fn is_of_alphabet(text: &str) -> bool {
    text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests;
