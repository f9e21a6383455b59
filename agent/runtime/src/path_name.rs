// SPDX-License-Identifier: Apache-2.0
//! Names that become a part of a path: pod UIDs, namespaces and containers. Called before any path is made of one.

/// Letters, digits and dashes: safe as a part of any path.
pub(crate) fn is_name(name: &str) -> bool {
    const NAME_LEN_MAX: usize = 63;
    !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
}
