// SPDX-License-Identifier: Apache-2.0
//! A certificate with its key. Made by `authority`, read by `files`.

use std::fmt;

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate_pem: String,
    /// The key, PKCS#8.
    pub key_pem: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must not reach a log.
        f.debug_struct("Pair")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}
