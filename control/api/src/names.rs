// SPDX-License-Identifier: Apache-2.0
//! Names of objects: the rules a name has to follow, and a namespace with a name as one value.
//!
//! The rules and the wording of the refusals are those of Kubernetes'
//! `apimachinery/pkg/util/validation` (v1.37), because clients show them to people unchanged.

use std::fmt;
use std::str::FromStr;

/// Longest DNS label (RFC 1123), in bytes.
pub const DNS_LABEL_MAX: usize = 63;
/// Longest DNS subdomain (RFC 1123), in bytes.
pub const DNS_SUBDOMAIN_MAX: usize = 253;

const LABEL_1123: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_1123: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty()
        && bytes.iter().all(inner)
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// What is wrong with `name` as an RFC 1123 DNS label; empty when nothing is.
pub fn validate_dns_label(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > DNS_LABEL_MAX {
        wrong.push(too_long(DNS_LABEL_MAX));
    }
    if !is_label(name) {
        wrong.push(LABEL_1123.to_owned());
    }
    wrong
}

/// What is wrong with `name` as an RFC 1035 label (Service names in older rules); empty when nothing is.
pub fn validate_dns_1035_label(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > DNS_LABEL_MAX {
        wrong.push(too_long(DNS_LABEL_MAX));
    }
    if !is_label(name) || !name.as_bytes()[0].is_ascii_lowercase() {
        wrong.push(LABEL_1035.to_owned());
    }
    wrong
}

/// What is wrong with `name` as an RFC 1123 DNS subdomain; empty when nothing is.
pub fn validate_dns_subdomain(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > DNS_SUBDOMAIN_MAX {
        wrong.push(too_long(DNS_SUBDOMAIN_MAX));
    }
    if name.is_empty() || !name.split('.').all(is_label) {
        wrong.push(SUBDOMAIN_1123.to_owned());
    }
    wrong
}

fn is_qualified_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !bytes.is_empty()
        && bytes.iter().all(inner)
        && bytes[0].is_ascii_alphanumeric()
        && bytes[bytes.len() - 1].is_ascii_alphanumeric()
}

/// What is wrong with `key` as a label or annotation key (`[prefix/]name`); empty when nothing is.
pub fn validate_qualified_name(key: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut parts = key.split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        wrong.push(format!("a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')", &QUALIFIED_NAME["name part ".len()..]));
        return wrong;
    }
    let name = match second {
        None => first,
        Some(name) => {
            if first.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(
                    validate_dns_subdomain(first)
                        .into_iter()
                        .map(|text| format!("prefix part {text}")),
                );
            }
            name
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > DNS_LABEL_MAX {
        wrong.push(format!("name part {}", too_long(DNS_LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        wrong.push(QUALIFIED_NAME.to_owned());
    }
    wrong
}

/// What is wrong with `value` as a label value; empty when nothing is.
pub fn validate_label_value(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > DNS_LABEL_MAX {
        wrong.push(too_long(DNS_LABEL_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        wrong.push(LABEL_VALUE.to_owned());
    }
    wrong
}

/// A namespace and a name; the namespace is empty for cluster-scoped objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NamespacedName {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Never empty for an object that exists.
    pub name: String,
}

impl NamespacedName {
    /// The name of a namespaced object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The name of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }

    /// `None` for a cluster-scoped object, as API calls take it.
    pub fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A text that is not `NAME` or `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not NAME or NAMESPACE/NAME")]
pub struct ParseNameError {
    text: String,
}

impl FromStr for NamespacedName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseNameError {
            text: text.to_owned(),
        };
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(name), None, None) if !name.is_empty() => Ok(Self::cluster(name)),
            (Some(namespace), Some(name), None) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests;
