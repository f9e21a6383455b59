// SPDX-License-Identifier: Apache-2.0
//! A blob as a part of a file on the node's disk, and how it is packed. Made by sources, read by `import`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A part of a file. Does not move the file's own position, so parts can be read side by side.
pub(super) struct Section {
    /// The file.
    pub file: Arc<File>,
    /// Where the next read begins.
    pub at: u64,
    /// Where the part ends.
    pub end: u64,
}

impl Section {
    /// How its contents are packed. Does not move the position.
    pub fn packing(&self) -> io::Result<Packing> {
        let mut start = [0_u8; 4];
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let part = start.get_mut(..left.min(4)).unwrap_or_default();
        let n = self.file.read_at(part, self.at)?;
        Ok(Packing::of(part.get(..n).unwrap_or_default()))
    }
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.at);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let Some(part) = buf.get_mut(..want) else {
            return Ok(0);
        };
        let n = self.file.read_at(part, self.at)?;
        if n == 0 && want > 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// How a stream is packed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Looks at the first bytes.
    pub fn of(start: &[u8]) -> Packing {
        if start.starts_with(&[0x1f, 0x8b]) {
            Packing::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable(start) {
            Packing::Zstd
        } else {
            Packing::Plain
        }
    }

    /// Unpacks a stream.
    pub fn reader<'a>(self, inner: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Packing::Plain => Box::new(inner),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(inner)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(inner)?),
        })
    }
}

/// A zstd frame without contents, with which a stream may begin (RFC 8878, 3.1.2).
fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}
