// SPDX-License-Identifier: Apache-2.0
//! Tests of removing trees.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::mkdirat;

use super::*;

#[test]
fn removal_does_not_follow_links_out() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/f"), "x").unwrap();
    symlink(&outside, tree.join("a/link")).unwrap();
    symlink("/", tree.join("root")).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert!(outside.join("keep").exists());
    remove_tree(&tree).unwrap();
    // The name itself may be a link.
    let link = dir.path().join("link");
    symlink(&outside, &link).unwrap();
    remove_tree(&link).unwrap();
    assert!(outside.join("keep").exists());
    assert!(fs::symlink_metadata(&link).is_err());
}

#[test]
fn what_nothing_may_remove_is_said_to_be_that() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let file = fs::File::create(tree.join("immutable")).unwrap();
    let flags = ioctl_getflags(&file).expect("a file system with attributes, as ext4 or tmpfs");
    ioctl_setflags(&file, flags | IFlags::IMMUTABLE).expect("run it as root");
    let refused = remove_tree(&tree);
    ioctl_setflags(&file, flags).unwrap();
    let error = refused.expect_err("it is immutable");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    remove_tree(&tree).unwrap();
}

/// Nested directories called `d`, each with a file and a link out, the first below `top`.
fn nest(top: &Path, levels: usize, outside: &Path) {
    let mode = Mode::from_bits_truncate(0o755);
    let mut dir = crate::tree::open_dir(top).unwrap();
    for _ in 0..levels {
        mkdirat(&dir, "d", mode).unwrap();
        let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(&dir, "file", flags, mode).unwrap();
        nix::unistd::symlinkat(outside, &dir, "link").unwrap();
        dir = open(&dir, OsStr::new("d")).unwrap().unwrap();
    }
}

#[test]
fn two_thousand_nested_directories_are_removed_on_a_small_stack() {
    const LEVELS: usize = 2000;
    const STACK_BYTES: usize = 128 << 10;
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    let tree = dir.path().join("tree");
    // The names that deep directories are moved to are taken: by the directory that holds them, by a full
    // one, by an empty one, by a file and by a link.
    for serial in 0..3 {
        fs::create_dir_all(tree.join(top_name(serial))).unwrap();
    }
    fs::write(tree.join(top_name(1)).join("x"), "x").unwrap();
    fs::write(tree.join(top_name(3)), "x").unwrap();
    symlink(&outside, tree.join(top_name(4))).unwrap();
    nest(&tree.join(top_name(0)), LEVELS, &outside);
    // Two that branch at the depth where they are moved.
    let branch = tree.join("d/".repeat(LEVELS_MAX - 2));
    for name in ["one", "two"] {
        fs::create_dir_all(branch.join(name)).unwrap();
        nest(&branch.join(name), LEVELS, &outside);
    }
    let small = std::thread::Builder::new().stack_size(STACK_BYTES);
    let path = tree.clone();
    let removed = small.spawn(move || remove_tree(&path)).unwrap();
    removed.join().unwrap().unwrap();
    assert!(fs::symlink_metadata(&tree).is_err());
    assert_eq!(fs::read_to_string(outside.join("keep")).unwrap(), "x");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
