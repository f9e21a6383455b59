// SPDX-License-Identifier: Apache-2.0
//! The images of a node: import, list, remove, and the unpacked layers that containers stand on.
//!
//! Not here: pulling from registries. Called by `knarr-agent image`, by the agent's pod workers and by
//! `Runtime`. The layout on disk is described in `image/store.rs`.

use std::path::{Path, PathBuf};

use knarr_pod::ImageConfig;

mod archive;
mod headers;
mod import;
mod layer;
mod layout;
mod manifest;
mod reference;
mod section;
mod source;
mod store;
mod text;

pub use reference::ImageName;

/// What to do about a file that is damaged.
const AGAIN: &str = "; save or copy it again";

/// An image that is on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:...` of the configuration.
    pub id: String,
    /// References that point to it, sorted.
    pub names: Vec<ImageName>,
    /// Configuration.
    pub config: ImageConfig,
    /// Bytes that the unpacked layers hold.
    pub size_bytes: u64,
    /// Unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
}

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The archive or layout is not what it should be. The text says where and how.
    #[error("{path:?}: {message}")]
    Invalid {
        /// The archive or layout.
        path: PathBuf,
        /// Where in it, and what is wrong.
        message: String,
    },
    /// Contents do not have the digest that the archive promises.
    #[error("{path:?}: {what} has digest {found}, expected {expected}{}", AGAIN)]
    Digest {
        /// The archive or layout.
        path: PathBuf,
        /// Which blob.
        what: String,
        /// As promised.
        expected: String,
        /// As computed.
        found: String,
    },
    /// Reading the source or writing to the store.
    #[error("{operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The disk is full. Nothing of the image was kept.
    #[error("no space left while unpacking {what} into {path:?}; nothing of it was kept")]
    NoSpace {
        /// Which layer.
        what: String,
        /// The store.
        path: PathBuf,
    },
    /// A reference that cannot be one.
    #[error("invalid image reference {reference:?}: {message}")]
    Reference {
        /// As given.
        reference: String,
        /// What is wrong.
        message: String,
    },
    /// No such image.
    #[error("image {0:?} is not present on this node")]
    NotFound(String),
    /// A container uses it.
    #[error("image {reference} is used by container {user}; remove the pod first")]
    InUse {
        /// As given.
        reference: String,
        /// POD_UID/CONTAINER.
        user: String,
    },
}

/// A step of an import, for a progress bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A layer is being read: bytes of the compressed layer so far, and in all.
    Layer {
        /// Counted from 0.
        index: usize,
        /// How many there are.
        count: usize,
        /// Bytes read.
        done_bytes: u64,
        /// Bytes to read.
        total_bytes: u64,
    },
    /// A layer was there already.
    Present {
        /// Counted from 0.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The image can be used.
    Image(ImageName),
}

/// Whether a text is `sha256:` and 64 digits, and therefore safe as a part of any path.
fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

pub(crate) use store::overlay;
pub use store::{ImageStore, ImagesStamp};

impl ImageError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
        let path = path.to_owned();
        move |source| ImageError::Io {
            operation,
            path,
            source,
        }
    }

    fn invalid(path: &Path, message: impl Into<String>) -> ImageError {
        ImageError::Invalid {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}
