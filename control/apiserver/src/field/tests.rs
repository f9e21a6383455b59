// SPDX-License-Identifier: Apache-2.0
//! The wording of field errors.

use super::FieldErrors;

#[test]
fn one_error_stands_alone_and_several_stand_in_brackets() {
    let mut errors = FieldErrors::default();
    errors.required("spec.containers", "");
    assert_eq!(errors.aggregate(), "spec.containers: Required value");
    errors.invalid("spec.x", 70000, "must be between 1 and 65535, inclusive");
    assert_eq!(
        errors.aggregate(),
        "[spec.containers: Required value, spec.x: Invalid value: 70000: must be between 1 and 65535, inclusive]"
    );
}

#[test]
fn supported_values_are_listed_in_order() {
    let mut errors = FieldErrors::default();
    errors.not_supported(
        "spec.restartPolicy",
        "Sometimes",
        &["OnFailure", "Always", "Never"],
    );
    assert_eq!(
        errors.aggregate(),
        r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure""#
    );
}

#[test]
fn repeated_errors_are_said_once() {
    let mut errors = FieldErrors::default();
    errors.duplicate("spec.ports[1].name", "a");
    errors.duplicate("spec.ports[1].name", "a");
    assert_eq!(
        errors.aggregate(),
        r#"spec.ports[1].name: Duplicate value: "a""#
    );
}
