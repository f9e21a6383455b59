// SPDX-License-Identifier: Apache-2.0
//! `dist`: both programs, built for shipping, with their systemd units and licences in one archive.

use std::fs;
use std::path::Path;

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::{build, ebpf, paths, run, ui};

/// What is packed beside the programs.
const FILES: [&str; 8] = [
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "LICENSES.md",
    "LICENSES/GPL-2.0-only.txt",
    "deploy/systemd/knarr-control.service",
    "deploy/systemd/knarr-control.socket",
    "deploy/systemd/knarr-agent.service",
];

/// The command.
pub fn run() -> anyhow::Result<()> {
    ebpf::run()?;
    build::build(
        "both programs for shipping",
        &[
            "build",
            "--profile",
            "dist",
            "--package",
            "knarr-control",
            "--package",
            "knarr-agent",
        ],
        &[],
    )?;
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("knarr-{version}-{}-linux", std::env::consts::ARCH);
    let dist = paths::target().join("dist-archives");
    fs::create_dir_all(&dist)?;
    let archive = dist.join(format!("{name}.tar.gz"));
    let mut tar = tar::Builder::new(GzEncoder::new(
        fs::File::create(&archive)?,
        Compression::best(),
    ));
    for program in ["knarr-control", "knarr-agent"] {
        let path = paths::target().join("dist").join(program);
        add(&mut tar, &path, &format!("{name}/bin/{program}"), 0o755)?;
    }
    for file in FILES {
        let inside = Path::new(file)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        add(
            &mut tar,
            &paths::root().join(file),
            &format!("{name}/{inside}"),
            0o644,
        )?;
    }
    tar.into_inner()?.finish()?.sync_all()?;
    let digest = hex::encode(Sha256::digest(fs::read(&archive)?));
    fs::write(
        archive.with_extension("gz.sha256"),
        format!("{digest}  {name}.tar.gz\n"),
    )?;
    let listed = run::stdout(&mut run::command(
        "tar",
        ["--list", "--file", &archive.to_string_lossy()],
    ))?;
    ui::heading(&paths::show(&archive));
    for line in listed.lines() {
        ui::line(line);
    }
    Ok(())
}

fn add<W: std::io::Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    name: &str,
    mode: u32,
) -> anyhow::Result<()> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content.as_slice())
        .with_context(|| format!("cannot pack {name}"))
}
