// SPDX-License-Identifier: Apache-2.0
//! The order of the steps, and how often each verb is tried. What the steps do is in `tests/api`.

use serde_json::json;

use super::{PIPELINE, Source, Step};
use crate::admission::Operation;
use crate::verbs::DeleteOptions;

#[test]
fn every_write_takes_these_steps_in_this_order() {
    assert_eq!(
        PIPELINE,
        [
            Step::Read,
            Step::Next,
            Step::Prepare,
            Step::Mutate,
            Step::Generation,
            Step::Validate,
            Step::Review,
            Step::Allocate,
            Step::ManagedFields,
            Step::Encode,
            Step::Commit,
        ]
    );
}

#[test]
fn only_a_creation_that_names_its_object_is_tried_once() {
    let create = |metadata| Source::Create(json!({"metadata": metadata}).into());
    let named = create(json!({"name": "a", "generateName": "b-"}));
    assert_eq!(
        (named.operation(), named.attempts()),
        (Operation::Create, 1)
    );
    assert_eq!(create(json!({"generateName": "b-"})).attempts(), 8);
    let change = |_: &serde_json::Value| Ok(json!({}).into());
    let update = Source::Update(&change);
    assert_eq!(
        (update.operation(), update.attempts()),
        (Operation::Update, 64)
    );
    let options = DeleteOptions::default();
    let delete = Source::Delete(&options);
    assert_eq!(
        (delete.operation(), delete.attempts()),
        (Operation::Delete, 64)
    );
}
