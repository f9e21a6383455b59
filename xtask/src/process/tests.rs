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

#[test]
fn a_process_whose_first_thread_has_ended_is_there_as_long_as_another_one_is() {
    let stat = |state: &str, threads: u32| {
        format!(
            "4711 (a (b) c) {state} 1 4711 4711 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 {threads} 0 1234567 0 0 1 0 0"
        )
    };
    assert_eq!(start_time_of(&stat("S", 1)), Some(1_234_567));
    assert_eq!(start_time_of(&stat("Z", 2)), Some(1_234_567));
    assert_eq!(start_time_of(&stat("Z", 1)), None);
    assert_eq!(start_time_of(&stat("X", 0)), None);
}
