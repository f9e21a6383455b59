// SPDX-License-Identifier: Apache-2.0
//! Lease: who holds something, and until when.

use k8s_openapi::api::coordination::v1 as api;
use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::{Column, Kind, Rules, Scope, Strategy, Validate};
use crate::{table, value};

pub(super) fn kind() -> Kind {
    Kind {
        columns: vec![
            Column::NAME,
            Column::new(
                "Holder",
                "string",
                "holderIdentity contains the identity of the holder of a current lease.",
            ),
            Column::AGE,
        ],
        ..Kind::new(
            "coordination.k8s.io",
            "v1",
            "Lease",
            "leases",
            Scope::Namespaced,
            Lease,
        )
    }
}

struct Lease;

impl Strategy for Lease {
    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![
            table::name(object),
            value::text(object, "spec.holderIdentity").into(),
            table::age(object),
        ]
    }
}

impl Validate for Lease {
    type Object = api::Lease;

    fn validate(&self, new: &api::Lease, errors: &mut FieldErrors) {
        let Some(spec) = &new.spec else {
            return;
        };
        if let Some(seconds) = spec.lease_duration_seconds
            && seconds <= 0
        {
            errors.invalid(
                "spec.leaseDurationSeconds",
                seconds,
                "must be greater than 0",
            );
        }
        if let Some(transitions) = spec.lease_transitions
            && transitions < 0
        {
            errors.invalid(
                "spec.leaseTransitions",
                transitions,
                "must be greater than or equal to 0",
            );
        }
    }
}
