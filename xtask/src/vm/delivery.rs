// SPDX-License-Identifier: Apache-2.0
//! What is brought to a machine: the archive as `dist` packs it, kubectl and two images, in one tar file that the
//! machine reads from its second disk.
//!
//! The programs in the archive are those of the tests' compilation, without their debugging information: `dist` compiles
//! everything once more, with optimization across crates, which takes longer than all the checks. With
//! `KNARR_VM_DIST=1` the archive that `cargo xtask dist` made is taken.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

use super::folder;
use crate::{build, dist, images, paths, run, ui};

/// Set to anything, it makes the tier take the archive of `cargo xtask dist`.
const DIST: &str = "KNARR_VM_DIST";

/// Packs everything; the file's path.
pub fn pack() -> anyhow::Result<PathBuf> {
    let programs = build::programs(build::Build::Tested)?;
    let images = images::pack(&programs.echo)?;
    let step = ui::step("packing what the machines get");
    let archive = if std::env::var_os(DIST).is_some() {
        dist::archive_path()
    } else {
        let stripped = folder().join("programs");
        fs::create_dir_all(&stripped)?;
        for program in [&programs.control, &programs.agent] {
            let name = program.file_name().context("a program has a name")?;
            run::quiet(
                run::command("strip", ["--strip-debug", "-o"])
                    .arg(stripped.join(name))
                    .arg(program),
            )?;
        }
        dist::pack(&stripped, &folder().join("archive"), dist::Effort::Quick)?
    };
    let delivery = folder().join("delivery.tar");
    let mut tar = tar::Builder::new(fs::File::create(&delivery)?);
    let kubectl = paths::tools().join("kubectl");
    for file in images.iter().chain([&archive, &kubectl, &programs.echo]) {
        let name = file.file_name().context("a file has a name")?;
        tar.append_path_with_name(file, name)
            .with_context(|| format!("cannot pack {}", paths::show(file)))?;
    }
    tar.into_inner()?.sync_all()?;
    step.done();
    Ok(delivery)
}
