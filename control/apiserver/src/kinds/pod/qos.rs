// SPDX-License-Identifier: Apache-2.0
//! A pod's quality of service class, read from the tree of the object.

use knarr_base::qos::{Asked, QosClass, RESOURCES};
use knarr_base::quantity::Quantity;
use serde_json::Value;

use crate::value;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(pod: &Value) -> &'static str {
    let lists = ["spec.containers", "spec.initContainers"];
    let containers = lists.iter().flat_map(|list| value::items(pod, list));
    let asked = containers.flat_map(|container| {
        RESOURCES.map(|resource| Asked {
            request: quantity(container, "requests", resource),
            limit: quantity(container, "limits", resource),
        })
    });
    QosClass::of(asked).as_str()
}

fn quantity(container: &Value, part: &str, resource: &str) -> Option<Quantity> {
    let resources = value::at(container, "resources")?;
    resources.get(part)?.get(resource)?.as_str()?.parse().ok()
}
