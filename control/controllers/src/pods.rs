// SPDX-License-Identifier: Apache-2.0
//! How the controllers keep pods, and the groups in which they find them: by owner, by node, and those without an owner.
//!
//! The view itself is `knarr_control_plan::pods::PodView`.

use knarr_api::k8s_openapi::api::core::v1::Pod;
use knarr_apiserver::Object;
use knarr_control_plan::owners::Controller;
use knarr_control_plan::pods::PodView;

use crate::controller::Owned;
use crate::informer::View;

impl View for PodView {
    type Kind = Pod;

    fn of(object: &Object) -> Option<Self> {
        Some(Self::of(&object.parse::<Pod>().ok()?))
    }

    fn index(&self) -> Vec<String> {
        let mut groups = vec![match &self.controller {
            Some(owner) => owned_by(&owner.uid),
            None => orphans_in(&self.name.namespace),
        }];
        groups.extend(self.node.as_deref().map(bound_to));
        groups
    }
}

impl Owned for PodView {
    fn controller(&self) -> Option<&Controller> {
        self.controller.as_ref()
    }
}

/// The group of pods that the owner with this uid controls.
pub(crate) fn owned_by(uid: &str) -> String {
    format!("owner/{uid}")
}

/// The group of pods of a namespace that have no controller.
pub(crate) fn orphans_in(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// The group of pods that are bound to a node.
pub(crate) fn bound_to(node: &str) -> String {
    format!("node/{node}")
}
