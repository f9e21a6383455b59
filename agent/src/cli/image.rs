// SPDX-License-Identifier: Apache-2.0
//! `knarr-agent image import|ls|rm`: works on the image store directly, whether or not an agent runs.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use knarr_runtime::ImageStore;
use knarr_runtime::image::Progress;

use crate::config::{ConfigError, RunOptions};

/// Arguments of `image`.
#[derive(Args)]
pub struct ImageArgs {
    /// The agent's configuration file (TOML); `data-dir` is taken from it.
    #[arg(long, global = true, env = "KNARR_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent's data directory. [default: /var/lib/knarr]
    #[arg(long, global = true, env = "KNARR_AGENT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Subcommand)]
enum ImageCommand {
    /// Import images from OCI layouts (directory or tar) and docker archives, plain, gzip or zstd.
    Import {
        /// What to import.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Name of an image that has none in its archive, or a new name for it.
        #[arg(long, value_name = "REFERENCE")]
        name: Option<String>,
    },
    /// List the images of this node.
    #[command(alias = "list")]
    Ls {
        /// Only names, one in a line.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove images.
    Rm {
        /// References or ids.
        #[arg(required = true, value_name = "REFERENCE")]
        references: Vec<String>,
    },
}

impl ImageArgs {
    /// What the agent of this machine was told, as far as it matters here.
    pub(super) fn options(&self) -> Result<RunOptions, ConfigError> {
        RunOptions {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            ..RunOptions::default()
        }
        .with_file()
    }
}

/// Runs it.
pub fn run(args: ImageArgs) -> anyhow::Result<()> {
    let data_dir = args.options()?.data_dir();
    let store = ImageStore::open(&data_dir)
        .with_context(|| format!("cannot open the images in {}", data_dir.display()))?;
    match args.command {
        ImageCommand::Import { files, name } => {
            for file in files {
                import(&store, &file, name.as_deref())?;
            }
            Ok(())
        }
        ImageCommand::Ls { quiet } => {
            list(&store, if quiet { Columns::Names } else { Columns::All })
        }
        ImageCommand::Rm { references } => {
            for reference in references {
                store.remove(&reference)?;
                println!("removed {reference}");
            }
            Ok(())
        }
    }
}

fn import(store: &ImageStore, file: &std::path::Path, name: Option<&str>) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |step: Progress| {
        if let (
            Progress::Layer {
                index,
                count,
                done_bytes,
                total_bytes,
            },
            true,
        ) = (step, terminal)
        {
            let percent = done_bytes.saturating_mul(100) / total_bytes.max(1);
            let mut out = std::io::stderr();
            // A progress line that cannot be written is no reason to stop.
            let _ = write!(out, "\rlayer {}/{count}: {percent:>3} %", index + 1);
            let _ = out.flush();
        }
    };
    let imported = store.import(file, name, &mut progress);
    if terminal {
        eprint!("\r\x1b[K");
    }
    for name in imported? {
        println!("imported {name}");
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Columns {
    Names,
    All,
}

fn list(store: &ImageStore, columns: Columns) -> anyhow::Result<()> {
    let images = store.list()?;
    let mut out = std::io::stdout().lock();
    if let Columns::All = columns {
        writeln!(out, "{:<56} {:<20} {:>10}", "IMAGE", "ID", "SIZE")?;
    }
    for image in images {
        for name in &image.names {
            match columns {
                Columns::Names => writeln!(out, "{name}")?,
                Columns::All => writeln!(
                    out,
                    "{:<56} {:<20} {:>10}",
                    name.to_string(),
                    image.id.get(..19).unwrap_or(&image.id),
                    human(image.size_bytes)
                )?,
            }
        }
    }
    Ok(())
}

fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
