// SPDX-License-Identifier: Apache-2.0
//! Field selectors: `metadata.name=web,spec.nodeName!=node-1`.
//!
//! Only parsing and matching; which fields a kind supports is the API server's to say.

/// One requirement of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Field path as the client wrote it, e.g. `spec.nodeName`.
    pub field: String,
    /// How the field's value relates to `value`.
    pub operator: FieldOperator,
    /// Value with escapes undone.
    pub value: String,
}

/// How a field has to relate to the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldOperator {
    /// `=` or `==`
    Equals,
    /// `!=`
    NotEquals,
}

/// Requirements that must all hold; the empty selector selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// In the order written.
    pub requirements: Vec<FieldRequirement>,
}

/// A text that is no field selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFieldsError {
    /// A term has no operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    NoOperator {
        /// The whole text.
        selector: String,
        /// The part without an operator.
        term: String,
    },
    /// A backslash that escapes nothing.
    #[error("invalid field selector: invalid escape sequence in '{value}'")]
    Escape {
        /// The value with the escape.
        value: String,
    },
}

impl FieldSelector {
    /// Parses terms joined by `,`; `\\`, `\,` and `\=` stand for the characters themselves.
    pub fn parse(text: &str) -> Result<Self, ParseFieldsError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let no_operator = || ParseFieldsError::NoOperator {
                selector: text.to_owned(),
                term: term.to_owned(),
            };
            let (at, width, operator) = find_operator(term).ok_or_else(no_operator)?;
            requirements.push(FieldRequirement {
                field: term[..at].trim().to_owned(),
                operator,
                value: unescape(&term[at + width..])?,
            });
        }
        Ok(Self { requirements })
    }

    /// True when every requirement holds for the values that `lookup` gives; a field without a value is "".
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let equal = lookup(&requirement.field).unwrap_or_default() == requirement.value;
            match requirement.operator {
                FieldOperator::Equals => equal,
                FieldOperator::NotEquals => !equal,
            }
        })
    }

    /// The value that `field` must equal, where the selector pins it to one.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.field == field && r.operator == FieldOperator::Equals)
            .map(|r| r.value.as_str())
    }

    /// True when it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn find_operator(term: &str) -> Option<(usize, usize, FieldOperator)> {
    let rest = |at: usize| &term[at..];
    term.char_indices().find_map(|(at, _)| {
        if rest(at).starts_with("!=") {
            Some((at, 2, FieldOperator::NotEquals))
        } else if rest(at).starts_with("==") {
            Some((at, 2, FieldOperator::Equals))
        } else if rest(at).starts_with('=') {
            Some((at, 1, FieldOperator::Equals))
        } else {
            None
        }
    })
}

fn unescape(value: &str) -> Result<String, ParseFieldsError> {
    let bad = || ParseFieldsError::Escape {
        value: value.to_owned(),
    };
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                _ => return Err(bad()),
            },
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
