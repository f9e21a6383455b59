// SPDX-License-Identifier: Apache-2.0
//! The command line of `knarr-agent`.
//!
//! Not here: what the commands do. `shim` is dispatched before anything else, because it must run in a
//! process with one thread. Called by `main`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::RunOptions;

pub mod datapath;
pub mod image;
pub mod service;

/// Worker threads of the agent: work is waiting, and each thread costs memory.
const WORKER_THREADS: usize = 2;
/// Threads for blocking calls (files, starting shims); idle ones end by themselves. Links that are removed hold up as many
/// as the datapath removes at once, for tens of milliseconds each; pods that start meanwhile need others.
const BLOCKING_THREADS_MAX: usize = 32;
/// Stack of each thread, in bytes.
const THREAD_STACK_BYTES: usize = 1 << 20;

/// The node's part of Knarr: runs pods and carries Services.
#[derive(Parser)]
#[command(
    name = "knarr-agent",
    version,
    about,
    propagate_version = true,
    after_help = "The flags of the node, their environment variables and the configuration file: knarr-agent run --help"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent (needs root); all flags of the node are here.
    Run(Box<RunOptions>),
    /// Import, list and remove images.
    Image(image::ImageArgs),
    /// List, show and trace the Services that this node carries.
    Service(service::ServiceArgs),
    /// Check the eBPF maps of this node.
    Datapath(datapath::DatapathArgs),
    /// Print the version.
    Version,
    /// The process that holds one pod; started by the agent.
    #[command(hide = true)]
    Shim {
        /// For the runtime.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Runs the program.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|a| a == "shim") {
        return shim(args.into_iter().skip(2).collect());
    }
    let cli = Cli::parse_from(args);
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {}", knarr_base::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Shim { args } => Ok(shim(args)),
        Command::Version => {
            println!("knarr-agent {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Image(args) => image::run(args).map(|()| ExitCode::SUCCESS),
        Command::Service(args) => service::run(args).map(|()| ExitCode::SUCCESS),
        Command::Datapath(args) => datapath::run(args),
        Command::Run(options) => run(*options).map(|()| ExitCode::SUCCESS),
    }
}

/// No thread, no tokio, no log: the process is still the one that was executed.
fn shim(args: Vec<OsString>) -> ExitCode {
    let code = knarr_runtime::shim_main(args);
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(options: RunOptions) -> anyhow::Result<()> {
    knarr_base::memory::keep_together();
    let options = options.with_file()?;
    crate::logging::init(options.log.as_deref(), options.bpf_log.as_deref())?;
    let machine = crate::machine::Machine::examine(&options)?;
    runtime()?.block_on(async {
        let shutdown = crate::signals::shutdown()?;
        crate::run(options, machine, shutdown).await
    })
}

/// The agent's threads.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(THREAD_STACK_BYTES)
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests;
