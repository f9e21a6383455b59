// SPDX-License-Identifier: Apache-2.0
//! The `continue` parameter: where the next page of a list starts, and as of when.
//!
//! The members `v`, `rv` and `start` are those of kube-apiserver's `storage/continue.go` (v1.37). `left` is ours: how many
//! objects follow the page before, so that no page counts what it does not hold.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::ApiError;

const VERSION: &str = "meta.k8s.io/v1";

/// As of when the next page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// The revision of the pages before it.
    At(u64),
    /// Now: the history of the pages before it is gone, and the client goes on all the same.
    Now,
}

/// What a client brings back for the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) when: When,
    /// The first key, without the resource's prefix.
    pub(super) start: String,
    /// How many objects follow, where that is known.
    pub(super) left: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct Sent {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<usize>,
}

impl Token {
    pub(super) fn encode(&self) -> String {
        let sent = Sent {
            v: VERSION.to_owned(),
            rv: match self.when {
                When::At(revision) => i64::try_from(revision).unwrap_or(i64::MAX),
                When::Now => -1,
            },
            start: self.start.clone(),
            left: self.left,
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&sent).unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let refuse = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let json = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| refuse("cannot be decoded"))?;
        let sent: Sent = serde_json::from_slice(&json).map_err(|_| refuse("cannot be decoded"))?;
        if sent.v != VERSION {
            return Err(refuse("server does not recognize this encoded version"));
        }
        let when = match u64::try_from(sent.rv) {
            Ok(0) => return Err(refuse("incorrect encoded start resourceVersion")),
            Ok(revision) => When::At(revision),
            Err(_) => When::Now,
        };
        if sent.start.is_empty() {
            return Err(refuse("encoded start key empty"));
        }
        Ok(Self {
            when,
            start: sent.start,
            left: sent.left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_given() {
        for (when, left) in [
            (When::At(7), Some(3)),
            (When::At(u64::from(u32::MAX) * 7), None),
            (When::Now, None),
        ] {
            let token = Token {
                when,
                start: "default/a\0".to_owned(),
                left,
            };
            assert_eq!(Token::parse(&token.encode()).unwrap(), token);
        }
    }

    #[test]
    fn what_no_server_gave_is_refused() {
        for (json, why) in [
            (r#"{"v":"v9","rv":7,"start":"a"}"#, "recognize"),
            (
                r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#,
                "resourceVersion",
            ),
            (r#"{"v":"meta.k8s.io/v1","rv":7,"start":""}"#, "empty"),
            (r#"{"v":"meta.k8s.io/v1","rv":"7"}"#, "decoded"),
            ("7", "decoded"),
        ] {
            let error = Token::parse(&URL_SAFE_NO_PAD.encode(json)).unwrap_err();
            assert_eq!(error.code(), 400);
            assert!(error.to_string().contains(why), "{json}: {error}");
        }
        assert!(Token::parse("nonsense!").is_err());
    }
}
