// SPDX-License-Identifier: Apache-2.0
//! Tests of telling processes apart.

use std::time::{Duration, Instant};

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

#[test]
fn a_process_whose_first_thread_has_ended_lives_on_and_gets_its_signals() {
    let child = sys::child_without_first_thread().unwrap();
    let id = ProcessId::observe(child.as_raw()).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while stat(child.as_raw()).unwrap().state != 'Z' {
        assert!(Instant::now() < end, "its first thread does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(id.is_alive());
    id.signal(libc::SIGTERM).unwrap();
    let status = nix::sys::wait::waitpid(child, None).unwrap();
    assert_eq!(
        status,
        nix::sys::wait::WaitStatus::Signaled(child, nix::sys::signal::SIGTERM, false)
    );
    assert!(!id.is_alive());
}
