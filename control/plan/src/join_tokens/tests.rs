// SPDX-License-Identifier: Apache-2.0
//! Which tokens are accepted.

use rand::Rng;

use super::*;

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn token() -> Token {
    "abcdef.0123456789abcdef".parse().unwrap()
}

fn generate() -> Token {
    Token::generate(|below| rand::rng().random_range(0..below))
}

fn set(secret: &mut Secret, key: &str, value: &str) {
    let data = secret.data.get_or_insert_default();
    data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
}

#[test]
fn a_new_token_has_the_form_of_kubernetes_and_is_not_the_last_one() {
    let token = generate();
    assert_eq!(token.to_string().parse(), Ok(token.clone()));
    assert_ne!(generate(), token);
}

#[test]
fn other_text_is_no_token() {
    for wrong in [
        "",
        "abcdef",
        "abcdef.0123456789abcde",
        "abcdef.0123456789abcdefg",
        "ABCDEF.0123456789abcdef",
        "abcde.00123456789abcdef",
        "abcdef.0123456789abcde\u{e9}",
    ] {
        assert_eq!(wrong.parse::<Token>(), Err(NoToken), "{wrong}");
    }
}

#[test]
fn a_token_lets_in_until_it_expires() {
    let hour = SignedDuration::from_hours(1);
    let secret = token().to_secret("", Some(hour), now());
    assert_eq!(token().check(Some(&secret), now()), Ok(()));
    let end = now().checked_add(hour).unwrap();
    assert_eq!(
        token().check(Some(&secret), end),
        Err(Refusal::Expired("abcdef".to_owned(), end))
    );
    let forever = token().to_secret("", None, now());
    let later = "2036-01-02T03:04:05Z".parse().unwrap();
    assert_eq!(token().check(Some(&forever), later), Ok(()));
}

#[test]
fn a_wrong_secret_is_as_unknown_as_no_token_at_all() {
    let unknown = Err(Refusal::Unknown("abcdef".to_owned()));
    assert_eq!(token().check(None, now()), unknown);
    let other: Token = "abcdef.fedcba9876543210".parse().unwrap();
    // Expired as well, which a client without the secret must not learn.
    let minus = SignedDuration::from_hours(-1);
    let secret = other.to_secret("", Some(minus), now());
    assert_eq!(token().check(Some(&secret), now()), unknown);
}

#[test]
fn a_secret_that_is_no_token_lets_nobody_in() {
    let good = token().to_secret("", None, now());
    let mut other_type = good.clone();
    other_type.type_ = Some("Opaque".to_owned());
    assert!(token().check(Some(&other_type), now()).is_err());
    let mut no_join = good.clone();
    set(&mut no_join, "usage-bootstrap-authentication", "false");
    assert_eq!(
        token().check(Some(&no_join), now()),
        Err(Refusal::NotForJoining("abcdef".to_owned()))
    );
    let mut broken = good.clone();
    set(&mut broken, "expiration", "tomorrow");
    assert!(token().check(Some(&broken), now()).is_err());
    let mut empty = good;
    empty.data = None;
    assert!(token().check(Some(&empty), now()).is_err());
}

#[test]
fn the_secret_is_named_and_filled_as_kubeadm_does() {
    let hour = SignedDuration::from_hours(1);
    let secret = token().to_secret("for the rack", Some(hour), now());
    assert_eq!(
        secret.metadata.name.as_deref(),
        Some("bootstrap-token-abcdef")
    );
    assert_eq!(secret.metadata.namespace.as_deref(), Some("kube-system"));
    let data = secret.data.unwrap();
    assert_eq!(data["expiration"].0, b"2026-01-02T04:04:05Z");
    assert_eq!(data["description"].0, b"for the rack");
}

#[test]
fn a_token_in_a_log_line_shows_no_secret() {
    assert!(!format!("{:?}", token()).contains("0123456789"));
}

#[test]
fn the_secret_of_a_token_is_in_no_debug_output() {
    let mut secret = Secret::default();
    set(&mut secret, "token-id", "abcdef");
    set(&mut secret, "token-secret", "0123456789abcdef");
    let stored = Stored::read(&secret);
    assert_eq!(stored.secret, "0123456789abcdef");
    let shown = format!("{stored:?} {:?}", token());
    assert!(shown.contains("abcdef"), "{shown}");
    assert!(!shown.contains("0123456789abcdef"), "{shown}");
}

#[test]
fn a_token_is_kept_for_an_hour_after_its_end() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let mut secret = token().to_secret("", Some(SignedDuration::from_mins(10)), now());
    assert_eq!(kept_until(&secret), Some(at("2026-01-02T04:14:05Z")));
    set(&mut secret, "expiration", "soon");
    assert_eq!(
        kept_until(&secret),
        Timestamp::MIN.checked_add(KEPT_AFTER_END).ok()
    );
    let forever = token().to_secret("", None, now());
    assert_eq!(kept_until(&forever), None);
}

#[test]
fn what_is_no_token_stays() {
    let mut elsewhere = token().to_secret("", Some(SignedDuration::ZERO), now());
    elsewhere.metadata.namespace = Some("default".to_owned());
    assert_eq!(kept_until(&elsewhere), None);
    let mut other = token().to_secret("", Some(SignedDuration::ZERO), now());
    other.type_ = Some("Opaque".to_owned());
    assert_eq!(kept_until(&other), None);
}
