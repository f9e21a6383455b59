// SPDX-License-Identifier: Apache-2.0
//! Quantities: `100m`, `1.5Gi`, `2e3`, as numbers that can be compared and added.
//!
//! Follows Kubernetes' `apimachinery/pkg/api/resource` (v1.37). The smallest unit is a billionth, finer parts are rounded
//! away from zero, and nothing is above 2^63-1. A value keeps the suffix family that it was written in; its canonical form
//! has no fraction digits and the largest suffix of the family that loses nothing.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// What is said of anything that is no quantity.
const WRONG: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
/// Billionths in one whole.
const NANOS: i128 = 1_000_000_000;
/// The greatest quantity, in billionths.
const NANOS_MAX: i128 = (i64::MAX as i128) * NANOS;
/// Digits that are kept; 38 fit in an i128, and no more than 28 can matter below [`NANOS_MAX`].
const DIGITS_MAX: usize = 37;
/// Exponents beyond it are zero or [`NANOS_MAX`] for any number of [`DIGITS_MAX`] digits.
const EXPONENT_MAX: i64 = 100;

/// Which suffixes a quantity is printed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `n u m k M G T P E`, powers of 1,000.
    Decimal,
    /// `Ki Mi Gi Ti Pi Ei`, powers of 1,024.
    Binary,
    /// `e3`, powers of ten.
    Exponent,
}

/// An amount of a resource, exact to a billionth.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{WRONG}")]
pub struct ParseQuantityError;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self::from_nanos(0, Format::Decimal);

    /// `nanos` billionths.
    pub const fn from_nanos(nanos: i128, format: Format) -> Self {
        Self { nanos, format }
    }

    /// A number of wholes: pods, cores.
    pub const fn from_units(units: i64) -> Self {
        Self::from_nanos(units as i128 * NANOS, Format::Decimal)
    }

    /// Thousandths: millicores.
    pub const fn from_millis(millis: i64) -> Self {
        Self::from_nanos(millis as i128 * (NANOS / 1000), Format::Decimal)
    }

    /// Bytes, printed with binary suffixes.
    pub const fn from_bytes(bytes: i64) -> Self {
        Self::from_nanos(bytes as i128 * NANOS, Format::Binary)
    }

    /// Billionths.
    pub const fn nanos(&self) -> i128 {
        self.nanos
    }

    /// Wholes, rounded away from zero as Kubernetes' `Value()` does; saturates at the ends of `i64`.
    pub fn value(&self) -> i64 {
        self.scaled_up(NANOS)
    }

    /// Thousandths, rounded away from zero as Kubernetes' `MilliValue()` does; saturates.
    pub fn milli_value(&self) -> i64 {
        self.scaled_up(NANOS / 1000)
    }

    /// True for a value below zero.
    pub const fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// True for zero, however written.
    pub const fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    fn scaled_up(&self, unit: i128) -> i64 {
        let (whole, rest) = (self.nanos / unit, self.nanos % unit);
        let rounded = whole + rest.signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    /// Keeps the left side's format unless it is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        Self::from_nanos(self.nanos.saturating_add(other.nanos), format)
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self::from_nanos(self.nanos.saturating_sub(other.nanos), self.format)
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, |total, part| total + part)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
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
            return Err(ParseQuantityError);
        }
        let (format, power) = suffix_power(suffix).ok_or(ParseQuantityError)?;
        let nanos = nanos(whole, fraction, format, power);
        Ok(Self::from_nanos(
            if negative { -nanos } else { nanos },
            format,
        ))
    }
}

/// The format of a suffix, and the power of ten or of two it stands for.
fn suffix_power(suffix: &str) -> Option<(Format, i64)> {
    let decimal = |power| Some((Format::Decimal, power));
    let binary = |power| Some((Format::Binary, power));
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
            Some((Format::Exponent, power.clamp(-EXPONENT_MAX, EXPONENT_MAX)))
        }
    }
}

/// A number without its sign in billionths, rounded up.
fn nanos(whole: &str, fraction: &str, format: Format, power: i64) -> i128 {
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
        + if format == Format::Binary { 0 } else { power };
    let number = if format == Format::Binary {
        number.checked_mul(1i128 << power)
    } else {
        Some(number)
    };
    let Some(number) = number.and_then(|number| number.checked_add(sticky)) else {
        return NANOS_MAX;
    };
    let scale = u32::try_from(tens.unsigned_abs()).unwrap_or(u32::MAX);
    let scaled = match (tens >= 0, 10i128.checked_pow(scale)) {
        (true, Some(scale)) => number.checked_mul(scale).unwrap_or(NANOS_MAX),
        (true, None) => NANOS_MAX,
        (false, Some(scale)) => number / scale + i128::from(number % scale != 0),
        (false, None) => 1,
    };
    scaled.min(NANOS_MAX)
}

/// The canonical form.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [(&str, u32); 7] = [
            ("Ei", 60),
            ("Pi", 50),
            ("Ti", 40),
            ("Gi", 30),
            ("Mi", 20),
            ("Ki", 10),
            ("", 0),
        ];
        /// Suffixes by the power of ten that they stand for, in billionths.
        const DECIMAL: [(&str, u32); 10] = [
            ("E", 27),
            ("P", 24),
            ("T", 21),
            ("G", 18),
            ("M", 15),
            ("k", 12),
            ("", 9),
            ("m", 6),
            ("u", 3),
            ("n", 0),
        ];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // What binary suffixes cannot say, fractions and less than 1024, has decimal ones, as in Kubernetes.
        let (whole, rest) = (self.nanos / NANOS, self.nanos % NANOS);
        if self.format == Format::Binary && rest == 0 && whole.unsigned_abs() >= 1024 {
            let fits = |(_, bits): &(&str, u32)| whole % (1i128 << bits) == 0;
            let (suffix, bits) = BINARY.into_iter().find(fits).unwrap_or(("", 0));
            return write!(f, "{}{suffix}", whole >> bits);
        }
        let fits = |(_, power): &(&str, u32)| self.nanos % 10i128.pow(*power) == 0;
        let (suffix, power) = DECIMAL.into_iter().find(fits).unwrap_or(("n", 0));
        let number = self.nanos / 10i128.pow(power);
        match (self.format, i64::from(power) - 9) {
            (Format::Exponent, 0) => write!(f, "{number}"),
            (Format::Exponent, power) => write!(f, "{number}e{power}"),
            (Format::Decimal | Format::Binary, _) => write!(f, "{number}{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests;
