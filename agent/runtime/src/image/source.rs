// SPDX-License-Identifier: Apache-2.0
//! Where images come from: documents and blobs by name.
//!
//! `archive` is a layout or an archive on the node's disk; a registry will be another source. Not here: what the files of a
//! layout mean (`layout`), the store (`import`).

use std::path::Path;

use super::section::Section;
use super::text::printable;
use super::{ImageError, ImageName};

/// A place that holds images.
pub(super) trait Source {
    /// What it is called in errors.
    fn path(&self) -> &Path;
    /// The images for this machine that it holds; at least one.
    fn images(&self) -> Result<Vec<Found>, ImageError>;
    /// A JSON document; none where there is none of that name.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError>;
    /// A blob; none where there is none of that name.
    fn blob(&self, name: &str) -> Result<Option<Blob>, ImageError>;
}

/// An image as found in the source.
pub(super) struct Found {
    /// What it is called there.
    pub names: Vec<ImageName>,
    /// File with the configuration, and its digest where the source promises one.
    pub config: (String, Option<String>),
    /// Files with layers, and their digests where the source promises them.
    pub layers: Vec<(String, Option<String>)>,
}

/// A file in it, readable from the start.
pub(super) struct Blob {
    pub file: Section,
    pub size: u64,
}

/// A document that must be there.
pub(super) fn required(source: &dyn Source, file: &str) -> Result<Vec<u8>, ImageError> {
    source.document(file)?.ok_or_else(|| missing(source, file))
}

/// A document or blob is not there.
pub(super) fn missing(source: &dyn Source, file: &str) -> ImageError {
    ImageError::invalid(source.path(), format!("{} is missing", printable(file)))
}

/// Reads a document.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    source: &dyn Source,
    file: &str,
    bytes: &[u8],
) -> Result<T, ImageError> {
    // The reason may quote what stands where another value should.
    serde_json::from_slice(bytes).map_err(|e| {
        let reason = printable(&e.to_string());
        ImageError::invalid(source.path(), format!("{}: {reason}", printable(file)))
    })
}

/// Compares contents with the digest that was promised for them.
pub(super) fn check(
    source: &dyn Source,
    what: &str,
    expected: &str,
    found: &[u8],
) -> Result<(), ImageError> {
    let found = format!("sha256:{}", hex::encode(found));
    if found == expected {
        return Ok(());
    }
    Err(ImageError::Digest {
        path: source.path().to_owned(),
        what: printable(what),
        expected: printable(expected),
        found,
    })
}
