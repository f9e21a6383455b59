// SPDX-License-Identifier: Apache-2.0
//! Tests of names and times. Unpacking itself is tested in `tests/runtime/images.rs`, as root.

use super::*;

#[test]
fn names_stay_below_the_root() {
    let path = |name: &str| relative(name.as_bytes()).ok();
    assert_eq!(path("./etc/passwd"), Some(PathBuf::from("etc/passwd")));
    assert_eq!(path("/etc//passwd/"), Some(PathBuf::from("etc/passwd")));
    assert_eq!(path("./"), Some(PathBuf::new()));
    assert_eq!(path("a/../../b"), None);
    assert_eq!(path(".."), None);
}

#[test]
fn times_have_fractions() {
    assert_eq!(pax_time("12.5"), Some(TimeSpec::new(12, 500_000_000)));
    assert_eq!(pax_time("12.0000000019"), Some(TimeSpec::new(12, 1)));
    assert_eq!(pax_time("12"), Some(TimeSpec::new(12, 0)));
    assert_eq!(pax_time("x"), None);
}

#[test]
fn a_full_disk_is_told_apart() {
    let full = io::Error::from_raw_os_error(libc::ENOSPC);
    assert!(no_space(&full, "layer", Path::new("/")).is_some());
    let other = io::Error::from_raw_os_error(libc::EIO);
    assert!(no_space(&other, "layer", Path::new("/")).is_none());
}
