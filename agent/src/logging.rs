// SPDX-License-Identifier: Apache-2.0
//! The agent's own log: lines on standard error, filtered by `--log`.

use crate::config::ConfigError;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What is logged where nobody says otherwise; dependencies only speak of trouble.
const FILTER_DEFAULT: &str = "info,h2=warn,hyper=warn,rustls=warn,tonic=warn,libcontainer=warn";

/// Starts logging. Later calls in one process (tests) change nothing.
pub fn init(filter: Option<&str>) -> Result<(), ConfigError> {
    let text = filter.unwrap_or(FILTER_DEFAULT);
    let filter = EnvFilter::try_new(text).map_err(|e| ConfigError::Value {
        option: "log",
        value: text.to_owned(),
        what: format!("is no tracing filter: {e}"),
    })?;
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
    Ok(())
}
