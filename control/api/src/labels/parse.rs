// SPDX-License-Identifier: Apache-2.0
//! Reads the text form of label selectors: a tokenizer and one function for each grammar rule.

use super::{Operator, Requirement, Selector, SelectorError};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Comma,
    Open,
    Close,
    Not,
    /// `=` or `==`.
    Equals(&'a str),
    NotEquals,
    Greater,
    Less,
}

fn error(message: impl Into<String>) -> SelectorError {
    SelectorError {
        message: message.into(),
    }
}

/// What is wrong inside of one requirement, as Kubernetes' parser puts it.
fn in_requirement(inner: SelectorError) -> SelectorError {
    error(format!("unable to parse requirement: {}", inner.message))
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let special = |c: char| c.is_whitespace() || "(),!=<>".contains(c);
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, width) = match first {
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            '!' if rest[1..].starts_with('=') => (Token::NotEquals, 2),
            '!' => (Token::Not, 1),
            '=' if rest[1..].starts_with('=') => (Token::Equals("=="), 2),
            '=' => (Token::Equals("="), 1),
            _ => {
                let end = rest.find(special).unwrap_or(rest.len());
                (Token::Word(&rest[..end]), end)
            }
        };
        found.push(token);
        rest = rest[width..].trim_start();
    }
    found
}

pub(super) fn selector(text: &str) -> Result<Selector, SelectorError> {
    let tokens = tokens(text);
    let mut rest = tokens.as_slice();
    let mut requirements = Vec::new();
    while !rest.is_empty() {
        if let [other, ..] = rest
            && !matches!(other, Token::Word(_) | Token::Not)
        {
            return Err(error(format!(
                "found '{}', expected: !, identifier, or 'end of string'",
                show(other)
            )));
        }
        requirements.push(requirement(&mut rest).map_err(in_requirement)?);
        match rest {
            [] => {}
            [Token::Comma, Token::Word(_) | Token::Not, ..] => rest = &rest[1..],
            [Token::Comma, next, ..] => {
                return Err(error(format!(
                    "found '{}', expected: identifier after ','",
                    show(next)
                )));
            }
            [Token::Comma] => return Err(error("found '', expected: identifier after ','")),
            [other, ..] => {
                return Err(error(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    show(other)
                )));
            }
        }
    }
    Ok(Selector::All(requirements))
}

fn requirement(rest: &mut &[Token<'_>]) -> Result<Requirement, SelectorError> {
    const NONE: [&str; 0] = [];
    match *rest {
        [Token::Not, Token::Word(key), ..] => {
            *rest = &rest[2..];
            Requirement::new(*key, Operator::DoesNotExist, NONE)
        }
        [Token::Word(key)] | [Token::Word(key), Token::Comma, ..] => {
            *rest = &rest[1..];
            Requirement::new(*key, Operator::Exists, NONE)
        }
        [Token::Word(key), Token::Word(word @ ("in" | "notin")), ..] => {
            let operator = if *word == "in" {
                Operator::In
            } else {
                Operator::NotIn
            };
            *rest = &rest[2..];
            Requirement::new(*key, operator, values(rest)?)
        }
        [Token::Word(key), token, ..] => {
            let operator = match token {
                Token::Equals(_) => Operator::In,
                Token::NotEquals => Operator::NotIn,
                Token::Greater => Operator::GreaterThan,
                Token::Less => Operator::LessThan,
                other => {
                    return Err(error(format!(
                        "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                        show(other)
                    )));
                }
            };
            *rest = &rest[2..];
            // An empty value is written as nothing at all: `app=`.
            let value = match *rest {
                [Token::Word(value), ..] => {
                    *rest = &rest[1..];
                    *value
                }
                _ => "",
            };
            Requirement::new(*key, operator, [value])
        }
        // Behind a `!`: the caller has seen that a requirement begins here.
        [_, rest @ ..] => {
            let found = rest.first().map(show).unwrap_or_default();
            Err(error(format!("found '{found}', expected: identifier")))
        }
        [] => Err(error("found '', expected: identifier")),
    }
}

fn values<'a>(rest: &mut &[Token<'a>]) -> Result<Vec<&'a str>, SelectorError> {
    let [Token::Open, ..] = *rest else {
        let found = rest.first().map(show).unwrap_or_default();
        return Err(error(format!("found '{found}', expected: '('")));
    };
    *rest = &rest[1..];
    let mut found = Vec::new();
    loop {
        match *rest {
            [Token::Word(value), ..] => {
                found.push(*value);
                *rest = &rest[1..];
            }
            // `(a,)` and `(,a)` name the empty value, as in Kubernetes.
            [Token::Comma | Token::Close, ..] => found.push(""),
            _ => return Err(error("found '', expected: ',', ')' or identifier")),
        }
        match *rest {
            [Token::Comma, ..] => *rest = &rest[1..],
            [Token::Close, ..] => {
                *rest = &rest[1..];
                return Ok(found);
            }
            [other, ..] => {
                return Err(error(format!(
                    "found '{}', expected: ',' or ')'",
                    show(other)
                )));
            }
            [] => return Err(error("found '', expected: ',' or ')'")),
        }
    }
}

fn show(token: &Token<'_>) -> String {
    match token {
        Token::Word(word) => (*word).to_owned(),
        Token::Comma => ",".to_owned(),
        Token::Open => "(".to_owned(),
        Token::Close => ")".to_owned(),
        Token::Not => "!".to_owned(),
        Token::Equals(sign) => (*sign).to_owned(),
        Token::NotEquals => "!=".to_owned(),
        Token::Greater => ">".to_owned(),
        Token::Less => "<".to_owned(),
    }
}
