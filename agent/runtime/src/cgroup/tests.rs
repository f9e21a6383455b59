// SPDX-License-Identifier: Apache-2.0
//! Tests of cgroup paths. What the kernel does with them is tested in `tests/` of this crate.

use super::*;

#[test]
fn only_paths_inside_the_pods_tree_can_be_made() {
    for bad in [
        "",
        "/",
        "..",
        "kubepods",
        "kubepods/burstable",
        "kubepods/pod",
        "kubepods/other",
        "/kubepods/podx",
        "kubepods/../podx",
        "podx",
        "kubepods/burstable/../../podx",
    ] {
        assert!(PodCgroup::try_from(PathBuf::from(bad)).is_err(), "{bad}");
    }
    let pod = PodCgroup::pod(QosClass::Burstable, "1-2").unwrap();
    assert_eq!(pod.path(), Path::new("kubepods/burstable/pod1-2"));
    assert_eq!(pod.uid(), Some("1-2"));
    assert_eq!(
        pod.container("web", 3).unwrap().path(),
        Path::new("kubepods/burstable/pod1-2/web.3")
    );
    assert!(pod.child("..").is_err());
    assert!(pod.child("a/b").is_err());
    assert!(pod.child("").is_err());
    assert!(PodCgroup::pod(QosClass::Guaranteed, "../x").is_err());
    assert!(PodCgroup::pod(QosClass::Guaranteed, "").is_err());
}

#[test]
fn shares_become_weights_as_kubernetes_computes_them() {
    for (shares, weight) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 1)] {
        assert_eq!(cpu_weight(shares), weight);
    }
}

#[test]
fn a_value_is_found_by_its_whole_name() {
    let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
    assert_eq!(values::field(text, "oom_kill"), 3);
    assert_eq!(values::field(text, "oom"), 0);
}

#[test]
fn a_process_is_in_a_cgroup_when_the_v2_line_says_so() {
    let pod = PodCgroup::pod(QosClass::BestEffort, "1").unwrap();
    let cgroup = pod.container("main", 0).unwrap();
    let holds = |line: &str| cgroup.holds(&format!("1:memory:/other\n{line}\n"));
    assert!(holds("0::/kubepods/besteffort/pod1/main.0"));
    assert!(holds("0::/node/kubepods/besteffort/pod1/main.0"));
    assert!(holds("0::/../kubepods/besteffort/pod1/main.0"));
    assert!(holds("0::/kubepods/besteffort/pod1/main.0/init.scope"));
    for other in [
        "0::/kubepods/besteffort/pod1/main.01",
        "0::/kubepods/besteffort/pod1",
        "0::/kubepods/besteffort/pod11/main.0",
        "0::/kubepods/pod1/main.0",
        "0::/",
        "2:cpu:/kubepods/besteffort/pod1/main.0",
        "",
    ] {
        assert!(!holds(other), "{other}");
    }
}
