// SPDX-License-Identifier: Apache-2.0
//! Values that must not appear in a log, a panic or a failed assertion: their `Debug` says only that they
//! are there. Used by the plans and by the agent's settings.

use serde::Deserialize;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// What is printed in the place of a secret.
const HIDDEN: &str = "[hidden]";

/// A text that only [`Secret::reveal`] shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Secret, Infallible> {
        Ok(Secret(text.to_owned()))
    }
}

/// `NAME=VALUE` pairs without their values.
pub(crate) struct EnvNames<'a>(pub &'a [String]);

impl fmt::Debug for EnvNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|pair| {
            let name = pair.split_once('=').map_or(pair.as_str(), |(name, _)| name);
            format!("{name}={HIDDEN}")
        });
        f.debug_list().entries(names).finish()
    }
}

/// Bytes by their number.
pub(crate) struct Size(pub usize);

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes hidden]", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_only_when_asked_for() {
        let secret: Secret = "abcdef.0123".parse().expect("any text");
        assert_eq!(format!("{:?}", Some(&secret)), "Some([hidden])");
        assert_eq!(secret.reveal(), "abcdef.0123");
    }

    #[test]
    fn of_an_environment_only_names_are_shown() {
        let env = ["PATH=/bin".to_owned(), "PASSWORD=hunter=2".to_owned()];
        assert_eq!(
            format!("{:?}", EnvNames(&env)),
            "[\"PATH=[hidden]\", \"PASSWORD=[hidden]\"]"
        );
    }
}
