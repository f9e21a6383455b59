// SPDX-License-Identifier: Apache-2.0
//! Trees as YAML that every reader understands alike.
//!
//! Readers of YAML 1.1 (Python's, Ruby's, Go's) see booleans, dates and numbers where YAML 1.2 has text: `on`,
//! `2026-01-01`, `1_000`, `12:30:45`. The libraries at hand write for 1.2 alone. So a text stands bare here only if no
//! reader can take it for something else; otherwise it is quoted like JSON. As from sigs.k8s.io/yaml, members are
//! sorted, lists are not indented, and a text of several lines is a block.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// Spaces of one level.
const INDENT: usize = 2;

/// One document.
pub(in crate::codec) fn text(tree: &Value) -> String {
    let mut out = String::new();
    match tree {
        Value::Object(members) if !members.is_empty() => object(members, 0, &mut out),
        Value::Array(items) if !items.is_empty() => array(items, 0, &mut out),
        // A block of lines is indented, also where nothing is around it.
        other => {
            scalar(other, INDENT, &mut out);
            out.push('\n');
        }
    }
    out
}

fn object(members: &serde_json::Map<String, Value>, depth: usize, out: &mut String) {
    let sorted: BTreeMap<&String, &Value> = members.iter().collect();
    for (index, (name, value)) in sorted.into_iter().enumerate() {
        // The first member stands behind what led here: nothing, or the dash of a list.
        if index > 0 {
            indent(depth, out);
        }
        key(name, out);
        out.push(':');
        member(value, depth, out);
    }
}

/// A value behind its name.
fn member(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            indent(depth + INDENT, out);
            object(members, depth + INDENT, out);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            indent(depth, out);
            array(items, depth, out);
        }
        other => {
            out.push(' ');
            scalar(other, depth + INDENT, out);
            out.push('\n');
        }
    }
}

fn array(items: &[Value], depth: usize, out: &mut String) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            indent(depth, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(members) if !members.is_empty() => object(members, depth + INDENT, out),
            Value::Array(items) if !items.is_empty() => array(items, depth + INDENT, out),
            other => {
                scalar(other, depth + INDENT, out);
                out.push('\n');
            }
        }
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', depth));
}

fn key(name: &str, out: &mut String) {
    // A longer name would need a mark of its own to be a key.
    const BARE_MAX: usize = 120;
    if is_bare(name) && name.len() <= BARE_MAX {
        out.push_str(name);
    } else {
        quoted(name, out);
    }
}

/// A value without parts; a block of lines stands at `depth`.
fn scalar(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) if is_bare(text) => out.push_str(text),
        Value::String(text) => match block_mark(text) {
            Some(mark) => block(text, mark, depth, out),
            None => quoted(text, out),
        },
        // Writing to a String cannot fail.
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// How a block of these lines begins; `None` where the text is better quoted.
fn block_mark(text: &str) -> Option<&'static str> {
    let is_plain = |c: char| c == '\n' || c == '\t' || is_printable(c);
    if !text.contains('\n')
        || text.ends_with("\n\n")
        || text.starts_with([' ', '\n', '\t'])
        || !text.chars().all(is_plain)
    {
        return None;
    }
    Some(if text.ends_with('\n') { "|" } else { "|-" })
}

/// The last line's end is the caller's.
fn block(text: &str, mark: &str, depth: usize, out: &mut String) {
    out.push_str(mark);
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, out);
            out.push_str(line);
        }
    }
}

/// As JSON, with what YAML does not print written as an escape.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            // Nothing that is not printable lies beyond four digits.
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out.push('"');
}

fn is_printable(c: char) -> bool {
    let breaks_lines = matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}');
    let is_mark = matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    !c.is_control() && !breaks_lines && !is_mark
}

/// Whether a text means itself to readers of YAML 1.1 and 1.2 when nothing stands around it.
fn is_bare(text: &str) -> bool {
    // Signs that begin or end something in YAML are left to quotes, and so are spaces at the ends and what begins a
    // number or a date: digits, signs and dots.
    let begins = |c: char| c.is_ascii_alphabetic() || c == '/' || c == '_';
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_./ ()+=@~^;$".contains(c);
    let Some(first) = text.chars().next() else {
        return false;
    };
    if text.ends_with([' ', ':']) || !text.chars().all(|c| inside(c) || c == ':' || c == ',') {
        return false;
    }
    // A colon or a comma is only itself before more text.
    let splits = [": ", ", ", ":,"].iter().any(|sign| text.contains(sign)) || text.ends_with(',');
    if splits {
        return false;
    }
    if begins(first) {
        return !is_word(text);
    }
    // Digits first: an image's digest, an address, a duration or a quantity with its unit.
    first.is_ascii_digit() && begins_with_digits_and_is_text(text)
}

/// The words that stand for booleans, nothing or no number in some version of YAML.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 11] = [
        "y", "yes", "n", "no", "true", "false", "on", "off", "null", "nan", "inf",
    ];
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Whether a text that begins with a digit cannot be a number, a date or a time: it holds a letter that no number has,
/// or is an IPv4 address.
fn begins_with_digits_and_is_text(text: &str) -> bool {
    let is_address = text.parse::<std::net::Ipv4Addr>().is_ok();
    // `0x1F`, `0o17`, `0b1`, `1e3`, dates with `T` and `Z`.
    let of_numbers = |c: char| c.is_ascii_hexdigit() || "xXoOtTzZ".contains(c);
    let has_letter = text
        .chars()
        .any(|c| c.is_ascii_alphabetic() && !of_numbers(c));
    is_address || has_letter
}

#[cfg(test)]
mod tests;
