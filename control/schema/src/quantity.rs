// SPDX-License-Identifier: Apache-2.0
//! Quantities in canonical form, as every Kubernetes client reads them back.
//!
//! Rules of `apimachinery/pkg/api/resource` (v1.37): no fraction digits, the largest suffix of the same family that
//! loses nothing, nothing finer than a billionth (rounded away from zero), nothing above 2^63-1. It only rewrites
//! text; arithmetic is `knarr-api`'s.

/// What is said of anything that is no quantity.
pub(crate) const WRONG: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
/// Billionths in one.
const ONE: i128 = 1_000_000_000;
/// The greatest quantity, in billionths.
const MAX: i128 = (i64::MAX as i128) * ONE;
/// Digits that are kept; 38 fit in an i128, and no more than 28 can matter below [`MAX`].
const DIGITS_MAX: usize = 37;
/// Exponents beyond it are zero or [`MAX`] for any number of [`DIGITS_MAX`] digits.
const EXPONENT_MAX: i64 = 100;

/// Which suffixes a quantity uses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    DecimalSi,
    DecimalExponent,
    BinarySi,
}

/// The canonical form of a quantity, or why it is none.
pub(crate) fn canonical(text: &str) -> Result<String, &'static str> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') {
        return Err(WRONG);
    }
    let (family, power) = suffix_power(suffix).ok_or(WRONG)?;
    let billionths = billionths(whole, fraction, family, power);
    let text = write(billionths, family);
    Ok(if negative && billionths > 0 {
        format!("-{text}")
    } else {
        text
    })
}

/// The family of a suffix, and the power of ten or of two it stands for.
fn suffix_power(suffix: &str) -> Option<(Family, i64)> {
    let decimal = |power| Some((Family::DecimalSi, power));
    let binary = |power| Some((Family::BinarySi, power));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let power: i64 = exponent.parse().ok()?;
            Some((
                Family::DecimalExponent,
                power.clamp(-EXPONENT_MAX, EXPONENT_MAX),
            ))
        }
    }
}

fn billionths(whole: &str, fraction: &str, family: Family, power: i64) -> i128 {
    let digits: String = [whole, fraction.trim_end_matches('0')].concat();
    let significant = digits.trim_start_matches('0');
    let fraction_len = fraction.trim_end_matches('0').len();
    // What is cut off is too small to matter but for rounding away from zero.
    let kept = significant.len().min(DIGITS_MAX);
    let cut = significant.len() - kept;
    let sticky = i128::from(significant[kept..].bytes().any(|digit| digit != b'0'));
    let number: i128 = significant[..kept].parse().unwrap_or_default();
    if number == 0 {
        return 0;
    }
    let tens = i64::try_from(cut).unwrap_or(EXPONENT_MAX)
        - i64::try_from(fraction_len).unwrap_or(EXPONENT_MAX)
        + 9
        + if family == Family::BinarySi { 0 } else { power };
    let number = if family == Family::BinarySi {
        number.checked_mul(1i128 << power)
    } else {
        Some(number)
    };
    let Some(number) = number.and_then(|number| number.checked_add(sticky)) else {
        return MAX;
    };
    let scale = u32::try_from(tens.unsigned_abs()).unwrap_or(u32::MAX);
    let scaled = match (tens >= 0, 10i128.checked_pow(scale)) {
        (true, Some(scale)) => number.checked_mul(scale).unwrap_or(MAX),
        (true, None) => MAX,
        (false, Some(scale)) => number / scale + i128::from(number % scale != 0),
        (false, None) => 1,
    };
    scaled.min(MAX)
}

fn write(billionths: i128, family: Family) -> String {
    if billionths == 0 {
        return "0".to_owned();
    }
    if family == Family::BinarySi && billionths >= 1024 * ONE && billionths % ONE == 0 {
        let mut number = billionths / ONE;
        let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
        let mut suffix = suffixes.next().unwrap_or_default();
        while number % 1024 == 0
            && let Some(next) = suffixes.next()
        {
            number /= 1024;
            suffix = next;
        }
        return format!("{number}{suffix}");
    }
    let mut number = billionths;
    let mut suffixes = [
        (-9, "n"),
        (-6, "u"),
        (-3, "m"),
        (0, ""),
        (3, "k"),
        (6, "M"),
        (9, "G"),
        (12, "T"),
        (15, "P"),
        (18, "E"),
    ]
    .into_iter();
    let (mut power, mut suffix) = suffixes.next().unwrap_or_default();
    while number % 1000 == 0
        && let Some(next) = suffixes.next()
    {
        number /= 1000;
        (power, suffix) = next;
    }
    match (family, power) {
        (Family::DecimalExponent, 0) => number.to_string(),
        (Family::DecimalExponent, power) => format!("{number}e{power}"),
        _ => format!("{number}{suffix}"),
    }
}

#[cfg(test)]
mod tests;
