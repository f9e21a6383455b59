// SPDX-License-Identifier: Apache-2.0
//! Just enough of Rust's lexical rules to tell code from comments and strings. Not a parser.

/// A string literal.
pub struct Literal {
    /// From 1.
    pub line: usize,
    /// With its quotes, and escapes as they stand in the code.
    pub text: String,
    /// Bytes of [`code_lines`]' text before it.
    pub code_before: usize,
}

/// The lines of a file with comments and the insides of literals blanked out, so that words in them do not count.
pub fn code_lines(text: &str) -> Vec<String> {
    scan(text).0.lines().map(str::to_owned).collect()
}

/// A file's code as [`code_lines`] has it, and its string literals.
pub fn scan(text: &str) -> (String, Vec<Literal>) {
    let mut literals = Vec::new();
    let mut out = String::with_capacity(text.len());
    let bytes: Vec<char> = text.chars().collect();
    let mut at = 0;
    let peek = |at: usize| bytes.get(at).copied().unwrap_or('\0');
    let literal = |start: usize, end: usize, code_before: usize| Literal {
        line: bytes[..start].iter().filter(|sign| **sign == '\n').count() + 1,
        text: bytes[start..end].iter().collect(),
        code_before,
    };
    while at < bytes.len() {
        match (peek(at), peek(at + 1)) {
            ('/', '/') => {
                while at < bytes.len() && peek(at) != '\n' {
                    at += 1;
                }
            }
            ('/', '*') => at = skip_block_comment(&bytes, at, &mut out),
            ('r', '"' | '#') if !previous_is_word(&bytes, at) => {
                at = skip_raw_string(&bytes, at, &mut out)
            }
            ('b', 'r') if !previous_is_word(&bytes, at) && matches!(peek(at + 2), '"' | '#') => {
                at = skip_raw_string(&bytes, at + 1, &mut out)
            }
            ('"', _) => {
                let (start, code_before) = (at, out.len());
                at = skip_string(&bytes, at, &mut out);
                literals.push(literal(start, at, code_before));
            }
            // A character literal; a lifetime has no closing quote there.
            ('\'', '\\') => {
                at += 3;
                while at < bytes.len() && peek(at) != '\'' {
                    at += 1;
                }
                at += 1;
            }
            ('\'', _) if peek(at + 2) == '\'' => at += 3,
            (sign, _) => {
                out.push(sign);
                at += 1;
            }
        }
    }
    (out, literals)
}

fn previous_is_word(text: &[char], at: usize) -> bool {
    at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_')
}

fn keep_newlines(skipped: &[char], out: &mut String) {
    out.extend(skipped.iter().filter(|sign| **sign == '\n'));
}

fn skip_block_comment(text: &[char], start: usize, out: &mut String) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    keep_newlines(&text[start..at], out);
    at
}

fn skip_string(text: &[char], start: usize, out: &mut String) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    let end = (at + 1).min(text.len());
    out.push_str("\"\"");
    keep_newlines(&text[start..end], out);
    end
}

fn skip_raw_string(text: &[char], start: usize, out: &mut String) -> usize {
    let hashes = text[start + 1..]
        .iter()
        .take_while(|sign| **sign == '#')
        .count();
    if text.get(start + 1 + hashes) != Some(&'"') {
        // A raw identifier such as `r#type`.
        out.push('r');
        return start + 1;
    }
    let mut at = start + 2 + hashes;
    while at < text.len() {
        if text[at] == '"'
            && text[at + 1..]
                .iter()
                .take_while(|sign| **sign == '#')
                .count()
                >= hashes
        {
            at += 1 + hashes;
            break;
        }
        at += 1;
    }
    let end = at.min(text.len());
    out.push_str("\"\"");
    keep_newlines(&text[start..end], out);
    end
}
