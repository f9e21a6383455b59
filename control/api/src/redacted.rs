// SPDX-License-Identifier: Apache-2.0
//! How messages of the feed that carry secrets look in logs and failed assertions: without them.
//!
//! `build.rs` leaves the derived `Debug` of these away; a message that comes to carry a secret belongs in both.

use std::fmt;

use crate::feed::{JoinRequest, ObjectSet, PodSet};

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token,
            node_name,
            csr_pem,
        } = self;
        // The part before the dot is the token's public name.
        let (id, _) = token.split_once('.').unwrap_or_default();
        f.debug_struct("JoinRequest")
            .field("token", &format_args!("{id:?}.*"))
            .field("node_name", node_name)
            .field("csr_pem", csr_pem)
            .finish()
    }
}

impl fmt::Debug for PodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // People write passwords into `env`.
        let Self { uid, pod_json } = self;
        f.debug_struct("PodSet")
            .field("uid", uid)
            .field("pod_json", &Bytes(pod_json.len()))
            .finish()
    }
}

impl fmt::Debug for ObjectSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
            object_json,
        } = self;
        f.debug_struct("ObjectSet")
            .field("kind", kind)
            .field("namespace", namespace)
            .field("name", name)
            .field("object_json", &Bytes(object_json.len()))
            .finish()
    }
}

/// How many there are, instead of them.
struct Bytes(usize);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{Change, Delta, change};

    #[test]
    fn a_join_request_shows_the_public_part_of_its_token_only() {
        let shown = |token: &str| {
            let request = JoinRequest {
                token: token.to_owned(),
                node_name: "n1".to_owned(),
                csr_pem: String::new(),
            };
            format!("{request:?}")
        };
        assert_eq!(
            shown("abcdef.0123456789abcdef"),
            r#"JoinRequest { token: "abcdef".*, node_name: "n1", csr_pem: "" }"#
        );
        assert!(!shown("0123456789abcdef").contains("0123"));
    }

    #[test]
    fn a_delta_shows_which_objects_it_carries_and_nothing_that_is_in_them() {
        let object = ObjectSet {
            kind: "Secret".to_owned(),
            namespace: "default".to_owned(),
            name: "key".to_owned(),
            object_json: "hidden".into(),
        };
        let pod = PodSet {
            uid: "u1".to_owned(),
            pod_json: "hidden too".into(),
        };
        let changes = [
            change::Change::ObjectSet(object),
            change::Change::PodSet(pod),
        ];
        let delta = Delta {
            version: 7,
            changes: changes
                .map(|change| Change {
                    change: Some(change),
                })
                .into(),
            snapshot: 0,
        };
        let shown = format!("{delta:?}");
        let object = r#"ObjectSet { kind: "Secret", namespace: "default", name: "key", object_json: (6 bytes) }"#;
        assert!(shown.contains(object), "{shown}");
        let pod = r#"PodSet { uid: "u1", pod_json: (10 bytes) }"#;
        assert!(shown.contains(pod), "{shown}");
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
