// SPDX-License-Identifier: Apache-2.0
//! The command line of `knarr-control`: what can be asked of it, logs, signals and exit codes.

mod api;
mod node;
mod token;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use knarr_base::signals::EndSignals;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat, Settings};
use crate::{Services, listen, run};

#[derive(Debug, Parser)]
#[command(
    name = "knarr-control",
    version,
    about = "The control plane of a Knarr cluster: API server, scheduler, controllers and store in one process",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Settings,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // One value in the life of the process.
enum Command {
    /// Runs the control plane (also what happens without a command)
    Serve(Settings),
    /// Makes, shows and deletes the tokens that machines join with; needs a running control plane
    Token {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        command: token::TokenCommand,
    },
    /// Takes nodes' certificates back; needs a running control plane
    Node {
        #[command(flatten)]
        access: Access,
        #[command(subcommand)]
        command: node::NodeCommand,
    },
    /// Prints the version
    Version,
}

/// Where the running control plane is found.
#[derive(Debug, Args)]
struct Access {
    /// The control plane's TOML file; `data-dir` and `server` are taken from it
    #[arg(long, env = "KNARR_CONTROL_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    /// The control plane's data directory, for its certificates [default: /var/lib/knarr-control]
    #[arg(
        long,
        env = "KNARR_CONTROL_DATA_DIR",
        value_name = "DIR",
        global = true
    )]
    data_dir: Option<PathBuf>,

    /// URL of the API server [default: where the control plane of the data directory serves]
    #[arg(long, env = "KNARR_CONTROL_SERVER", value_name = "URL", global = true)]
    server: Option<String>,
}

impl Access {
    /// What the control plane of this machine was told, as far as it matters here.
    fn settings(self) -> Result<Settings, ConfigError> {
        Settings {
            config: self.config,
            data_dir: self.data_dir,
            server: self.server,
            ..Settings::default()
        }
        .with_file()
    }
}

/// Runs what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    match command(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarr-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => serve(cli.serve),
        Some(Command::Serve(settings)) => serve(settings),
        Some(Command::Token { access, command }) => {
            let settings = access.settings()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(token::run(
                &settings.data_dir(),
                settings.server.as_deref(),
                command,
            ))
        }
        Some(Command::Node { access, command }) => {
            let settings = access.settings()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(node::run(
                &settings.data_dir(),
                settings.server.as_deref(),
                command,
            ))
        }
        Some(Command::Version) => {
            println!(
                "knarr-control {} (commit {})",
                env!("CARGO_PKG_VERSION"),
                crate::BUILD_COMMIT
            );
            Ok(())
        }
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    let settings = settings.with_file()?;
    init_logs(settings.log.as_deref(), settings.log_format)?;
    let handed_over = listen::handed_over()?;
    let config = settings.resolve(&listen::addresses(&handed_over))?;
    listen::allow_connections();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listeners = listen::listeners(&config.listen, handed_over)?;
        let shutdown = CancellationToken::new();
        let signals = tokio::spawn(cancel_on_signal(shutdown.clone())?);
        let result = run(config, Services { listeners }, shutdown).await;
        signals.abort();
        result.context("the control plane stopped")
    })
}

/// The first SIGTERM or SIGINT asks for an orderly end; a second one ends the process at once.
fn cancel_on_signal(
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut signals = EndSignals::catch()?;
    Ok(async move {
        for attempt in 0.. {
            let name = signals.next().await;
            if attempt > 0 {
                tracing::warn!("{name} again: ending at once");
                std::process::exit(1);
            }
            // First, because the log's reader may have ended already.
            shutdown.cancel();
            tracing::info!("{name}: shutting down");
        }
    })
}

fn init_logs(filter: Option<&str>, format: Option<LogFormat>) -> anyhow::Result<()> {
    let filter = filter.unwrap_or("info");
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter:?} is no level or filter"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // A line that cannot be written is lost; telling so on the same closed pipe would panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format.unwrap_or_default() {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
