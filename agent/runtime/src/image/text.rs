// SPDX-License-Identifier: Apache-2.0
//! Text from an image, made fit for a message. Called by everything that reads images.

/// Of a reason that quotes from the archive; it is on one line of a terminal or of an event.
const REASON_CHARS_MAX: usize = 120;

/// A reason that may quote what stands where a name should: on one line, and not longer than helps.
pub(super) fn printable(reason: &str) -> String {
    let mut text = String::new();
    for (n, c) in reason.chars().enumerate() {
        if n == REASON_CHARS_MAX {
            text.push('…');
            break;
        }
        match c {
            char::REPLACEMENT_CHARACTER => text.push('?'),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text
}

/// A name from an image, in quotes.
pub(super) fn quoted(name: &[u8]) -> String {
    printable(&format!("{:?}", String::from_utf8_lossy(name)))
}
