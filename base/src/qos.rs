// SPDX-License-Identifier: Apache-2.0
//! A pod's quality of service class, as `ComputePodQOS` of Kubernetes v1.37.
//!
//! The API server writes it into the status, the node makes the pod's cgroup by it.

use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

/// Quality of service (core/v1 PodQOSClass), and with it the branch of the cgroup tree that a pod sits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    /// Limits equal requests for CPU and memory of every container: `kubepods/pod<uid>`.
    Guaranteed,
    /// Some request or limit is set: `kubepods/burstable/pod<uid>`.
    Burstable,
    /// No request and no limit is set: `kubepods/besteffort/pod<uid>`.
    BestEffort,
}

impl QosClass {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod whose containers, init containers included, ask for this: one entry for CPU and one for memory of
    /// each container.
    pub fn of(asked: impl IntoIterator<Item = Asked>) -> Self {
        let mut any = false;
        let mut guaranteed = true;
        for Asked { request, limit } in asked {
            // A limit is the request where there is none. Zero asks for nothing.
            let request = request.or(limit).filter(|q| !q.is_zero());
            let limit = limit.filter(|q| !q.is_zero());
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
        match (any, guaranteed) {
            (false, _) => QosClass::BestEffort,
            (true, true) => QosClass::Guaranteed,
            (true, false) => QosClass::Burstable,
        }
    }
}

/// What a container asks for of one resource.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// `resources.requests`.
    pub request: Option<Quantity>,
    /// `resources.limits`.
    pub limit: Option<Quantity>,
}

/// The resources that decide the class.
pub const RESOURCES: [&str; 2] = ["cpu", "memory"];

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: Option<&str>, limit: Option<&str>) -> Asked {
        let parse = |text: &str| text.parse().unwrap();
        Asked {
            request: request.map(parse),
            limit: limit.map(parse),
        }
    }

    #[test]
    fn a_pod_is_guaranteed_what_every_container_limits_to_its_request() {
        let (none, zero) = (asked(None, None), asked(Some("0"), Some("0")));
        let equal = asked(Some("1"), Some("1000m"));
        for (all, class) in [
            (vec![], QosClass::BestEffort),
            (vec![none, zero], QosClass::BestEffort),
            (vec![equal, equal], QosClass::Guaranteed),
            (vec![equal, asked(None, Some("1Gi"))], QosClass::Guaranteed),
            (vec![equal, none], QosClass::Burstable),
            (vec![equal, asked(Some("1"), None)], QosClass::Burstable),
            (
                vec![equal, asked(Some("1"), Some("2"))],
                QosClass::Burstable,
            ),
            // A request of zero is none, and is not that of the limit either.
            (
                vec![equal, asked(Some("0"), Some("1"))],
                QosClass::Burstable,
            ),
        ] {
            assert_eq!(QosClass::of(all.iter().copied()), class, "{all:?}");
        }
    }
}
