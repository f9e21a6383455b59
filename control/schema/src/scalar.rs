// SPDX-License-Identifier: Apache-2.0
//! Strings that have a form: base64 and times. Both come back as Kubernetes would write them.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

/// Go's decoder does not mind bits after the last byte.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// How exact a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// `metav1.Time`
    Seconds,
    /// `metav1.MicroTime`
    Micros,
}

/// Base64 without line breaks, or why it is none; worded as Go's `encoding/base64`, whose message clients show.
pub(crate) fn base64(text: &str) -> Result<String, String> {
    let stripped: String;
    let text = if text.contains(['\r', '\n']) {
        stripped = text.replace(['\r', '\n'], "");
        &stripped
    } else {
        text
    };
    if STANDARD.decode(text).is_ok() {
        return Ok(text.to_owned());
    }
    match LENIENT.decode(text) {
        Ok(bytes) => Ok(STANDARD.encode(bytes)),
        Err(base64::DecodeError::InvalidByte(at, _)) => Err(illegal_base64(at)),
        // Go names the start of the group of four that is not whole.
        Err(_) => Err(illegal_base64(text.len() - text.len() % 4)),
    }
}

fn illegal_base64(at: usize) -> String {
    format!("illegal base64 data at input byte {at}")
}

/// An RFC 3339 time in UTC and in the given precision, or why it is none; worded as Go's `time.Parse`.
pub(crate) fn time(text: &str, precision: Precision) -> Result<String, String> {
    Ok(written(moment(text, precision)?, precision))
}

/// What an RFC 3339 time says, in UTC.
pub(crate) fn moment(text: &str, precision: Precision) -> Result<OffsetDateTime, String> {
    let layout = match precision {
        Precision::Seconds => "2006-01-02T15:04:05Z07:00",
        Precision::Micros => "2006-01-02T15:04:05.000000Z07:00",
    };
    let mut rest = text;
    let fields = fields(&mut rest).map_err(|element| {
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}")
    })?;
    if !rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {rest:?}"));
    }
    fields
        .moment()
        .map_err(|which| format!("parsing time {text:?}: {which} out of range"))
}

/// A time in UTC as Kubernetes writes it.
pub(crate) fn written(time: OffsetDateTime, precision: Precision) -> String {
    let (date, clock) = (time.date(), time.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second) = time.to_hms();
    let whole = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    match precision {
        Precision::Seconds => format!("{whole}Z"),
        Precision::Micros => format!("{whole}.{:06}Z", clock.microsecond()),
    }
}

/// Whether the types of `k8s_openapi` hold this moment: their clock is `jiff`'s, which ends 26 hours before the year 10,000.
pub(crate) fn is_representable(moment: OffsetDateTime) -> bool {
    /// 9999-12-30T22:00:00Z.
    const LAST_S: i64 = 253_402_207_200;
    moment.year() >= 0 && moment.unix_timestamp() <= LAST_S
}

/// The numbers of a time as they stand in the text.
struct Fields {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanos: u32,
    /// Hours and minutes east of Greenwich.
    offset: (i32, i32),
}

impl Fields {
    /// The moment in UTC, or which field has an impossible value.
    fn moment(&self) -> Result<OffsetDateTime, &'static str> {
        let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        let month = Month::try_from(small(self.month)).map_err(|_| "month")?;
        let year = i32::try_from(self.year).map_err(|_| "year")?;
        let date = Date::from_calendar_date(year, month, small(self.day)).map_err(|_| "day")?;
        for (value, limit, name) in [
            (self.hour, 24, "hour"),
            (self.minute, 60, "minute"),
            (self.second, 60, "second"),
        ] {
            if value >= limit {
                return Err(name);
            }
        }
        let (hour, minute, second) = (small(self.hour), small(self.minute), small(self.second));
        let clock = Time::from_hms_nano(hour, minute, second, self.nanos).map_err(|_| "second")?;
        let (hours, minutes) = self.offset;
        if hours.abs() > 24 {
            return Err("time zone offset hour");
        }
        if minutes.abs() >= 60 {
            return Err("time zone offset minute");
        }
        let offset = UtcOffset::from_whole_seconds(hours * 3600 + minutes * 60)
            .map_err(|_| "time zone offset hour")?;
        date.with_time(clock)
            .assume_offset(offset)
            .checked_to_offset(UtcOffset::UTC)
            .filter(|moment| is_representable(*moment))
            .ok_or("year")
    }
}

/// Reads a time from the front of the text; the error is the layout's element that is missing there.
fn fields(rest: &mut &str) -> Result<Fields, &'static str> {
    let year = number(rest, 4, "2006")?;
    literal(rest, "-")?;
    let month = number(rest, 2, "01")?;
    literal(rest, "-")?;
    let day = number(rest, 2, "02")?;
    literal(rest, "T")?;
    let hour = number(rest, 2, "15")?;
    literal(rest, ":")?;
    let minute = number(rest, 2, "04")?;
    literal(rest, ":")?;
    let second = number(rest, 2, "05")?;
    let nanos = fraction(rest);
    let offset = if let Some(after) = rest.strip_prefix('Z') {
        *rest = after;
        (0, 0)
    } else {
        const ZONE: &str = "Z07:00";
        let whole = *rest;
        let sign = match rest.as_bytes().first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(ZONE),
        };
        *rest = &rest[1..];
        let mut zone = || -> Result<(u32, u32), &'static str> {
            let hours = number(rest, 2, ZONE)?;
            literal(rest, ":")?;
            Ok((hours, number(rest, 2, ZONE)?))
        };
        let Ok((hours, minutes)) = zone() else {
            *rest = whole;
            return Err(ZONE);
        };
        (sign * hours.cast_signed(), sign * minutes.cast_signed())
    };
    Ok(Fields {
        year,
        month,
        day,
        hour,
        minute,
        second,
        nanos,
        offset,
    })
}

fn number(rest: &mut &str, width: usize, element: &'static str) -> Result<u32, &'static str> {
    let (digits, after) = rest.split_at_checked(width).ok_or(element)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(element);
    }
    *rest = after;
    digits.parse().map_err(|_| element)
}

fn literal(rest: &mut &str, literal: &'static str) -> Result<(), &'static str> {
    *rest = rest.strip_prefix(literal).ok_or(literal)?;
    Ok(())
}

/// A fraction of a second may follow whatever the layout says; kube-apiserver wants six digits of a `MicroTime`, and
/// takes any number of a `Time`. Here any number will do for both.
fn fraction(rest: &mut &str) -> u32 {
    let Some(after) = rest.strip_prefix(['.', ',']) else {
        return 0;
    };
    let end = after
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(after.len());
    if end == 0 {
        return 0;
    }
    *rest = &after[end..];
    let digits = after[..end].bytes().chain(std::iter::repeat(b'0')).take(9);
    digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))
}

#[cfg(test)]
mod tests;
