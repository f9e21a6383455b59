// SPDX-License-Identifier: Apache-2.0
//! The agent's own log: lines on standard error, filtered by `--log`; those of the kernel programs by `--bpf-log`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::ConfigError;

/// What is logged where nobody says otherwise; dependencies only speak of trouble.
const FILTER_DEFAULT: &str = "info,h2=warn,hyper=warn,rustls=warn,tonic=warn,libcontainer=warn";

/// Where the lines of the kernel programs come from, as aya-log names it: their crate.
const PROGRAMS: &str = "knarr_ebpf";

/// Starts logging. `programs` is the level that the kernel programs were asked to write. Later calls in one process
/// (tests) change nothing.
pub fn init(filter: Option<&str>, programs: Option<&str>) -> Result<(), ConfigError> {
    let text = &text(filter, programs);
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

/// What the programs were asked for is let through, unless the filter says something about them itself.
fn text(filter: Option<&str>, programs: Option<&str>) -> String {
    let text = filter.unwrap_or(FILTER_DEFAULT);
    match programs {
        Some(level @ ("warn" | "debug")) if !text.contains(PROGRAMS) => {
            format!("{text},{PROGRAMS}={level}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_the_programs_are_asked_for_are_let_through() {
        assert_eq!(text(None, None), FILTER_DEFAULT);
        assert_eq!(text(Some("info"), Some("off")), "info");
        assert_eq!(text(Some("warn"), Some("debug")), "warn,knarr_ebpf=debug");
        let own = "info,knarr_ebpf=warn";
        assert_eq!(text(Some(own), Some("debug")), own);
    }
}
