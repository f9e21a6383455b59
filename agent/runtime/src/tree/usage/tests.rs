// SPDX-License-Identifier: Apache-2.0
//! Tests of adding trees up.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::mkdirat;

use super::*;

const FILE_BYTES: usize = 100_000;

fn all(root: &Path) -> Usage {
    usage(root, &|| ControlFlow::Continue(())).expect("readable")
}

fn write_at(dir: &OwnedFd, name: &str) {
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    let file = nix::fcntl::openat(dir, name, flags, mode).unwrap();
    let mut file = fs::File::from(file);
    io::Write::write_all(&mut file, &vec![1; FILE_BYTES]).unwrap();
}

#[test]
fn what_lies_deeper_than_any_path_counts_and_what_lies_beside_the_way_there() {
    // Longer names than one byte, so that the way there is longer than PATH_MAX.
    const LEVELS: usize = 1000;
    let name = "directory";
    assert!(LEVELS * (name.len() + 1) > libc::PATH_MAX as usize);
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mode = Mode::from_bits_truncate(0o755);
    let mut at = crate::tree::open_dir(&tree).unwrap();
    for level in 0..LEVELS {
        // Some of them are read before the way down and some after it.
        if level % 100 == 99 {
            for beside in ["a", "z", "m"] {
                mkdirat(&at, beside, mode).unwrap();
                let beside = open(&at, OsStr::new(beside)).unwrap().unwrap();
                write_at(&beside, "file");
            }
        }
        mkdirat(&at, name, mode).unwrap();
        at = open(&at, OsStr::new(name)).unwrap().unwrap();
    }
    write_at(&at, "deepest");
    let found = all(&tree);
    assert_eq!(found.unread, 0, "{found:?}");
    let files = (LEVELS / 100 * 3 + 1) * FILE_BYTES;
    assert!(found.bytes >= files as u64, "{found:?}");
    // Directories take some room too, and each file is there once.
    let directories = (LEVELS + LEVELS / 100 * 3) * 4096;
    let rounded = (LEVELS / 100 * 3 + 1) * 4096;
    assert!(
        found.bytes <= (files + directories + rounded) as u64,
        "{found:?}"
    );
    // It is in nobody's way when the test ends.
    crate::tree::remove_tree(&tree).unwrap();
}

#[test]
fn no_link_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), vec![1; FILE_BYTES]).unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    symlink(&outside, tree.join("link")).unwrap();
    let found = all(&tree);
    assert_eq!(found.unread, 0);
    assert!(found.bytes < FILE_BYTES as u64, "{found:?}");
    // The name itself may be a link that stands where the directory was.
    let link = dir.path().join("link");
    symlink(&outside, &link).unwrap();
    assert!(usage(&link, &|| ControlFlow::Continue(())).is_err());
    assert_eq!(all(&dir.path().join("missing")).bytes, 0);
}

#[test]
fn a_way_up_that_was_moved_is_told_and_what_is_held_open_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let deep = tree.join("d/".repeat(LEVELS_MAX + 2));
    fs::create_dir_all(&deep).unwrap();
    // The deepest directory is elsewhere by the time it has been read.
    let steps = std::cell::Cell::new(0);
    let moved = tree.join("moved");
    let found = usage(&tree, &|| {
        steps.set(steps.get() + 1);
        let is_deepest = |link: &Path| link == deep;
        let fds = fs::read_dir("/proc/thread-self/fd").unwrap().flatten();
        let mut links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        if !moved.exists() && links.any(|link| is_deepest(&link)) {
            fs::rename(&deep, &moved).unwrap();
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(moved.exists());
    assert_eq!(found.unread, 1, "{found:?}");
    let error = found.first_error.expect("told").to_string();
    assert!(error.contains("moved"), "{error}");
}

#[test]
fn it_stops_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..10 {
        fs::create_dir(dir.path().join(n.to_string())).unwrap();
    }
    let asked = std::cell::Cell::new(0);
    let stopped = usage(dir.path(), &|| {
        asked.set(asked.get() + 1);
        ControlFlow::Break(())
    });
    assert!(stopped.is_ok());
    assert_eq!(asked.get(), 1);
}
