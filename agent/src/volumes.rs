// SPDX-License-Identifier: Apache-2.0
//! Makes the volumes of a pod: directories, tmpfs, checks of host paths, and files that are swapped as a
//! whole through a `..data` link, as Kubernetes' clients expect.
//!
//! Not here: what belongs into them (`knarr_agent_plan::volumes`) and mounts into containers.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{
    FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown, symlink,
};
use std::path::{Path, PathBuf};

use knarr_agent_plan::volumes::{VolumeFile, VolumePlan, VolumeSource};
use knarr_runtime::volume;

/// Why a volume could not be made. The text is for the `FailedMount` event: it is whole, in kubelet's words, so
/// that no variant has a source.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The runtime could not.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
    Runtime {
        /// Volume name.
        volume: String,
        /// The runtime's error with its causes.
        cause: String,
    },
    /// A file or directory.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {path}: {cause}")]
    Io {
        /// Volume name.
        volume: String,
        /// On what.
        path: PathBuf,
        /// Why.
        cause: io::Error,
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

/// Makes one volume, or brings its files up to date. `fs_group` is for what is made by this call: an emptyDir
/// that is there belongs to its containers, which may be writing it. Blocking.
pub fn make(plan: &VolumePlan, path: &Path, fs_group: Option<u32>) -> Result<(), MountError> {
    let name = &plan.name;
    let runtime = |error: volume::VolumeError| MountError::Runtime {
        volume: name.clone(),
        cause: knarr_base::chain(&error),
    };
    match &plan.source {
        VolumeSource::HostPath { path, kind } => host_path(name, path, kind),
        VolumeSource::Directory { .. } => volume::make_dir(path, fs_group).map_err(runtime),
        VolumeSource::Memory { size_bytes } => {
            let size = size_bytes.and_then(|n| u64::try_from(n).ok());
            volume::make_memory(path, size, fs_group).map_err(runtime)
        }
        VolumeSource::Files(files) => {
            // Secrets do not go to the disk, so all of these live in memory.
            volume::make_memory(path, None, fs_group).map_err(runtime)?;
            write_files(path, files, fs_group).map_err(|cause| MountError::Io {
                volume: name.clone(),
                path: path.to_owned(),
                cause,
            })
        }
    }
}

fn host_path(volume: &str, path: &str, kind: &str) -> Result<(), MountError> {
    let io_error = |cause| MountError::Io {
        volume: volume.to_owned(),
        path: PathBuf::from(path),
        cause,
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
    if holds {
        Ok(())
    } else {
        Err(MountError::HostPath {
            volume: volume.to_owned(),
            path: path.to_owned(),
            wanted,
        })
    }
}

/// The link that names the current set of files.
const DATA: &str = "..data";
/// What that link is made as.
const DATA_NEW: &str = "..data_tmp";
/// kubelet's mode of directories in a volume of files.
const DIR_MODE: u32 = 0o755;
/// What `fsGroup` adds to the mode of such a directory and of a file in it. Containers have these volumes
/// read-only, so the group may only read (kubelet v1.37, pkg/volume/volume_linux.go: `roMask`, `execMask`).
const GROUP_DIR_MODE: u32 = 0o2550;
const GROUP_FILE_MODE: u32 = 0o440;

fn file_mode(file: &VolumeFile, fs_group: Option<u32>) -> u32 {
    fs_group.map_or(file.mode, |_| file.mode | GROUP_FILE_MODE)
}

/// Replaces the files of a volume as a whole, where they differ.
fn write_files(root: &Path, files: &[VolumeFile], fs_group: Option<u32>) -> io::Result<()> {
    let data = root.join(DATA);
    let version = match fs::read_link(&data).ok() {
        Some(current) if is_current(&data, files, fs_group) => current,
        current => {
            let version = write_version(root, current.as_deref(), files, fs_group)?;
            let next = root.join(DATA_NEW);
            crate::files::remove(&next)?;
            symlink(&version, &next)?;
            lchown(&next, None, fs_group)?;
            fs::rename(&next, &data)?;
            version
        }
    };
    // Where nothing changed as well: the agent may have ended right after the link had been replaced.
    tidy(root, &version, files, fs_group)
}

/// Writes all files into a directory that no link names yet, and returns its name.
fn write_version(
    root: &Path,
    current: Option<&Path>,
    files: &[VolumeFile],
    fs_group: Option<u32>,
) -> io::Result<PathBuf> {
    // The name only has to differ from the one before; clients compare link targets.
    let number = current.and_then(|c| c.to_str()?.strip_prefix("..")?.parse::<u64>().ok());
    let version = PathBuf::from(format!("..{:010}", number.unwrap_or(0) + 1));
    let dir = root.join(&version);
    if fs::symlink_metadata(&dir).is_ok() {
        // Of an agent that was ended while it wrote.
        fs::remove_dir_all(&dir)?;
    }
    make_dir(&dir, fs_group)?;
    for file in files {
        let path = Path::new(&file.path);
        let mut parent = dir.clone();
        for part in path.parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            if !parent.is_dir() {
                make_dir(&parent, fs_group)?;
            }
        }
        write_file(&dir.join(path), file, fs_group)?;
    }
    Ok(version)
}

fn make_dir(path: &Path, fs_group: Option<u32>) -> io::Result<()> {
    fs::create_dir(path)?;
    chown(path, None, fs_group)?;
    let mode = fs_group.map_or(DIR_MODE, |_| DIR_MODE | GROUP_DIR_MODE);
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn write_file(path: &Path, file: &VolumeFile, fs_group: Option<u32>) -> io::Result<()> {
    // Containers see the directory before any link names it: what may be a secret is the owner's alone until
    // it has its group and its mode.
    let mut options = fs::OpenOptions::new();
    let mut out = options
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    out.write_all(&file.data)?;
    fchown(&out, None, fs_group)?;
    out.set_permissions(fs::Permissions::from_mode(file_mode(file, fs_group)))
}

/// Links the files' names, and removes what belongs to no current file.
fn tidy(
    root: &Path,
    version: &Path,
    files: &[VolumeFile],
    fs_group: Option<u32>,
) -> io::Result<()> {
    let wanted: BTreeSet<&OsStr> = files
        .iter()
        .filter_map(|f| f.path.split('/').next())
        .map(OsStr::new)
        .collect();
    for name in &wanted {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
            lchown(&link, None, fs_group)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == DATA || name == version.as_os_str() || wanted.contains(name.as_os_str()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

fn is_current(data: &Path, files: &[VolumeFile], fs_group: Option<u32>) -> bool {
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
    count == files.len() && files.iter().all(|file| is_as_written(data, file, fs_group))
}

/// Whether a file is what [`write_file`] would make of it.
fn is_as_written(data: &Path, file: &VolumeFile, fs_group: Option<u32>) -> bool {
    let path = data.join(&file.path);
    let Ok(found) = fs::metadata(&path) else {
        return false;
    };
    found.mode() & 0o7777 == file_mode(file, fs_group)
        && fs_group.is_none_or(|gid| found.gid() == gid)
        && fs::read(&path).is_ok_and(|there| there == file.data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    /// A group that nobody has.
    const GROUP: u32 = 4321;

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
        write_files(root, &[file("a", "1"), file("d/b", "2")], None).expect("writes");
        let first = fs::read_link(root.join(DATA)).expect("link");
        assert_eq!(fs::read_to_string(root.join("a")).expect("a"), "1");
        assert_eq!(fs::read_to_string(root.join("d/b")).expect("b"), "2");
        assert_eq!(
            fs::read_link(root.join("a")).expect("link"),
            Path::new("..data/a")
        );
        write_files(root, &[file("a", "1"), file("d/b", "2")], None).expect("writes");
        assert_eq!(
            fs::read_link(root.join(DATA)).expect("link"),
            first,
            "unchanged"
        );
        write_files(root, &[file("a", "3")], None).expect("writes");
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

    #[test]
    fn an_error_says_what_why_and_for_which_volume_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("writes");
        let plan = VolumePlan {
            name: "v".into(),
            source: VolumeSource::Directory { size_bytes: None },
        };
        let path = file.join("volumes/v");
        let error = make(&plan, &path, None).expect_err("below a file");
        let whole = format!(
            "MountVolume.SetUp failed for volume \"v\" : making volume directory {path:?}: \
             Not a directory (os error 20)"
        );
        assert_eq!(error.to_string(), whole);
        assert_eq!(knarr_base::chain(&error), whole);
    }

    /// Runs a test in a thread with mounts of its own, which end with it.
    fn with_own_mounts(test: impl FnOnce(&Path) + Send + 'static) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().to_owned();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("mounts of its own; run it as root");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
            test(&path);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// Group and mode of a file, directory or link.
    fn group_and_mode(path: &Path) -> (u32, u32) {
        let found = fs::symlink_metadata(path).expect("there");
        (found.gid(), found.mode() & 0o7777)
    }

    #[test]
    fn a_group_reads_the_files_of_a_volume_and_refreshing_them_changes_nothing() {
        with_own_mounts(|dir| {
            let root = dir.join("volume");
            let mut secret = file("d/e/secret", "2");
            secret.mode = 0o600;
            let plan = VolumePlan {
                name: "v".into(),
                source: VolumeSource::Files(vec![file("a", "1"), secret]),
            };
            make(&plan, &root, Some(GROUP)).expect("makes");
            assert_eq!(group_and_mode(&root), (GROUP, 0o2777));
            for made in [root.join(DATA), root.join("a"), root.join("d")] {
                assert_eq!(group_and_mode(&made).0, GROUP, "{made:?}");
            }
            let first = fs::read_link(root.join(DATA)).expect("link");
            let version = root.join(&first);
            for directory in ["", "d", "d/e"] {
                assert_eq!(
                    group_and_mode(&version.join(directory)),
                    (GROUP, 0o2755),
                    "{directory}"
                );
            }
            // The group may read, and not write.
            assert_eq!(group_and_mode(&version.join("a")), (GROUP, 0o640));
            assert_eq!(group_and_mode(&version.join("d/e/secret")), (GROUP, 0o640));

            make(&plan, &root, Some(GROUP)).expect("makes");
            assert_eq!(fs::read_link(root.join(DATA)).expect("link"), first);
            // A file that is not as it was written is written again.
            fs::set_permissions(version.join("a"), fs::Permissions::from_mode(0o666))
                .expect("mode");
            make(&plan, &root, Some(GROUP)).expect("makes");
            assert_ne!(fs::read_link(root.join(DATA)).expect("link"), first);
            assert_eq!(
                fs::metadata(root.join("a")).expect("a").mode() & 0o777,
                0o640
            );
        });
    }

    #[test]
    fn a_volume_in_use_keeps_the_owners_and_modes_that_its_containers_gave() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("volume");
        let plan = VolumePlan {
            name: "v".into(),
            source: VolumeSource::Directory { size_bytes: None },
        };
        make(&plan, &root, Some(GROUP)).expect("makes");
        assert_eq!(group_and_mode(&root), (GROUP, 0o2777));
        let key = root.join("key");
        fs::write(&key, "secret").expect("writes");
        chown(&key, Some(33), Some(44)).expect("owner");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mode");
        make(&plan, &root, Some(GROUP)).expect("makes");
        assert_eq!(group_and_mode(&key), (44, 0o600));
    }

    #[test]
    fn a_file_that_is_not_whole_is_nobodys_but_its_owners() {
        with_own_mounts(|dir| {
            let options = Some("mode=755,size=64k");
            mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), options)
                .expect("a small disk");
            let mut big = file("secret", "");
            big.mode = 0o644;
            big.data = vec![7; 1 << 20];
            assert!(write_files(dir, std::slice::from_ref(&big), None).is_err());
            let version = dir.join("..0000000001");
            assert_eq!(group_and_mode(&version.join("secret")).1, 0o600);
            // What is left of it is in nobody's way.
            big.data = vec![7; 10];
            write_files(dir, &[big], None).expect("writes");
            assert_eq!(
                fs::read_link(dir.join(DATA)).expect("link"),
                Path::new("..0000000001")
            );
            assert_eq!(group_and_mode(&version.join("secret")).1, 0o644);
        });
    }

    #[test]
    fn links_that_an_ended_agent_did_not_make_are_made_by_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path();
        let files = [file("a", "1")];
        write_files(root, &files, None).expect("writes");
        let first = fs::read_link(root.join(DATA)).expect("link");
        fs::remove_file(root.join("a")).expect("removes");
        write_files(root, &files, None).expect("writes");
        assert_eq!(fs::read_to_string(root.join("a")).expect("a"), "1");
        assert_eq!(fs::read_link(root.join(DATA)).expect("link"), first);
    }
}
