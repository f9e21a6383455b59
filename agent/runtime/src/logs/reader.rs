// SPDX-License-Identifier: Apache-2.0
//! Reads a log and its rotated files as one, from the wanted place on.
//!
//! Blocking, no waiting: at the end it says so, and can be asked again. Called by `logs` only.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use knarr_pod::{LogStream, LogTimestamps, Timestamp};

use super::writer::rotated_files;
use super::{LogError, LogQuery};

/// Read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// An entry is a line of at most 16 KiB and its prefix; more is no CRI log, and is passed on as it is.
const ENTRY_BYTES_MAX: usize = 64 << 10;

/// See the module's comment.
pub(super) struct Reader {
    path: PathBuf,
    file: File,
    /// The beginning of an entry whose end is not written yet.
    rest: Vec<u8>,
    since: Option<Timestamp>,
    timestamps: LogTimestamps,
    stream: LogStream,
    left_bytes: Option<u64>,
    /// The next entry begins a line, so it may get a time in front.
    at_line_start: bool,
}

impl Reader {
    /// Finds where to begin.
    pub fn open(path: PathBuf, query: &LogQuery) -> Result<Reader, LogError> {
        let file = start(&path, query.tail_lines).map_err(|e| match e.kind() {
            ErrorKind::NotFound => LogError::NotFound(path.clone()),
            _ => LogError::io(&path)(e),
        })?;
        Ok(Reader {
            path,
            file,
            rest: Vec::new(),
            since: query.since,
            timestamps: query.timestamps,
            stream: query.stream,
            left_bytes: query.limit_bytes,
            at_line_start: true,
        })
    }

    /// Whether the query wants no more bytes.
    pub fn is_exhausted(&self) -> bool {
        self.left_bytes == Some(0)
    }

    /// What comes next; empty at the end of what is written so far.
    pub fn chunk(&mut self) -> Result<Bytes, LogError> {
        let path = self.path.clone();
        let mut out = Vec::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        while out.is_empty() && !self.is_exhausted() {
            let n = self.file.read(&mut buffer).map_err(LogError::io(&path))?;
            if n > 0 {
                self.rest
                    .extend_from_slice(buffer.get(..n).unwrap_or_default());
                self.entries(&mut out);
            } else if !self.advance().map_err(LogError::io(&path))? {
                break;
            }
        }
        if let Some(left) = &mut self.left_bytes {
            let take = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len());
            out.truncate(take);
            *left -= take as u64;
        }
        Ok(Bytes::from(out))
    }

    /// At the end of a file that was rotated away: goes on with the next. False at the end of the last.
    fn advance(&mut self) -> io::Result<bool> {
        let own = self.file.metadata()?.ino();
        match std::fs::metadata(&self.path) {
            Ok(current) if current.ino() == own => return Ok(false),
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        }
        // Lines may have come between the last read and the rotation, none after it.
        let at = self.file.stream_position()?;
        if self.file.metadata()?.len() > at {
            return Ok(true);
        }
        let mut files = rotated_files(&self.path)?;
        files.push(self.path.clone());
        let inode = |path: &PathBuf| std::fs::metadata(path).map(|m| m.ino()).ok();
        // A file that was deleted was older than all that are left.
        let next = files.iter().position(|f| inode(f) == Some(own));
        let next = next.map_or(0, |at| at + 1);
        match files.get(next).map(File::open) {
            Some(Ok(file)) => {
                self.file = file;
                Ok(true)
            }
            // It was rotated at this moment: the list is made anew.
            Some(Err(e)) if e.kind() == ErrorKind::NotFound => Ok(true),
            Some(Err(e)) => Err(e),
            None => Ok(false),
        }
    }

    /// Takes the complete entries off what was read.
    fn entries(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        let mut begin = 0;
        while let Some(len) = rest
            .get(begin..)
            .and_then(|tail| tail.iter().position(|b| *b == b'\n'))
        {
            self.entry(rest.get(begin..begin + len).unwrap_or_default(), out);
            begin += len + 1;
        }
        let tail = rest.get(begin..).unwrap_or_default();
        if tail.len() > ENTRY_BYTES_MAX {
            out.extend_from_slice(tail);
        } else {
            self.rest = tail.to_vec();
        }
    }

    fn entry(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (time, stream) = (fields.next().unwrap_or_default(), fields.next());
        let (Some(stream), Some(tag), Some(text)) = (stream, fields.next(), fields.next()) else {
            // Not CRI: somebody else wrote it, and hiding it would help nobody.
            out.extend_from_slice(line);
            out.push(b'\n');
            return;
        };
        let wanted = match self.stream {
            LogStream::All => true,
            LogStream::Stdout => stream == b"stdout",
            LogStream::Stderr => stream == b"stderr",
        };
        if !wanted {
            return;
        }
        if let Some(since) = self.since {
            let at = std::str::from_utf8(time).ok().and_then(Timestamp::parse);
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        if self.timestamps == LogTimestamps::Shown && self.at_line_start {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        // Tags may be followed by more, after a colon.
        self.at_line_start = !tag.starts_with(b"P");
        if self.at_line_start {
            out.push(b'\n');
        }
    }
}

/// The file to begin with, at the place to begin at.
fn start(path: &Path, tail_lines: Option<u64>) -> io::Result<File> {
    let mut files = rotated_files(path)?;
    if path.exists() || files.is_empty() {
        files.push(path.to_owned());
    }
    let Some(mut left) = tail_lines else {
        let oldest = files.first().map_or(path, PathBuf::as_path);
        return File::open(oldest);
    };
    let mut files = files.iter().rev().peekable();
    while let Some(file) = files.next() {
        let mut file = File::open(file)?;
        match tail(&file, left)? {
            Tail::At(at) => {
                file.seek(SeekFrom::Start(at))?;
                return Ok(file);
            }
            Tail::Fewer(_) if files.peek().is_none() => return Ok(file),
            Tail::Fewer(lines) => left -= lines,
        }
    }
    File::open(path)
}

enum Tail {
    /// The last lines begin here.
    At(u64),
    /// There are only so many.
    Fewer(u64),
}

/// Looks for the beginning of the last lines, from the end.
fn tail(file: &File, lines: u64) -> io::Result<Tail> {
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok(Tail::At(end));
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut newlines = 0;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK_BYTES as u64);
        let len = usize::try_from(end - begin).map_err(io::Error::other)?;
        let part = buffer.get_mut(..len).unwrap_or_default();
        file.read_exact_at(part, begin)?;
        for (at, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' {
                newlines += 1;
                // The newline that ends the line before the wanted ones.
                if newlines == lines + 1 {
                    return Ok(Tail::At(begin + at as u64 + 1));
                }
            }
        }
        end = begin;
    }
    Ok(if newlines == lines {
        Tail::At(0)
    } else {
        Tail::Fewer(newlines)
    })
}
