// SPDX-License-Identifier: Apache-2.0
//! Container logs in CRI format: reading them for `kubectl logs`.
//!
//! Not here: writing (`logs/writer.rs`, used by the shim only). Called by the agent's log streams.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use knarr_base::blocking::run_or_fail;
use knarr_pod::{LogStream, LogTimestamps, Timestamp};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use reader::Reader;

mod reader;
pub(crate) mod writer;

/// What to read (core/v1 PodLogOptions).
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines written at or after this time.
    pub since: Option<Timestamp>,
    /// RFC 3339 time in front of each line.
    pub timestamps: LogTimestamps,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Go on when the end is reached, until this token says that the container is over: what is in the
    /// file by then is still delivered.
    pub follow_until: Option<CancellationToken>,
    /// Which of the container's streams.
    pub stream: LogStream,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such file.
    #[error("log file {0:?} does not exist")]
    NotFound(PathBuf),
    /// Reading.
    #[error("reading log file {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl LogError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
        let path = path.to_owned();
        move |source| LogError::Io { path, source }
    }
}

/// Opens a log ([`crate::Runtime::log_path`]) and streams its contents without CRI's prefixes, over
/// rotated files, oldest first. Dropping the stream ends the reading. Needs a tokio runtime.
pub fn read(
    path: PathBuf,
    query: LogQuery,
) -> impl futures::Stream<Item = Result<Bytes, LogError>> + Send + Unpin + 'static {
    let state = Step::Open(path, query);
    Box::pin(futures::stream::try_unfold(state, |state| state.next()))
}

/// The last bytes of the last lines of a log that nobody writes to any more. Blocking.
pub(crate) fn end(path: &Path, lines: u64, bytes_max: usize) -> Result<Vec<u8>, LogError> {
    let query = LogQuery {
        tail_lines: Some(lines),
        ..LogQuery::default()
    };
    let mut reader = Reader::open(path.to_owned(), &query)?;
    let mut kept = Vec::new();
    loop {
        let chunk = reader.chunk()?;
        if chunk.is_empty() {
            return Ok(kept);
        }
        kept.extend_from_slice(&chunk);
        kept.drain(..kept.len().saturating_sub(bytes_max));
    }
}

enum Step {
    Open(PathBuf, LogQuery),
    Reading(Box<Reading>),
    Over,
}

struct Reading {
    /// Away while a thread reads.
    reader: Option<Reader>,
    changes: Option<AsyncFd<OwnedFd>>,
    until: Option<CancellationToken>,
    path: PathBuf,
}

impl Step {
    async fn next(mut self) -> Result<Option<(Bytes, Step)>, LogError> {
        loop {
            self = match self {
                Step::Over => return Ok(None),
                Step::Open(path, query) => Step::Reading(Box::new(open(path, query).await?)),
                Step::Reading(mut reading) => {
                    // Asked before reading: what is written until the container is over is in the file
                    // by the time it is said to be over.
                    let last = reading.until.as_ref().is_none_or(|u| u.is_cancelled());
                    let Some(mut reader) = reading.reader.take() else {
                        return Ok(None);
                    };
                    let (reader, chunk) = run_or_fail(move || {
                        let chunk = reader.chunk();
                        Ok((reader, chunk))
                    })
                    .await
                    .map_err(LogError::io(&reading.path))?;
                    let (chunk, exhausted) = (chunk?, reader.is_exhausted());
                    reading.reader = Some(reader);
                    if !chunk.is_empty() {
                        let next = if exhausted {
                            Step::Over
                        } else {
                            Step::Reading(reading)
                        };
                        return Ok(Some((chunk, next)));
                    }
                    if last || exhausted {
                        return Ok(None);
                    }
                    reading.wait().await?;
                    Step::Reading(reading)
                }
            }
        }
    }
}

async fn open(path: PathBuf, query: LogQuery) -> Result<Reading, LogError> {
    let until = query.follow_until.clone();
    // The watch comes first, so that nothing is written unnoticed between reading and waiting.
    let changes = match &until {
        Some(_) => Some(watch(&path).map_err(LogError::io(&path))?),
        None => None,
    };
    let opened = path.clone();
    let reader = run_or_fail(move || Ok(Reader::open(opened, &query)))
        .await
        .map_err(LogError::io(&path))??;
    Ok(Reading {
        reader: Some(reader),
        changes,
        until,
        path,
    })
}

impl Reading {
    /// Until something was written or the container is over.
    async fn wait(&self) -> Result<(), LogError> {
        let (Some(changes), Some(until)) = (&self.changes, &self.until) else {
            return Ok(());
        };
        tokio::select! {
            // Dropping either arm loses nothing: the events stay readable, the token stays cancelled.
            () = until.cancelled() => Ok(()),
            ready = changes.readable() => {
                let mut ready = ready.map_err(LogError::io(&self.path))?;
                let mut events = [0; 4096];
                // Which event it was does not matter.
                while nix::unistd::read(changes.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
                ready.clear_ready();
                Ok(())
            }
        }
    }
}

fn watch(path: &Path) -> std::io::Result<AsyncFd<OwnedFd>> {
    use rustix::fs::inotify;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let what = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&fd, dir, what)?;
    crate::sys::async_fd(fd)
}

#[cfg(test)]
mod tests;
