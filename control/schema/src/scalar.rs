// SPDX-License-Identifier: Apache-2.0
//! Strings that have a form: base64, times and quantities.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Why text is no base64; worded as Go's `encoding/base64`, whose message clients show.
pub(crate) fn check_base64(text: &str) -> Result<(), String> {
    STANDARD.decode(text).map(|_| ()).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                text.len()
            }
        };
        format!("illegal base64 data at input byte {at}")
    })
}

/// Why text is no RFC 3339 time; worded as Go's `time.Parse`.
pub(crate) fn check_time(text: &str) -> Result<(), String> {
    OffsetDateTime::parse(text, &Rfc3339).map(|_| ()).map_err(|_| {
        format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")
    })
}

/// Why text is no quantity; the grammar and the wording of Kubernetes' `api/resource`.
pub(crate) fn check_quantity(text: &str) -> Result<(), String> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let points = number.len() - digits;
    let exponent = |text: &str| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let known = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ]
    .contains(&suffix)
        || suffix.strip_prefix(['e', 'E']).is_some_and(exponent);
    if digits > 0 && points <= 1 && known {
        Ok(())
    } else {
        Err("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned())
    }
}
