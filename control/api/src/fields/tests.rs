// SPDX-License-Identifier: Apache-2.0
//! Tests of field selectors.

use super::*;

fn matches(selector: &str, fields: &[(&str, &str)]) -> bool {
    FieldSelector::parse(selector)
        .unwrap()
        .matches(|wanted| fields.iter().find(|(k, _)| *k == wanted).map(|(_, v)| *v))
}

#[test]
fn every_requirement_must_hold() {
    let pod = [("metadata.name", "web"), ("spec.nodeName", "node-1")];
    assert!(matches("", &pod));
    assert!(matches("metadata.name=web", &pod));
    assert!(matches("metadata.name==web,spec.nodeName!=node-2", &pod));
    assert!(!matches("metadata.name=web,spec.nodeName!=node-1", &pod));
    assert!(matches("status.phase=", &pod));
    assert!(!matches("status.phase!=", &pod));
}

#[test]
fn escapes_stand_for_themselves() {
    let parsed = FieldSelector::parse(r"a=x\,y\=z\\").unwrap();
    assert_eq!(parsed.required("a"), Some(r"x,y=z\"));
    assert!(matches!(
        FieldSelector::parse(r"a=\x"),
        Err(ParseFieldsError::Escape { .. })
    ));
}

#[test]
fn a_term_without_an_operator_is_refused() {
    let error = FieldSelector::parse("metadata.name").unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
    );
}
