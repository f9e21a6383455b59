// SPDX-License-Identifier: Apache-2.0
//! Tests of canonical quantities.

use super::*;

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
fn what_is_no_quantity_is_refused() {
    for text in [
        "", "-", ".", "1.2.3", "m", "1Mb", "1 Gi", "2 cores", "1e", "1ei", "0x10", "1Kí", "--1",
    ] {
        assert_eq!(canonical(text), Err(WRONG), "{text}");
    }
}
