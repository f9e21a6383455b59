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
        "", ".", "1.2.3", "m", "1mm", "1 Gi", "1Zi", "0x1", "1e", "--1",
    ] {
        assert!(bad.parse::<Quantity>().is_err(), "{bad:?}");
    }
}

#[test]
fn huge_values_are_capped_and_do_not_wrap() {
    assert_eq!(quantity("999999E").value(), i64::MAX);
    assert_eq!(quantity("0.000000000000000001E").value(), 1);
}

/// What every client reads back.
fn canonical(text: &str) -> Result<String, ParseQuantityError> {
    text.parse().map(|quantity: Quantity| quantity.to_string())
}

#[test]
fn quantities_take_the_largest_suffix_that_loses_nothing() {
    for (text, wanted) in [
        ("0", "0"),
        ("0.0", "0"),
        ("-0", "0"),
        ("1", "1"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1.5", "1500m"),
        ("+2", "2"),
        ("-1.5", "-1500m"),
        ("1000", "1k"),
        ("1500", "1500"),
        ("128000000", "128M"),
        ("134217728", "134217728"),
        (".5", "500m"),
        ("5.", "5"),
        ("100u", "100u"),
        ("1E", "1E"),
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(wanted), "{text}");
    }
}

#[test]
fn binary_suffixes_stay_binary_unless_a_fraction_would_be_lost() {
    for (text, wanted) in [
        ("1Gi", "1Gi"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("1Ki", "1Ki"),
        ("0.5Ki", "512"),
        ("1.1Ki", "1126400m"),
        ("3Ei", "3Ei"),
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(wanted), "{text}");
    }
}

#[test]
fn exponents_stay_exponents() {
    for (text, wanted) in [
        ("1e3", "1e3"),
        ("12E6", "12e6"),
        ("100e1", "1e3"),
        ("1e0", "1"),
        ("1e-3", "1e-3"),
        ("5e+3", "5e3"),
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(wanted), "{text}");
    }
}

#[test]
fn too_fine_is_rounded_up_and_too_much_is_capped() {
    for (text, wanted) in [
        ("0.1n", "1n"),
        ("1.0000000001", "1000000001n"),
        ("1e-40", "1e-9"),
        ("9223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775807"),
        ("100E", "9223372036854775807"),
        ("16Ei", "9223372036854775807"),
        ("1e99", "9223372036854775807"),
        (
            "99999999999999999999999999999999999999999999",
            "9223372036854775807",
        ),
        ("0.00000000000000000000000000000000000000000001", "1n"),
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(wanted), "{text}");
    }
}

#[test]
fn what_only_looks_like_a_quantity_is_refused() {
    for text in [
        "", "-", ".", "1.2.3", "m", "1Mb", "1 Gi", "2 cores", "1e", "1ei", "0x10", "1Kí", "--1",
    ] {
        assert_eq!(canonical(text), Err(ParseQuantityError), "{text}");
    }
}
