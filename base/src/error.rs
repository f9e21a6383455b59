// SPDX-License-Identifier: Apache-2.0
//! An error with its causes, as one line of text.
//!
//! Our errors keep their cause in `source()` and not in their own text, so the text of the whole chain is made once, where
//! the error leaves the program: a log line, a message, a status. Called there, and nowhere below.

use std::error::Error;

/// The error and its causes, outermost first, separated by `: `.
///
/// Some libraries repeat the text of the cause in the text of the error. A cause that the text before it ends with is left
/// out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for cause in causes(error) {
        let part = cause.to_string();
        if text.is_empty() {
            text.push_str(&part);
        } else if last.ends_with(&part) {
            continue;
        } else {
            text.push_str(": ");
            text.push_str(&part);
        }
        last = part;
    }
    text
}

/// The error itself, then its cause, then the cause of that.
pub fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// The first I/O error among an error and its causes.
pub fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a std::io::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests;
