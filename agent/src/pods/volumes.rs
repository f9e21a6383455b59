// SPDX-License-Identifier: Apache-2.0
//! Makes the volumes of a pod: directories, tmpfs, checks of host paths, and files that are swapped as a
//! whole through a `..data` link, as Kubernetes' clients expect.
//!
//! Not here: what belongs into them (`knarr_agent_plan::volumes`) and mounts into containers.

use knarr_agent_plan::volumes::{VolumeFile, VolumePlan, VolumeSource};
use knarr_runtime::volume;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Why a volume could not be made. The text is for the `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The runtime could not.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    Runtime {
        /// Volume name.
        volume: String,
        /// Why.
        source: volume::VolumeError,
    },
    /// A file or directory.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {path}: {source}")]
    Io {
        /// Volume name.
        volume: String,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host path is not what the pod asks for.
    #[error(
        "MountVolume.SetUp failed for volume \"{volume}\" : hostPath type check failed: {path} is not {wanted}"
    )]
    HostPath {
        /// Volume name.
        volume: String,
        /// The path.
        path: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// The path of a volume on the node. `dir` gives the directory of a plugin's volume.
pub fn path_of(plan: &VolumePlan, dir: impl Fn(&str, &str) -> PathBuf) -> PathBuf {
    match &plan.source {
        VolumeSource::HostPath { path, .. } => PathBuf::from(path),
        VolumeSource::Files(_) => dir("kubernetes.io~projected", &plan.name),
        VolumeSource::Directory { .. } | VolumeSource::Memory { .. } => {
            dir("kubernetes.io~empty-dir", &plan.name)
        }
    }
}

/// Makes one volume, or brings it up to date. Blocking.
pub fn make(plan: &VolumePlan, path: &Path, fs_group: Option<u32>) -> Result<(), MountError> {
    let name = &plan.name;
    let runtime = |source| MountError::Runtime {
        volume: name.clone(),
        source,
    };
    match &plan.source {
        VolumeSource::HostPath { path, kind } => return host_path(name, path, kind),
        VolumeSource::Directory { .. } => volume::make_dir(path).map_err(runtime)?,
        VolumeSource::Memory { size_bytes } => {
            let size = size_bytes.and_then(|n| u64::try_from(n).ok());
            volume::make_memory(path, size).map_err(runtime)?;
        }
        VolumeSource::Files(files) => {
            // Secrets do not go to the disk, so all of these live in memory.
            volume::make_memory(path, None).map_err(runtime)?;
            write_files(path, files).map_err(|source| MountError::Io {
                volume: name.clone(),
                path: path.to_owned(),
                source,
            })?;
        }
    }
    match fs_group {
        Some(gid) => volume::set_group(path, gid).map_err(runtime),
        None => Ok(()),
    }
}

fn host_path(volume: &str, path: &str, kind: &str) -> Result<(), MountError> {
    let io_error = |source| MountError::Io {
        volume: volume.to_owned(),
        path: PathBuf::from(path),
        source,
    };
    let existing = fs::metadata(path).ok().map(|m| m.file_type());
    match (kind, existing) {
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(path).map_err(io_error)?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_error);
        }
        ("FileOrCreate", None) => {
            let mut options = fs::OpenOptions::new();
            options.create_new(true).write(true).mode(0o644);
            return options.open(path).map(|_| ()).map_err(io_error);
        }
        _ => {}
    }
    let (holds, wanted) = match kind {
        "" => (true, "there"),
        "Directory" | "DirectoryOrCreate" => (existing.is_some_and(|t| t.is_dir()), "a directory"),
        "File" | "FileOrCreate" => (existing.is_some_and(|t| t.is_file()), "a file"),
        "Socket" => (existing.is_some_and(|t| t.is_socket()), "a socket"),
        "CharDevice" => (
            existing.is_some_and(|t| t.is_char_device()),
            "a character device",
        ),
        "BlockDevice" => (
            existing.is_some_and(|t| t.is_block_device()),
            "a block device",
        ),
        _ => (false, "of a type that is known"),
    };
    match holds {
        true => Ok(()),
        false => Err(MountError::HostPath {
            volume: volume.to_owned(),
            path: path.to_owned(),
            wanted,
        }),
    }
}

/// Bytes that a directory holds on disk. Blocking; what vanishes meanwhile does not count.
pub fn used_bytes(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0_u64;
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total = total.saturating_add(meta.blocks() * 512);
            if meta.is_dir() {
                stack.push(entry.path());
            }
        }
    }
    total
}

/// The link that names the current set of files.
const DATA: &str = "..data";

/// Replaces the files of a volume as a whole, where they differ.
fn write_files(root: &Path, files: &[VolumeFile]) -> io::Result<()> {
    let data = root.join(DATA);
    let current = fs::read_link(&data).ok();
    if current.is_some() && is_current(&data, files) {
        return Ok(());
    }
    // The name only has to differ from the one before; clients compare link targets.
    let mut n: u64 = current
        .as_ref()
        .and_then(|c| c.to_str()?.strip_prefix("..")?.parse().ok())
        .unwrap_or(0);
    let version = loop {
        n += 1;
        let name = format!("..{n:010}");
        match fs::create_dir(root.join(&name)) {
            Ok(()) => break name,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir_all(root.join(&name))?;
                n -= 1;
            }
            Err(e) => return Err(e),
        }
    };
    let dir = root.join(&version);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    for file in files {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut out = options.create_new(true).write(true).open(&path)?;
        out.write_all(&file.data)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
    }
    let next = root.join("..data_tmp");
    crate::files::remove(&next)?;
    symlink(&version, &next)?;
    fs::rename(&next, &data)?;
    let wanted: std::collections::BTreeSet<&str> = files
        .iter()
        .filter_map(|f| f.path.split('/').next())
        .collect();
    for name in &wanted {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") {
            if name != DATA && name != version.as_str() {
                fs::remove_dir_all(entry.path())?;
            }
        } else if !wanted.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_current(data: &Path, files: &[VolumeFile]) -> bool {
    let mut count = 0;
    let mut stack = vec![data.to_owned()];
    while let Some(dir) = stack.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            return false;
        };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(t) if t.is_dir() => stack.push(entry.path()),
                Ok(_) => count += 1,
                Err(_) => return false,
            }
        }
    }
    count == files.len()
        && files.iter().all(|f| {
            let path = data.join(&f.path);
            let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o7777);
            mode.is_ok_and(|m| m == f.mode) && fs::read(&path).is_ok_and(|d| d == f.data)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, data: &str) -> VolumeFile {
        VolumeFile {
            path: path.into(),
            mode: 0o640,
            data: data.into(),
        }
    }

    #[test]
    fn files_are_swapped_as_a_whole_through_one_link() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path();
        write_files(root, &[file("a", "1"), file("d/b", "2")]).expect("writes");
        let first = fs::read_link(root.join(DATA)).expect("link");
        assert_eq!(fs::read_to_string(root.join("a")).expect("a"), "1");
        assert_eq!(fs::read_to_string(root.join("d/b")).expect("b"), "2");
        assert_eq!(
            fs::read_link(root.join("a")).expect("link"),
            Path::new("..data/a")
        );
        write_files(root, &[file("a", "1"), file("d/b", "2")]).expect("writes");
        assert_eq!(
            fs::read_link(root.join(DATA)).expect("link"),
            first,
            "unchanged"
        );
        write_files(root, &[file("a", "3")]).expect("writes");
        assert_ne!(fs::read_link(root.join(DATA)).expect("link"), first);
        assert_eq!(fs::read_to_string(root.join("a")).expect("a"), "3");
        assert!(fs::symlink_metadata(root.join("d")).is_err());
        let mode = fs::metadata(root.join("a"))
            .expect("a")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(mode, 0o640);
        assert_eq!(fs::read_dir(root).expect("list").count(), 3);
    }

    #[test]
    fn a_host_path_of_the_wrong_kind_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("x");
        let path = path.to_str().expect("utf-8");
        assert!(host_path("v", path, "").is_ok());
        assert!(host_path("v", path, "Directory").is_err());
        assert!(host_path("v", path, "FileOrCreate").is_ok());
        assert!(host_path("v", path, "File").is_ok());
        let error = host_path("v", path, "Directory").expect_err("refused");
        assert!(error.to_string().contains("is not a directory"), "{error}");
    }
}
