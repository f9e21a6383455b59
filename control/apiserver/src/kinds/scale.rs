// SPDX-License-Identifier: Apache-2.0
//! Scale: the subresource of kinds whose objects have replicas. It is no kind of the registry; the view of an object is in
//! `verbs/scale.rs`.

use crate::registry::Subresource;

pub(super) fn subresource() -> Subresource {
    Subresource::new(
        "scale",
        "autoscaling",
        "v1",
        "Scale",
        &["get", "patch", "update"],
    )
}
