// SPDX-License-Identifier: Apache-2.0
//! Carries the programs' own lines (aya-log) into `tracing`. Only used when asked for; otherwise the
//! lines are no part of the loaded programs.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

use crate::error::DatapathError;
use crate::sys;

/// Hands lines of the `log` crate's shape to `tracing`.
#[derive(Clone, Copy, Debug)]
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: "knarr_ebpf", "{line}"),
            Level::Warn => tracing::warn!(target: "knarr_ebpf", "{line}"),
            Level::Info => tracing::info!(target: "knarr_ebpf", "{line}"),
            Level::Debug | Level::Trace => tracing::debug!(target: "knarr_ebpf", "{line}"),
        }
    }

    fn flush(&self) {}
}

/// Runs until dropped.
pub(crate) async fn forward(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    task(ebpf)?.await
}

/// The future that forwards; it owns what it needs.
pub(crate) fn task(
    ebpf: &mut Ebpf,
) -> Result<impl Future<Output = Result<(), DatapathError>> + use<>, DatapathError> {
    let logger = EbpfLogger::init_with_logger(ebpf, ToTracing)
        .map_err(|error| log_error(io::Error::other(error)))?;
    Ok(async move {
        let mut logger = sys::async_fd(logger).map_err(log_error)?;
        loop {
            let mut ready = logger.readable_mut().await.map_err(log_error)?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    })
}

fn log_error(source: io::Error) -> DatapathError {
    DatapathError::Map {
        action: "read log lines from",
        map: "AYA_LOGS",
        source,
    }
}
