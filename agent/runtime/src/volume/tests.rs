// SPDX-License-Identifier: Apache-2.0
//! Tests of volumes. Those in memory are tested in `tests/runtime/volumes.rs`, which has mounts of its own.

use std::os::unix::fs::{MetadataExt, chown, symlink};

use super::*;

/// A group that nobody has.
const GROUP: u32 = 4321;

fn group_and_mode(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.gid(), metadata.mode() & 0o7777)
}

#[test]
fn a_volume_is_given_to_the_group_when_it_is_made_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("plugin/volume");
    make_dir(&volume, Some(GROUP)).unwrap();
    assert_eq!(group_and_mode(&volume), (GROUP, 0o2777));
    assert_eq!(
        std::fs::read_dir(dir.path().join("plugin"))
            .unwrap()
            .count(),
        1
    );
    // What a container makes of it, and in it, stays.
    let key = volume.join("key");
    std::fs::write(&key, "secret").unwrap();
    assert_eq!(
        group_and_mode(&key).0,
        GROUP,
        "what is made in it is the group's"
    );
    chown(&key, Some(33), Some(33)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o750)).unwrap();
    make_dir(&volume, Some(GROUP)).unwrap();
    assert_eq!(group_and_mode(&key), (33, 0o600));
    assert_eq!(group_and_mode(&volume), (GROUP, 0o750));
}

#[test]
fn a_volume_whose_making_was_cut_off_is_made_whole() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".new-volume")).unwrap();
    let volume = dir.path().join("volume");
    make_dir(&volume, None).unwrap();
    assert_eq!(group_and_mode(&volume).1, 0o777);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_volume_is_removed_and_nothing_outside() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, "x").unwrap();
    let volume = dir.path().join("volume");
    make_dir(&volume, None).unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    remove(&volume).unwrap();
    assert!(!volume.exists());
    assert!(outside.exists());
}
