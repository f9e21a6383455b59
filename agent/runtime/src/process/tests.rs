// SPDX-License-Identifier: Apache-2.0
//! Tests of telling processes apart.

use super::*;

#[test]
fn a_process_is_known_by_its_start_time() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let id = ProcessId::observe(i32::try_from(child.id()).unwrap()).unwrap();
    assert!(id.is_alive());
    let other = ProcessId {
        start: id.start + 1,
        ..id
    };
    assert!(!other.is_alive());
    other.signal(libc::SIGKILL).unwrap();
    assert!(id.is_alive(), "a signal for another process hit this one");
    id.signal(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    assert!(!id.is_alive());
    id.signal(libc::SIGKILL).unwrap();
}
