// SPDX-License-Identifier: Apache-2.0
//! Finds the sources of a build dependency.
//!
//! Cargo has them unpacked, because it compiles the dependency; it does not tell a build script where. The registry's
//! folder is looked at first. `cargo metadata` knows vendored and replaced sources too, but it fails where packages
//! that this build does not need were never downloaded.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The `src` folder of a package in the lock file.
pub fn package_source(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    if let Some(version) = locked_version(&here, name)
        && let Some(folder) = in_registry(&format!("{name}-{version}"))
    {
        return Ok(folder.join("src"));
    }
    let manifest = manifest_by_metadata(&here, name)?;
    let folder = manifest.parent().ok_or("a manifest has a folder")?;
    Ok(folder.join("src"))
}

/// The version that `Cargo.lock` names.
fn locked_version(here: &Path, name: &str) -> Option<String> {
    let lock = here
        .ancestors()
        .find_map(|folder| fs::read_to_string(folder.join("Cargo.lock")).ok())?;
    let entry = format!("name = \"{name}\"");
    let mut lines = lock.lines().skip_while(|line| *line != entry);
    let version = lines.nth(1)?.strip_prefix("version = \"")?;
    Some(version.strip_suffix('"')?.to_owned())
}

/// Below `registry/src` there is one folder for each registry.
fn in_registry(package: &str) -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    registries
        .flatten()
        .map(|registry| registry.path().join(package))
        .find(|folder| folder.join("src").is_dir())
}

fn manifest_by_metadata(here: &Path, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        // Without it cargo wants the sources of packages that only other systems need.
        .args(["--filter-platform", &env::var("HOST")?, "--manifest-path"])
        .arg(here.join("Cargo.toml"))
        .output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!(
            "the sources of {name} are not in cargo's registry folder, and cargo metadata failed \
             (`cargo fetch` may help): {message}"
        )
        .into());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .filter(|package| package["name"] == name)
        .find_map(|package| package["manifest_path"].as_str());
    Ok(manifest
        .ok_or_else(|| format!("{name} is no dependency of knarr-schema"))?
        .into())
}
