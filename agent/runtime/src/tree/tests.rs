// SPDX-License-Identifier: Apache-2.0
//! Tests of walking trees.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn directories_are_made_inside_the_root_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let root = open_dir(dir.path()).unwrap();
    symlink("/real/deep", dir.path().join("abs")).unwrap();
    symlink("../../../../up", dir.path().join("rel")).unwrap();
    let mode = Mode::from_bits_truncate(0o755);
    make_dirs_in_root(&root, Path::new("/abs/x/y"), mode).unwrap();
    make_dirs_in_root(&root, Path::new("rel/z"), mode).unwrap();
    make_dirs_in_root(&root, Path::new("../../etc"), mode).unwrap();
    assert!(dir.path().join("real/deep/x/y").is_dir());
    assert!(dir.path().join("up/z").is_dir());
    assert!(dir.path().join("etc").is_dir());
    symlink("loop", dir.path().join("loop")).unwrap();
    assert!(make_dirs_in_root(&root, Path::new("loop/x"), mode).is_err());
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    write_file(&path, b"one", Durability::Synced).unwrap();
    write_file(&path, b"two", Durability::Atomic).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn escapes_of_mountinfo_are_undone() {
    assert_eq!(unescape(r"/a\040b\134c"), b"/a b\\c");
}
