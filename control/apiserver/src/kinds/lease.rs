// SPDX-License-Identifier: Apache-2.0
//! Lease: who holds something, and until when.

use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::{Column, Kind, Scope, Strategy};
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
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        if let Some(seconds) = value::int(object, "spec.leaseDurationSeconds")
            && seconds <= 0
        {
            errors.invalid(
                "spec.leaseDurationSeconds",
                seconds,
                "must be greater than 0",
            );
        }
        if let Some(transitions) = value::int(object, "spec.leaseTransitions")
            && transitions < 0
        {
            errors.invalid(
                "spec.leaseTransitions",
                transitions,
                "must be greater than or equal to 0",
            );
        }
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![
            table::name(object),
            value::text(object, "spec.holderIdentity").into(),
            table::age(object),
        ]
    }
}
