// SPDX-License-Identifier: Apache-2.0
//! Lease: who holds something, and until when.

use serde_json::Value;

use super::{Column, Generation, Kind, NameRule, Scope, Strategy};
use crate::field::FieldErrors;
use crate::{table, value};

pub(super) static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    name_rule: NameRule::Subdomain,
    generation: Generation::None,
    subresources: &[],
    selectable: &[],
    columns: &[
        Column::NAME,
        Column::new(
            "Holder",
            "string",
            "holderIdentity contains the identity of the holder of a current lease.",
        ),
        Column::AGE,
    ],
    strategy: &Lease,
    view_of: None,
};

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
