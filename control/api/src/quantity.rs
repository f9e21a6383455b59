// SPDX-License-Identifier: Apache-2.0
//! Quantities: `100m`, `1.5Gi`, `2e3`, as numbers that can be compared and added.
//!
//! Follows Kubernetes' `apimachinery/pkg/api/resource` (v1.37): the smallest unit is a billionth, finer
//! parts are rounded up, and a value keeps the suffix family it was written in when it is printed.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Units in one whole.
const NANOS: i128 = 1_000_000_000;
/// More digits than this cannot be a quantity that anybody means, and would overflow 128 bits.
const DIGITS_MAX: usize = 27;

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
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
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
        let (multiplier, divisor, format) = suffix_scale(suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(ParseQuantityError);
        }
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        if digits.len() > DIGITS_MAX {
            return Err(ParseQuantityError);
        }
        let mantissa: i128 = if digits.is_empty() {
            0
        } else {
            digits.parse().map_err(|_| ParseQuantityError)?
        };
        let places = u32::try_from(fraction.len()).map_err(|_| ParseQuantityError)?;
        let below = divisor
            .checked_mul(10i128.checked_pow(places).ok_or(ParseQuantityError)?)
            .ok_or(ParseQuantityError)?;
        let nanos = scale(mantissa, multiplier, below);
        Ok(Self::from_nanos(
            if negative { -nanos } else { nanos },
            format,
        ))
    }
}

/// `mantissa * multiplier * NANOS / below`, rounded up; saturates as Kubernetes caps at 2^63-1.
fn scale(mantissa: i128, multiplier: i128, below: i128) -> i128 {
    const CAP: i128 = i64::MAX as i128 * NANOS;
    let Some(above) = multiplier.checked_mul(NANOS) else {
        return CAP;
    };
    // Common powers are cancelled first, so that long fractions do not overflow.
    let common = gcd(above, below);
    let (above, below) = (above / common, below / common);
    match mantissa.checked_mul(above) {
        Some(product) => ((product + below - 1) / below).min(CAP),
        None => CAP,
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Multiplier, divisor and format of a suffix.
fn suffix_scale(suffix: &str) -> Result<(i128, i128, Format), ParseQuantityError> {
    let decimal = |power: u32| (10i128.pow(power), 1, Format::Decimal);
    let small = |power: u32| (1, 10i128.pow(power), Format::Decimal);
    let binary = |power: u32| (1i128 << (10 * power), 1, Format::Binary);
    Ok(match suffix {
        "" => decimal(0),
        "n" => small(9),
        "u" => small(6),
        "m" => small(3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix
                .strip_prefix(['e', 'E'])
                .and_then(|digits| digits.parse::<i32>().ok())
                .filter(|power| power.unsigned_abs() <= DIGITS_MAX as u32)
                .ok_or(ParseQuantityError)?;
            let power = 10i128.pow(exponent.unsigned_abs());
            if exponent < 0 {
                (1, power, Format::Exponent)
            } else {
                (power, 1, Format::Exponent)
            }
        }
    })
}

/// The canonical form: the largest suffix of its format that leaves no fraction.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [(&str, u32); 6] = [
            ("Ei", 60),
            ("Pi", 50),
            ("Ti", 40),
            ("Gi", 30),
            ("Mi", 20),
            ("Ki", 10),
        ];
        const DECIMAL: [(&str, i32); 10] = [
            ("E", 18),
            ("P", 15),
            ("T", 12),
            ("G", 9),
            ("M", 6),
            ("k", 3),
            ("", 0),
            ("m", -3),
            ("u", -6),
            ("n", -9),
        ];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Fractions of a byte cannot be written in binary suffixes; Kubernetes falls back to decimal ones.
        let whole = self.nanos % NANOS == 0;
        if self.format == Format::Binary && whole {
            let value = self.nanos / NANOS;
            for (suffix, bits) in BINARY {
                if value % (1i128 << bits) == 0 {
                    return write!(f, "{}{suffix}", value >> bits);
                }
            }
            return write!(f, "{value}");
        }
        for (suffix, power) in DECIMAL {
            let unit = 10i128.pow(u32::try_from(power + 9).unwrap_or(0));
            if self.nanos % unit == 0 {
                let value = self.nanos / unit;
                return match (self.format, power) {
                    (Format::Exponent, 0) | (Format::Decimal | Format::Binary, _) => {
                        write!(f, "{value}{suffix}")
                    }
                    (Format::Exponent, power) => write!(f, "{value}e{power}"),
                };
            }
        }
        write!(f, "{}n", self.nanos)
    }
}

impl TryFrom<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> for Quantity {
    type Error = ParseQuantityError;

    fn try_from(
        text: &k8s_openapi::apimachinery::pkg::api::resource::Quantity,
    ) -> Result<Self, Self::Error> {
        text.0.parse()
    }
}

impl From<Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

#[cfg(test)]
mod tests;
