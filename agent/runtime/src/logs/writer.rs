// SPDX-License-Identifier: Apache-2.0
//! Writes one container's log in CRI format and rotates it.
//!
//! `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; P marks a piece of a line that goes on in the next
//! entry. Format: kubernetes/cri-api, `docs/logging`; rotated names as kubelet's, with more digits.
//! Used by the shim only. A full disk loses lines, it never stops the container.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use knarr_pod::LogPolicy;
use knarr_pod::Timestamp;

/// Longer lines are written in pieces (containerd's max_container_log_line_size).
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// Which stream a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// An open log.
pub(crate) struct LogWriter {
    path: PathBuf,
    policy: LogPolicy,
    file: Option<File>,
    size: u64,
    /// Lines waiting to be written together.
    buffer: Vec<u8>,
}

/// The unfinished line of one stream.
#[derive(Default)]
pub(crate) struct Pending(Vec<u8>);

impl LogWriter {
    /// Makes the file and its directory.
    pub fn open(path: PathBuf, policy: LogPolicy) -> io::Result<LogWriter> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut writer = LogWriter {
            path,
            policy,
            file: None,
            size: 0,
            buffer: Vec::new(),
        };
        writer.reopen()?;
        Ok(writer)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = File::options().create(true).append(true).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes what was read from a stream; complete lines are written before this returns.
    pub fn write(&mut self, stream: Stream, pending: &mut Pending, mut data: &[u8]) {
        let now = crate::clock::now().rfc3339();
        while !data.is_empty() {
            let newline = data.iter().position(|b| *b == b'\n');
            let room = LINE_BYTES_MAX - pending.0.len();
            let take = newline.unwrap_or(data.len()).min(room);
            let (piece, rest) = data.split_at(take);
            if newline == Some(take) {
                self.line(&now, stream, 'F', &pending.0, piece);
                pending.0.clear();
                data = rest.get(1..).unwrap_or_default();
            } else if take == room {
                self.line(&now, stream, 'P', &pending.0, piece);
                pending.0.clear();
                data = rest;
            } else {
                pending.0.extend_from_slice(piece);
                data = rest;
            }
        }
        self.flush();
        // A long line should not cost every container 16 KiB for ever.
        pending.0.shrink_to(1024);
    }

    /// Writes what is left of a stream that ended without a newline.
    pub fn end(&mut self, stream: Stream, pending: &mut Pending) {
        if !pending.0.is_empty() {
            let now = crate::clock::now().rfc3339();
            self.line(&now, stream, 'P', &pending.0, &[]);
            pending.0 = Vec::new();
            self.flush();
        }
    }

    fn line(&mut self, now: &str, stream: Stream, tag: char, start: &[u8], end: &[u8]) {
        let before = self.buffer.len();
        // Writing to memory cannot fail.
        let _ = write!(self.buffer, "{now} {} {tag} ", stream.as_str());
        self.buffer.extend_from_slice(start);
        self.buffer.extend_from_slice(end);
        self.buffer.push(b'\n');
        let after = self.size + self.buffer.len() as u64;
        if after > self.policy.file_bytes_max && self.size + before as u64 > 0 {
            let line = self.buffer.split_off(before);
            self.flush();
            // If it fails the file just grows: losing lines would be worse.
            let _ = self.rotate();
            self.buffer = line;
        }
    }

    fn flush(&mut self) {
        if self.file.is_none() {
            let _ = self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(&self.buffer).is_ok()
        {
            self.size += self.buffer.len() as u64;
        }
        self.buffer.clear();
        self.buffer.shrink_to(4096);
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut target = self.path.clone().into_os_string();
        target.push(format!(".{}", suffix(crate::clock::now())));
        std::fs::rename(&self.path, &target)?;
        self.file = None;
        self.reopen()?;
        let keep = usize::try_from(self.policy.files_max.max(2) - 1).unwrap_or(1);
        let rotated = rotated_files(&self.path)?;
        let surplus = rotated.len().saturating_sub(keep);
        for old in rotated.into_iter().take(surplus) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// Removes the logs of all attempts but this one and the one before it, which `kubectl logs --previous` shows. A container
/// that fails for months would fill the disk.
pub(crate) fn remove_earlier(path: &Path, attempt: u32) -> io::Result<()> {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        found.extend(attempt_of(&entry.file_name().to_string_lossy()).map(|n| (n, entry.path())));
    }
    let earlier = found.iter().map(|(n, _)| *n).filter(|n| *n < attempt);
    let previous = earlier.max();
    for (n, path) in found {
        if n < attempt && Some(n) != previous {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Whose log a file is: `3.log`, or a rotated `3.log.20260102-030405.000006`.
fn attempt_of(name: &str) -> Option<u32> {
    let (attempt, rest) = name.split_once('.')?;
    let is_log = rest == "log" || rest.starts_with("log.");
    is_log.then(|| attempt.parse().ok()).flatten()
}

/// `20260102-030405.000006`: sorts by time.
fn suffix(at: Timestamp) -> String {
    let text = at.rfc3339();
    let digits: String = text.chars().filter(char::is_ascii_digit).take(20).collect();
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default();
    format!("{}-{}.{}", part(0..8), part(8..14), part(14..20))
}

/// The rotated files of a log, oldest first.
pub(crate) fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests;
