// SPDX-License-Identifier: Apache-2.0
//! A pod's quality of service class, as `ComputePodQOS` of Kubernetes v1.37.

use knarr_api::quantity::Quantity;
use serde_json::Value;

use crate::value;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(super) fn class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for list in ["spec.containers", "spec.initContainers"] {
        for container in value::items(pod, list) {
            for resource in ["cpu", "memory"] {
                let given = |part: &str| {
                    value::at(container, "resources")
                        .and_then(|r| {
                            r.get(part)?
                                .get(resource)?
                                .as_str()?
                                .parse::<Quantity>()
                                .ok()
                        })
                        .filter(|q| !q.is_zero())
                };
                let (request, limit) = (given("requests"), given("limits"));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
