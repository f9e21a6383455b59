// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a port or an address, wherever it stands in a pod spec or a Service.

use std::net::IpAddr;

use crate::field::FieldErrors;

/// Longest name of a port (RFC 6335).
const PORT_NAME_MAX: usize = 15;

/// A port's number.
pub(in crate::kinds) fn validate_port_number(number: i32, field: &str, errors: &mut FieldErrors) {
    if !(1..=65535).contains(&number) {
        errors.invalid(field, number, "must be between 1 and 65535, inclusive");
    }
}

/// A port's name: an IANA service name.
pub(in crate::kinds) fn validate_port_name(name: &str, field: &str, errors: &mut FieldErrors) {
    if name.len() > PORT_NAME_MAX {
        errors.invalid(
            field,
            name,
            &format!("must be no more than {PORT_NAME_MAX} characters"),
        );
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        errors.invalid(
            field,
            name,
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        );
    }
    if !name.chars().any(|c| c.is_ascii_lowercase()) {
        errors.invalid(field, name, "must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        errors.invalid(field, name, "must not contain consecutive hyphens");
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.invalid(field, name, "must not begin or end with a hyphen");
    }
}

/// An address.
pub(super) fn valid_ip(text: &str, field: &str, errors: &mut FieldErrors) {
    if text.parse::<IpAddr>().is_err() {
        errors.invalid(
            field,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
}
