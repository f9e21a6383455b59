// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super::Process`].

use super::*;

#[test]
fn a_process_with_another_start_time_is_somebody_else() {
    let own = Process::of(std::process::id() as i32).expect("this process runs");
    assert!(own.alive());
    let other = Process {
        started: own.started + 1,
        ..own
    };
    assert!(!other.alive());
}

#[test]
fn a_killed_child_is_gone_once_it_is_a_zombie() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("sleep starts");
    let process = Process::of(child.id() as i32).expect("it runs");
    assert!(process.kill_and_wait(Duration::from_secs(5)));
    child.wait().expect("it is ours to reap");
}
