// SPDX-License-Identifier: Apache-2.0
//! Tests of the naming rules.

use super::*;

#[test]
fn labels_are_lower_case_and_bounded() {
    assert!(validate_dns_label("web-1").is_empty());
    assert!(validate_dns_label("1web").is_empty());
    for bad in ["", "Web", "-web", "web-", "we.b", "we_b", &"a".repeat(64)] {
        assert!(!validate_dns_label(bad).is_empty(), "{bad:?}");
    }
    assert!(validate_dns_label("Web")[0].starts_with("a lowercase RFC 1123 label"));
    assert_eq!(
        validate_dns_label(&"a".repeat(64)),
        ["must be no more than 63 characters"]
    );
}

#[test]
fn an_rfc_1035_label_does_not_start_with_a_digit() {
    assert!(validate_dns_1035_label("web").is_empty());
    assert!(!validate_dns_1035_label("1web").is_empty());
    assert!(!validate_dns_1035_label("").is_empty());
}

#[test]
fn subdomains_are_labels_joined_by_dots() {
    assert!(validate_dns_subdomain("a.b-c.d").is_empty());
    for bad in ["", ".a", "a.", "a..b", "A.b", &"a.".repeat(127)] {
        assert!(!validate_dns_subdomain(bad).is_empty(), "{bad:?}");
    }
}

#[test]
fn a_label_key_has_at_most_one_prefix() {
    for good in ["app", "app.kubernetes.io/name", "x/Y_z.1"] {
        assert!(validate_qualified_name(good).is_empty(), "{good:?}");
    }
    for bad in ["", "/a", "a/", "a/b/c", "a b", "-a", "A.B/c"] {
        assert!(!validate_qualified_name(bad).is_empty(), "{bad:?}");
    }
}

#[test]
fn a_label_value_may_be_empty() {
    assert!(validate_label_value("").is_empty());
    assert!(validate_label_value("v1.2_x-Y").is_empty());
    assert!(!validate_label_value("a/b").is_empty());
    assert!(!validate_label_value("-a").is_empty());
}

#[test]
fn a_namespaced_name_survives_its_text() {
    let name = NamespacedName::new("default", "web");
    assert_eq!(name.to_string().parse(), Ok(name));
    let node = NamespacedName::cluster("node-1");
    assert_eq!(node.to_string().parse(), Ok(node.clone()));
    assert_eq!(node.namespace(), None);
    for bad in ["", "/web", "default/", "a/b/c"] {
        assert!(bad.parse::<NamespacedName>().is_err(), "{bad:?}");
    }
}
