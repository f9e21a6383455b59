// SPDX-License-Identifier: Apache-2.0
//! A long body in pieces, so that the bytes of objects are sent without a copy of the whole.

use bytes::{Bytes, BytesMut};

/// Bytes that go into one piece of a body.
const PIECE_BYTES: usize = 64 * 1024;

/// A body that grows.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    full: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    /// Appends a copy of a few bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
    }

    /// Appends bytes; many of them become a piece of their own.
    pub(crate) fn put_whole(&mut self, bytes: Bytes) {
        if self.open.len() + bytes.len() > PIECE_BYTES {
            self.close();
        }
        if bytes.len() > PIECE_BYTES {
            self.full.push(bytes);
        } else {
            self.open.extend_from_slice(&bytes);
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.full.push(self.open.split().freeze());
        }
    }

    /// The pieces in their order; none is empty.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.full
    }
}
