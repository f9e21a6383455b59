// SPDX-License-Identifier: Apache-2.0
//! Tests of volumes.

use super::*;
use std::os::unix::fs::{MetadataExt, symlink};

#[test]
fn a_group_gets_the_volume_and_nothing_outside() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, "x").unwrap();
    let volume = dir.path().join("volume");
    make_dir(&volume).unwrap();
    std::fs::create_dir(volume.join("sub")).unwrap();
    std::fs::write(volume.join("sub/file"), "x").unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    set_group(&volume, 4321).unwrap();
    let gid = |path: &Path| std::fs::symlink_metadata(path).unwrap().gid();
    assert_eq!(gid(&volume.join("sub/file")), 4321);
    assert_eq!(gid(&volume.join("link")), 4321);
    assert_ne!(gid(&outside), 4321);
    let mode = std::fs::metadata(volume.join("sub")).unwrap().mode();
    assert_eq!(mode & 0o2070, 0o2070);
    remove(&volume).unwrap();
    assert!(!volume.exists());
    assert!(outside.exists());
}
