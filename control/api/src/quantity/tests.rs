// SPDX-License-Identifier: Apache-2.0
//! Tests of quantities.

use super::*;

fn quantity(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|_| panic!("{text:?}"))
}

#[test]
fn suffixes_scale_the_number() {
    assert_eq!(quantity("100m").milli_value(), 100);
    assert_eq!(quantity("1.5").milli_value(), 1500);
    assert_eq!(quantity("1.5Gi").value(), 1_610_612_736);
    assert_eq!(quantity("2e3").value(), 2000);
    assert_eq!(quantity("2E").value(), 2_000_000_000_000_000_000);
    assert_eq!(quantity("5e-3").milli_value(), 5);
    assert_eq!(quantity("+.5").milli_value(), 500);
    assert_eq!(quantity("-1k").value(), -1000);
}

#[test]
fn equal_amounts_are_equal_however_written() {
    assert_eq!(quantity("1"), quantity("1000m"));
    assert_eq!(quantity("1Ki"), quantity("1024"));
    assert!(quantity("1Gi") > quantity("1G"));
}

#[test]
fn fractions_of_a_unit_round_up() {
    assert_eq!(quantity("1m").value(), 1);
    assert_eq!(quantity("0.1n").nanos(), 1);
    assert_eq!(quantity("1500u").milli_value(), 2);
    assert_eq!(quantity("-1500m").value(), -2);
}

#[test]
fn the_canonical_form_uses_the_largest_suffix_without_fraction() {
    for (text, canonical) in [
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("1000", "1k"),
        ("0.5Ki", "512"),
        ("0", "0"),
        ("1e3", "1e3"),
        ("12e6", "12e6"),
        ("100", "100"),
    ] {
        assert_eq!(quantity(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn sums_keep_the_format() {
    let sum: Quantity = ["64Mi", "64Mi"].into_iter().map(quantity).sum();
    assert_eq!(sum.to_string(), "128Mi");
    assert_eq!((quantity("2") - quantity("500m")).to_string(), "1500m");
}

#[test]
fn what_is_no_quantity_is_refused() {
    for bad in [
        "",
        ".",
        "1.2.3",
        "m",
        "1mm",
        "1 Gi",
        "1Zi",
        "0x1",
        "1e",
        "--1",
        "1e99",
        &"9".repeat(40),
    ] {
        assert!(bad.parse::<Quantity>().is_err(), "{bad:?}");
    }
}

#[test]
fn huge_values_are_capped_and_do_not_wrap() {
    assert_eq!(quantity("999999E").value(), i64::MAX);
    assert_eq!(quantity("0.000000000000000001E").value(), 1);
}
