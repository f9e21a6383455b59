// SPDX-License-Identifier: Apache-2.0
//! Tests of what is believed of a report about a process.

use knarr_pod::QosClass;

use super::*;

fn cgroup() -> PodCgroup {
    let pod = PodCgroup::pod(QosClass::BestEffort, "none").unwrap();
    pod.container("main", 0).unwrap()
}

fn making(child: u32) -> Making {
    Making {
        pid: i32::try_from(child).unwrap(),
        pipe: pipe().unwrap().0,
        deadline: Instant::now(),
        waiters: Vec::new(),
        buffer: Vec::new(),
        created: false,
        outcome: None,
    }
}

#[test]
fn a_process_that_is_not_the_containers_is_refused() {
    let mut child = std::process::Command::new("sleep")
        .arg("100")
        .spawn()
        .unwrap();
    let own = i32::try_from(child.id()).unwrap();
    let init = 1;
    for (pid, why) in [
        (own, "another cgroup"),
        (init, "its parent is process"),
        (i32::MAX, "No such file"),
        (0, "No such file"),
        (-1, "No such file"),
    ] {
        let step = making(1_000_000_000).judge(Report::Created { pid }, &cgroup());
        let Step::Refused(message) = &step else {
            panic!("{pid} was taken: {step:?}");
        };
        assert!(message.contains(why), "{pid}: {message}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn one_process_is_named_once_and_before_it_starts() {
    let mut early = making(1);
    let step = early.judge(Report::Started, &cgroup());
    assert!(matches!(step, Step::Refused(_)), "{step:?}");

    let mut second = making(1);
    second.created = true;
    let step = second.judge(Report::Created { pid: 1 }, &cgroup());
    assert!(matches!(step, Step::Refused(_)), "{step:?}");
    assert_eq!(second.judge(Report::Started, &cgroup()), Step::Started);

    let mut over = making(1);
    over.created = true;
    over.outcome = Some(Err((FailedStep::Create, "refused".to_owned())));
    assert_eq!(over.judge(Report::Started, &cgroup()), Step::Late);
}
