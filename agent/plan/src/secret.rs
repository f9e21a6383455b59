// SPDX-License-Identifier: Apache-2.0
//! Values that must not appear in a log, a panic or a failed assertion: their `Debug` says only that they
//! are there. Used by the plans and by the agent's settings.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

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
}
