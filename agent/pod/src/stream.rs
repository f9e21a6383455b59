// SPDX-License-Identifier: Apache-2.0
//! Which part of a container's output is asked for, and in which form (core/v1 PodLogOptions).

/// Whether each line begins with the time at which it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogTimestamps {
    /// No.
    #[default]
    Hidden,
    /// Yes.
    Shown,
}

/// Which lines of a log (PodLogOptions.stream).
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
