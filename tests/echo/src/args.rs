// SPDX-License-Identifier: Apache-2.0
//! Arguments: words in order, and `--name value` pairs. A flag without a value is followed by another flag or nothing.

use std::collections::BTreeMap;
use std::str::FromStr;

/// What was given.
#[derive(Debug, Default)]
pub struct Args {
    /// In the order given.
    pub words: Vec<String>,
    flags: BTreeMap<String, String>,
}

impl Args {
    /// Splits flags from words. `--keep` style flags stand alone.
    pub fn parse(given: Vec<String>) -> Result<Self, String> {
        const ALONE: [&str; 2] = ["keep", "until-eof"];
        let mut args = Self::default();
        let mut given = given.into_iter();
        while let Some(word) = given.next() {
            match word.strip_prefix("--") {
                Some(name) if ALONE.contains(&name) => {
                    args.flags.insert(name.to_owned(), String::new());
                }
                Some(name) => {
                    let value = given
                        .next()
                        .ok_or_else(|| format!("--{name} wants a value"))?;
                    args.flags.insert(name.to_owned(), value);
                }
                None => args.words.push(word),
            }
        }
        Ok(args)
    }

    /// The value of a flag, or what stands for it.
    pub fn value<T: FromStr>(&self, name: &str, otherwise: T) -> Result<T, String> {
        match self.flags.get(name) {
            None => Ok(otherwise),
            Some(text) => text
                .parse()
                .map_err(|_| format!("--{name} {text} cannot be read")),
        }
    }

    /// Whether a flag that stands alone was given.
    pub fn has(&self, name: &str) -> bool {
        self.flags.contains_key(name)
    }

    /// The word at a place.
    pub fn word(&self, at: usize, what: &str) -> Result<&str, String> {
        self.words
            .get(at)
            .map(String::as_str)
            .ok_or_else(|| format!("{what} is missing; see `knarr-echo help`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Args {
        Args::parse(line.split_whitespace().map(str::to_owned).collect()).expect("it parses")
    }

    #[test]
    fn words_and_flags_may_be_mixed() {
        let args = parse("load 10.0.0.1:80 --rate 50 --keep /path");
        assert_eq!(args.words, ["load", "10.0.0.1:80", "/path"]);
        assert_eq!(args.value("rate", 1_u32), Ok(50));
        assert!(args.has("keep"));
        assert_eq!(args.value("seconds", 7_u64), Ok(7));
    }

    #[test]
    fn a_value_that_is_no_number_is_an_error() {
        assert!(parse("--rate many").value("rate", 1_u32).is_err());
    }
}
