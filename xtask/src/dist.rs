// SPDX-License-Identifier: Apache-2.0
//! `dist`: both programs, built for shipping, with their systemd units and licences in one archive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::{build, ebpf, paths, run, ui};

/// What is packed beside the programs.
const FILES: [&str; 14] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "LICENSES.md",
    "LICENSES/GPL-2.0-only.txt",
    "docs/flags.md",
    "docs/roadmap.md",
    "docs/benchmarks.md",
    "docs/adr",
    "deploy/systemd/knarr-control.service",
    "deploy/systemd/knarr-control.socket",
    "deploy/systemd/knarr-agent.service",
    "deploy/sysusers.d/knarr-control.conf",
];

/// Units and the user's file lie at the top of the archive, where the README installs them from; whatever else keeps its place, so that links
/// between the pages lead somewhere.
fn place(file: &str) -> &str {
    ["deploy/systemd/", "deploy/sysusers.d/"]
        .iter()
        .find_map(|folder| file.strip_prefix(folder))
        .unwrap_or(file)
}

/// The command.
pub fn run() -> anyhow::Result<()> {
    ebpf::run()?;
    let source = source()?;
    let environment: Vec<(&str, &str)> = source
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
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
        &environment,
    )?;
    let archive = pack(
        &paths::target().join("dist"),
        &paths::target().join("dist-archives"),
        Effort::Best,
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

/// What the programs say about their source (see `control/build.rs`): commit, whether it is all of the source, and its
/// time. What a packager has set stays; without git there is nothing to say.
fn source() -> anyhow::Result<Vec<(&'static str, String)>> {
    if std::env::var_os("KNARR_GIT_COMMIT").is_some() || !paths::root().join(".git").exists() {
        return Ok(Vec::new());
    }
    let git = |arguments: &[&str]| {
        let mut command = run::command("git", arguments.iter().copied());
        run::stdout(command.current_dir(paths::root())).map(|text| text.trim().to_owned())
    };
    let state = match git(&["status", "--porcelain"])?.as_str() {
        "" => "clean",
        _ => "dirty",
    };
    let mut source = vec![
        ("KNARR_GIT_COMMIT", git(&["rev-parse", "HEAD"])?),
        ("KNARR_GIT_TREE_STATE", state.to_owned()),
    ];
    if std::env::var_os("SOURCE_DATE_EPOCH").is_none() {
        let seconds = git(&["show", "--no-patch", "--format=%ct", "HEAD"])?;
        source.push(("SOURCE_DATE_EPOCH", seconds));
    }
    Ok(source)
}

/// How hard the archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// For an archive that is unpacked once, on this machine.
    Quick,
    /// For an archive that is shipped.
    Best,
}

/// The archive that the command makes.
pub fn archive_path() -> PathBuf {
    paths::target()
        .join("dist-archives")
        .join(format!("{}.tar.gz", archive_name()))
}

fn archive_name() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("knarr-{version}-{}-linux", std::env::consts::ARCH)
}

/// Packs the programs in the folder `programs`, and what belongs to them, into an archive in `into`, with its digest
/// beside it as `sha256sum --check` reads it. The archive's path.
pub fn pack(programs: &Path, into: &Path, effort: Effort) -> anyhow::Result<PathBuf> {
    let name = archive_name();
    fs::create_dir_all(into)?;
    let archive = into.join(format!("{name}.tar.gz"));
    // An archive that is not finished has no name that looks as if it were.
    let unfinished = archive.with_extension("gz.unfinished");
    let mut tar = tar::Builder::new(GzEncoder::new(
        fs::File::create(&unfinished)?,
        match effort {
            Effort::Quick => Compression::fast(),
            Effort::Best => Compression::best(),
        },
    ));
    for program in ["knarr-control", "knarr-agent"] {
        let inside = format!("{name}/bin/{program}");
        add(&mut tar, &programs.join(program), &inside, 0o755)?;
    }
    for file in files()? {
        let inside = format!("{name}/{}", place(&file));
        add(&mut tar, &paths::root().join(&file), &inside, 0o644)?;
    }
    tar.into_inner()?.finish()?.sync_all()?;
    fs::rename(&unfinished, &archive)?;
    let digest = hex::encode(Sha256::digest(fs::read(&archive)?));
    fs::write(
        archive.with_extension("gz.sha256"),
        format!("{digest}  {name}.tar.gz\n"),
    )?;
    Ok(archive)
}

/// [`FILES`], with the pages of a folder in its stead.
fn files() -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    for file in FILES {
        let path = paths::root().join(file);
        if !path.is_dir() {
            files.push(file.to_owned());
            continue;
        }
        for entry in fs::read_dir(&path)? {
            files.push(format!("{file}/{}", entry?.file_name().to_string_lossy()));
        }
    }
    files.sort();
    Ok(files)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_unpacks_to_programs_that_run_and_what_they_need() {
        let dir = tempfile::tempdir().expect("a folder");
        let in_dir = |words: &[&str]| {
            run::stdout(run::command(words[0], &words[1..]).current_dir(dir.path()))
                .expect("it runs")
        };
        for program in ["knarr-control", "knarr-agent"] {
            let script = format!("#!/bin/sh\necho {program} \"$@\"\n");
            fs::write(dir.path().join(program), script).expect("a program");
        }

        let archive = pack(dir.path(), dir.path(), Effort::Best).expect("packed");

        let name = archive
            .file_name()
            .and_then(|n| n.to_str())
            .expect("a name");
        in_dir(&[
            "sha256sum",
            "--check",
            "--strict",
            &format!("{name}.sha256"),
        ]);
        in_dir(&["tar", "--extract", "--file", name]);
        let unpacked = name.strip_suffix(".tar.gz").expect("a compressed tar");
        for program in ["knarr-control", "knarr-agent"] {
            let said = in_dir(&[&format!("{unpacked}/bin/{program}"), "--version"]);
            assert_eq!(said, format!("{program} --version\n"));
            let unit = fs::read_to_string(dir.path().join(format!("{unpacked}/{program}.service")))
                .expect("a unit");
            assert!(
                unit.contains(&format!("/usr/local/bin/{program}")),
                "{unit}"
            );
        }
    }

    #[test]
    fn what_the_readme_links_to_is_in_the_archive() {
        let packed: Vec<String> = files()
            .expect("files")
            .iter()
            .map(|f| place(f).to_owned())
            .collect();
        let readme = fs::read_to_string(paths::root().join("README.md")).expect("README");
        let links = readme
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let mut seen = 0;
        for link in links.filter(|link| !link.contains("://")) {
            seen += 1;
            assert!(
                packed.iter().any(|file| file.starts_with(link)),
                "{link} is not in {packed:?}"
            );
        }
        assert!(seen > 0, "the README links to nothing");
        for unit in ["knarr-agent.service", "knarr-control.service"] {
            assert!(
                packed.iter().any(|file| file == unit),
                "{unit} is not in {packed:?}"
            );
        }
    }
}
