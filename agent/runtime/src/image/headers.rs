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

/// A tar archive is made of blocks (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK_BYTES: u64 = 512;

/// Says what is read next.
#[derive(Clone)]
pub(super) struct Reading {
    state: Rc<State>,
}

struct State {
    /// How much more may be read.
    left: Cell<u64>,
    /// How much was read, and filled up.
    at: Cell<u64>,
    /// Up to there zeros stand in for what the stream lacks.
    filled_to: Cell<u64>,
}

impl Reading {
    /// The headers of one more entry.
    pub fn headers(&self) {
        self.state.left.set(HEADERS_BYTES_MAX);
    }

    /// As [`Reading::headers`], after all contents of an entry. Some writers end the archive right there, with neither the
    /// rest of the block nor an end marker, and containerd and Docker take it (Go's archive/tar, `Reader.next`).
    pub fn headers_after_contents(&self) {
        self.headers();
        let at = self.state.at.get();
        self.state.filled_to.set(at.next_multiple_of(BLOCK_BYTES));
    }

    /// Contents, which are nobody's memory.
    pub fn contents(&self) {
        self.state.left.set(u64::MAX);
    }

    /// How many bytes were read.
    pub fn position(&self) -> u64 {
        self.state.at.get()
    }
}

/// A stream that ends with an error where there are more headers than there may be.
pub(super) struct Bounded<R> {
    inner: R,
    state: Rc<State>,
}

impl<R> Bounded<R> {
    /// Begins with headers.
    pub fn new(inner: R) -> (Bounded<R>, Reading) {
        let state = Rc::new(State {
            left: Cell::new(HEADERS_BYTES_MAX),
            at: Cell::new(0),
            filled_to: Cell::new(0),
        });
        let reading = Reading {
            state: state.clone(),
        };
        (Bounded { inner, state }, reading)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let State {
            left,
            at,
            filled_to,
        } = &*self.state;
        let small = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let want = small(left.get()).min(buf.len());
        if want == 0 && !buf.is_empty() {
            return Err(io::Error::other(HeadersTooLarge));
        }
        let part = buf.get_mut(..want).unwrap_or_default();
        let mut n = self.inner.read(part)?;
        if n == 0 {
            n = small(filled_to.get().saturating_sub(at.get())).min(want);
            part.iter_mut().take(n).for_each(|byte| *byte = 0);
        }
        left.set(left.get() - n as u64);
        at.set(at.get() + n as u64);
        Ok(n)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
