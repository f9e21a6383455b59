// SPDX-License-Identifier: Apache-2.0
//! Image references in their full form.
//!
//! Rules: distribution/reference (`ParseDockerRef`), as the kubelet and containerd use them. Pure.

use std::fmt;

use super::ImageError;

/// A reference in full: `docker.io/library/nginx:latest`, `localhost/knarr-echo:dev`,
/// `registry.example:5000/a/b@sha256:...`.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

/// The registry that a name without one means.
const DEFAULT_DOMAIN: &str = "docker.io";
/// The repository prefix of a name without a slash on that registry.
const OFFICIAL_PREFIX: &str = "library/";
/// The tag of a name without tag and digest.
const DEFAULT_TAG: &str = "latest";
/// Longest name without tag and digest (distribution/reference).
const NAME_LEN_MAX: usize = 255;
/// Longest tag (distribution/reference).
const TAG_LEN_MAX: usize = 128;

impl ImageName {
    /// Normalises a reference as Kubernetes does. A name with tag and digest keeps the digest only.
    pub fn parse(reference: &str) -> Result<ImageName, ImageError> {
        let fail = |message: &str| ImageError::Reference {
            reference: reference.to_owned(),
            message: message.to_owned(),
        };
        let (rest, digest) = match reference.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (reference, None),
        };
        if let Some(digest) = digest {
            let hex = digest
                .strip_prefix("sha256:")
                .ok_or_else(|| fail("only sha256 digests are known"))?;
            if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(fail("a sha256 digest has 64 hexadecimal digits"));
            }
        }
        // A colon after the last slash starts a tag; one before it belongs to a port.
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest.get(slash..).and_then(|last| last.find(':')) {
            Some(at) => (
                rest.get(..slash + at).unwrap_or(rest),
                rest.get(slash + at + 1..),
            ),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(fail("it has no name"));
        }
        if let Some(tag) = tag {
            let mut bytes = tag.bytes();
            let first = bytes
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
            let others = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            if !first || !others || tag.len() > TAG_LEN_MAX {
                return Err(fail("the tag has characters that a tag cannot have"));
            }
        }
        let (domain, path) = match name.split_once('/') {
            Some((domain, path)) if is_domain(domain) => (domain, path.to_owned()),
            Some(_) => (DEFAULT_DOMAIN, name.to_owned()),
            None => (DEFAULT_DOMAIN, format!("{OFFICIAL_PREFIX}{name}")),
        };
        let domain = if domain == "index.docker.io" {
            DEFAULT_DOMAIN
        } else {
            domain
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("a repository name must be lowercase"));
        }
        if !path.split('/').all(is_component) {
            return Err(fail("it has characters that a name cannot have"));
        }
        let full = format!("{domain}/{path}");
        if full.len() > NAME_LEN_MAX {
            return Err(fail("the name is longer than 255 characters"));
        }
        Ok(ImageName(match (tag, digest) {
            (_, Some(digest)) => format!("{full}@{digest}"),
            (Some(tag), None) => format!("{full}:{tag}"),
            (None, None) => format!("{full}:{DEFAULT_TAG}"),
        }))
    }

    /// The full form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The part before the first slash is a registry when it could not be a path: it has a dot or a port, is
/// `localhost`, or has upper-case letters.
fn is_domain(part: &str) -> bool {
    let (host, port) = part.rsplit_once(':').unwrap_or((part, "0"));
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter()
            .all(|b| b.is_some_and(u8::is_ascii_alphanumeric))
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    let is_address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
    let plausible = (is_address || host.split('.').all(is_label))
        && port.bytes().all(|b| b.is_ascii_digit())
        && !port.is_empty();
    plausible
        && (part.contains(['.', ':'])
            || part == "localhost"
            || part.bytes().any(|b| b.is_ascii_uppercase()))
}

/// Letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_component(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().copied().is_some_and(alnum) || !bytes.last().copied().is_some_and(alnum) {
        return false;
    }
    bytes
        .split(|b| alnum(*b))
        .filter(|gap| !gap.is_empty())
        .all(|gap| matches!(gap, b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageError;
    fn try_from(text: String) -> Result<Self, ImageError> {
        ImageName::parse(&text)
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests;
