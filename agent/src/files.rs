// SPDX-License-Identifier: Apache-2.0
//! Small files that are never seen half-written. One writer for each file: the agent, which is alone in
//! its data directory. (Several processes write the image store; `knarr-runtime` has its own way there.)

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What a write has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process.
    Process,
    /// The end of the machine.
    Disk,
}

/// Makes a directory that only root may enter.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Replaces a file as a whole; the new one is readable by its owner only.
pub fn replace(path: &Path, contents: &[u8], durability: Durability) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // What a write left that was cut off has a mode of its own, and may be a link to somewhere else.
    remove(&new)?;
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(contents)?;
        if durability == Durability::Disk {
            file.sync_all()?;
        }
        fs::rename(&new, path)
    })();
    if let Err(error) = written {
        // Half a file on a full disk would keep others from writing; the first error is the one to tell.
        let _ = remove(&new);
        return Err(error);
    }
    match (durability, path.parent()) {
        (Durability::Disk, Some(dir)) => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

/// Removes a file; a missing one is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        let stat = fs::symlink_metadata(path).expect("stat");
        stat.permissions().mode() & 0o777
    }

    #[test]
    fn what_a_write_left_that_was_cut_off_gives_the_new_file_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, left) = (dir.path().join("key"), dir.path().join("key.new"));
        fs::write(&left, "half of something longer").expect("writes");
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).expect("chmod");
        replace(&path, b"secret", Durability::Disk).expect("replaces");
        assert_eq!(fs::read(&path).expect("reads"), b"secret");
        assert_eq!(mode(&path), 0o600);
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "as it was").expect("writes");
        symlink(&elsewhere, &left).expect("links");
        replace(&path, b"again", Durability::Process).expect("replaces");
        assert_eq!(fs::read(&elsewhere).expect("reads"), b"as it was");
        assert_eq!(
            (fs::read(&path).expect("reads"), mode(&path)),
            (b"again".to_vec(), 0o600)
        );
    }

    #[test]
    fn a_write_that_fails_keeps_the_old_file_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        // A directory that is not empty cannot be replaced.
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("inside")).expect("makes");
        replace(&path, b"x", Durability::Process).expect_err("a directory");
        let names: Vec<_> = fs::read_dir(dir.path()).expect("lists").collect();
        assert_eq!(names.len(), 1);
        assert!(path.join("inside").exists());
    }
}
