// SPDX-License-Identifier: Apache-2.0
//! Who controls an object: reading and writing owner references.
//!
//! Every controller that makes objects uses this; the garbage collector reads all references itself.

use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The controlling owner of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Controller {
    /// For example `ReplicaSet`.
    pub kind: Box<str>,
    /// Name, in the object's own namespace.
    pub name: Box<str>,
    /// Identity of this very owner; a later one of the same name has another.
    pub uid: Box<str>,
}

/// The owner reference that is marked as the controller.
pub fn controller_ref(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = meta.owner_references.iter().flatten();
    owners
        .into_iter()
        .find(|owner| owner.controller == Some(true))
}

/// The controlling owner, in the compact form that views keep.
pub fn controller_of(meta: &ObjectMeta) -> Option<Controller> {
    controller_ref(meta).map(|owner| Controller {
        kind: owner.kind.as_str().into(),
        name: owner.name.as_str().into(),
        uid: owner.uid.as_str().into(),
    })
}

/// True when the object's controller is the one with this `uid`.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_ref(meta).is_some_and(|owner| owner.uid == uid)
}

/// A controller reference to `owner`, which blocks the owner's foreground deletion.
pub fn new_controller_ref(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
