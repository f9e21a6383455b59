// SPDX-License-Identifier: Apache-2.0
//! Tests of label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn selects(selector: &str, pairs: &[(&str, &str)]) -> bool {
    Selector::parse(selector).unwrap().matches(&labels(pairs))
}

#[test]
fn equality_selectors_match_values() {
    let web = [("app", "web"), ("tier", "front")];
    assert!(selects("", &web));
    assert!(selects("app=web", &web));
    assert!(selects("app == web , tier!=back", &web));
    assert!(!selects("app=web,tier!=front", &web));
    assert!(selects("zone!=a", &web));
    assert!(!selects("zone=", &web));
    assert!(selects("zone=", &[("zone", "")]));
}

#[test]
fn set_selectors_match_sets_and_presence() {
    let web = [("app", "web"), ("n", "5")];
    assert!(selects("app in (api, web)", &web));
    assert!(!selects("app notin (api,web)", &web));
    assert!(selects("zone notin (a)", &web));
    assert!(selects("app,!zone", &web));
    assert!(!selects("!app", &web));
    assert!(selects("n>4,n<6", &web));
    assert!(!selects("n>5", &web));
    assert!(!selects("app>1", &web));
    assert!(selects("app in (web,)", &[("app", "")]));
}

#[test]
fn a_key_may_be_called_in() {
    assert!(selects("in in (in),notin!=x", &[("in", "in")]));
}

#[test]
fn the_text_form_parses_to_the_same_selector() {
    for text in [
        "a=b",
        "a!=b",
        "a in (b,c)",
        "a notin (b,c)",
        "a",
        "!a",
        "a>1,b<2",
    ] {
        let selector = Selector::parse(text).unwrap();
        assert_eq!(selector.to_string(), text);
        assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
    }
}

#[test]
fn broken_selectors_are_refused() {
    for bad in [
        "a in", "a in (", "a in (b", "a in b", "=a", "a=b,", ",a", "a b", "a!b", "!", "a=b c",
        "a>x", "-a=b", "a=b/c",
    ] {
        assert!(Selector::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_absent_object_selects_nothing_and_an_empty_one_everything() {
    assert!(!Selector::from_object(None).unwrap().matches(&labels(&[])));
    let empty = LabelSelector::default();
    assert!(
        Selector::from_object(Some(&empty))
            .unwrap()
            .matches(&labels(&[]))
    );
}

#[test]
fn an_objects_expressions_and_labels_must_all_hold() {
    let object = LabelSelector {
        match_labels: Some(labels(&[("app", "web")])),
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "tier".into(),
            operator: "NotIn".into(),
            values: Some(vec!["back".into()]),
        }]),
    };
    let selector = Selector::from_object(Some(&object)).unwrap();
    assert!(selector.matches(&labels(&[("app", "web")])));
    assert!(!selector.matches(&labels(&[("app", "web"), ("tier", "back")])));
    let bad = LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "tier".into(),
            operator: "Near".into(),
            values: None,
        }]),
        ..object
    };
    let error = Selector::from_object(Some(&bad)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"Near\" is not a valid label selector operator"
    );
}
