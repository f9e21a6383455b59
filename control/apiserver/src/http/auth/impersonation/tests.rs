// SPDX-License-Identifier: Apache-2.0
//! Which headers name a user to act for, and which are refused.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;

fn headers(given: &[(&str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_bytes(value).expect("a value"),
        );
    }
    headers
}

#[test]
fn a_header_that_is_not_understood_is_refused_and_never_dropped() {
    for (given, why) in [
        (
            &[("impersonate-user", b"j\xff".as_slice())][..],
            "is not UTF-8",
        ),
        (
            &[
                ("impersonate-user", b"jane"),
                ("impersonate-group", b"\xfe"),
            ],
            "is not UTF-8",
        ),
        (&[("impersonate-user", b"")], "is empty"),
        (
            &[("impersonate-user", b"jane"), ("impersonate-user", b"joe")],
            "more than once",
        ),
        (
            &[("impersonate-user", b"jane"), ("impersonate-uid", b"")],
            "is empty",
        ),
        (&[("impersonate-users", b"jane")], "unknown"),
        (
            &[("impersonate-user", b"jane"), ("impersonate-extra-", b"x")],
            "unknown",
        ),
        (&[("impersonate-group", b"devs")], "without impersonating"),
        (&[("impersonate-uid", b"1")], "without impersonating"),
        (&[("impersonate-extra-a", b"1")], "without impersonating"),
    ] {
        let error = wanted(&headers(given)).expect_err(why);
        assert_eq!(error.code(), 400, "{given:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn random_bytes_in_any_impersonation_header_never_run_as_the_caller() {
    use rand::Rng as _;
    let mut random = rand::rng();
    for _ in 0..2000 {
        let length = random.random_range(1..12);
        let value: Vec<u8> = (0..length)
            .map(|_| random.random_range(0x20..=0xff))
            .collect();
        let Ok(value) = HeaderValue::from_bytes(&value) else {
            continue;
        };
        let mut given = HeaderMap::new();
        given.insert("impersonate-user", value.clone());
        match wanted(&given) {
            Ok(Some(caller)) => assert_eq!(caller.identity.user.as_bytes(), value.as_bytes()),
            Ok(None) => panic!("{value:?} was dropped"),
            Err(error) => assert_eq!(error.code(), 400),
        }
    }
}

#[test]
fn a_user_has_the_groups_that_kubernetes_gives_it() {
    for (user, named, groups) in [
        ("jane", vec![], vec!["system:authenticated"]),
        ("jane", vec!["devs"], vec!["devs", "system:authenticated"]),
        (
            "jane",
            vec!["system:unauthenticated"],
            vec!["system:unauthenticated"],
        ),
        ("system:anonymous", vec![], vec!["system:unauthenticated"]),
        (
            "system:serviceaccount:web:default",
            vec![],
            vec![
                "system:serviceaccounts",
                "system:serviceaccounts:web",
                "system:authenticated",
            ],
        ),
        (
            "system:serviceaccount:web:default",
            vec!["devs"],
            vec!["devs", "system:authenticated"],
        ),
        ("jörg", vec![], vec!["system:authenticated"]),
    ] {
        let mut given = vec![("impersonate-user", user.as_bytes())];
        given.extend(
            named
                .iter()
                .map(|g: &&str| ("impersonate-group", g.as_bytes())),
        );
        let caller = wanted(&headers(&given)).expect("a user").expect("one");
        assert_eq!(caller.identity.user, user);
        assert_eq!(caller.identity.groups, groups, "{user}");
    }
    assert!(
        wanted(&headers(&[("accept", b"*/*")]))
            .expect("fine")
            .is_none()
    );
}

#[test]
fn uid_and_extra_attributes_are_the_users() {
    let given = headers(&[
        ("impersonate-user", b"jane"),
        ("impersonate-uid", b"u-1"),
        ("Impersonate-Extra-example.org%2Fscopes", b"view"),
        ("impersonate-extra-example.org%2fscopes", b"edit"),
    ]);
    let caller = wanted(&given).expect("a user").expect("one");
    assert_eq!(caller.uid, "u-1");
    assert_eq!(caller.extra["example.org/scopes"], ["view", "edit"]);
}
