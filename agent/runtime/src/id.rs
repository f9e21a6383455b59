// SPDX-License-Identifier: Apache-2.0
//! Identifiers of sandboxes. Called by `runtime` and `sandbox`.

use std::fs::File;
use std::io::{self, Read};

/// 64 random hexadecimal digits.
pub(crate) fn new_id() -> io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}
