// SPDX-License-Identifier: Apache-2.0
//! A bound on what a tar archive may say before one entry: long names, extended attributes, maps of sparse files.
//! The `tar` crate keeps all of it in memory, and some kilobytes of a compressed layer can be gigabytes of that.
//!
//! Used by `layer` and `archive` between a stream and the crate.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

/// What one entry's headers may have, all together. Names have 4 KiB (PATH_MAX), an extended attribute 64 KiB,
/// and no file has many.
const HEADERS_BYTES_MAX: u64 = 1 << 20;

/// There is more.
#[derive(Debug, thiserror::Error)]
#[error("the headers of one entry are larger than {HEADERS_BYTES_MAX} bytes, which no file needs")]
pub(super) struct HeadersTooLarge;

impl HeadersTooLarge {
    /// Whether this is why reading failed.
    pub fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|e| e.is::<HeadersTooLarge>())
    }
}

/// Says what is read next.
#[derive(Clone)]
pub(super) struct Reading {
    left: Rc<Cell<u64>>,
}

impl Reading {
    /// The headers of one more entry.
    pub fn headers(&self) {
        self.left.set(HEADERS_BYTES_MAX);
    }

    /// Contents, which are nobody's memory.
    pub fn contents(&self) {
        self.left.set(u64::MAX);
    }
}

/// A stream that ends with an error where there are more headers than there may be.
pub(super) struct Bounded<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R> Bounded<R> {
    /// Begins with headers.
    pub fn new(inner: R) -> (Bounded<R>, Reading) {
        let left = Rc::new(Cell::new(HEADERS_BYTES_MAX));
        let reading = Reading { left: left.clone() };
        (Bounded { inner, left }, reading)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 && !buf.is_empty() {
            return Err(io::Error::other(HeadersTooLarge));
        }
        let n = self.inner.read(buf.get_mut(..want).unwrap_or_default())?;
        self.left.set(left - n as u64);
        Ok(n)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
