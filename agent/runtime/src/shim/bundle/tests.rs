// SPDX-License-Identifier: Apache-2.0
//! Tests of capabilities, environment and the whole document.

use knarr_pod::{ContainerSpec, LogPolicy, QosClass, SandboxSpec, User};
use serde_json::{Value, json};

use super::*;
use crate::cgroup::{CgroupLayout, PodCgroup};

const EVERYTHING: u64 = u64::MAX;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn capabilities_follow_add_and_drop() {
    let of = |add: &[&str], drop: &[&str]| {
        capabilities(
            Privilege::Confined,
            &strings(add),
            &strings(drop),
            EVERYTHING,
        )
    };
    assert_eq!(of(&[], &[]).len(), CAPABILITIES.len());
    assert!(of(&["NET_ADMIN"], &[]).contains(&Capability::NetAdmin));
    assert_eq!(
        of(&["NET_BIND_SERVICE"], &["ALL"]),
        [Capability::NetBindService]
    );
    assert_eq!(of(&["ALL"], &[]).len(), CAPABILITIES_ALL.len());
    assert!(!of(&["ALL"], &["SYS_ADMIN"]).contains(&Capability::SysAdmin));
    assert!(!of(&[], &["CAP_KILL"]).contains(&Capability::Kill));
}

#[test]
fn nobody_gets_a_capability_that_the_shim_lacks() {
    let without_chown = EVERYTHING & !1;
    let list = capabilities(Privilege::Privileged, &[], &[], without_chown);
    assert_eq!(list.len(), CAPABILITIES_ALL.len() - 1);
    assert!(!list.contains(&Capability::Chown));
}

#[test]
fn every_container_has_a_home_that_is_not_empty() {
    let home = |given: &[&str]| {
        let env = environment("host", &strings(given), "/home/a");
        // As libcontainer reads it: the last one wins, and what has no value is empty.
        let last = env
            .iter()
            .rev()
            .find(|e| e.split('=').next() == Some("HOME"));
        last.unwrap().split_once('=').map_or("", |e| e.1).to_owned()
    };
    assert_eq!(home(&[]), "/home/a");
    assert_eq!(home(&["HOMES=/x"]), "/home/a");
    assert_eq!(home(&["HOME="]), "/home/a");
    assert_eq!(home(&["HOME=/x", "HOME="]), "/home/a");
    assert_eq!(home(&["HOME=", "HOME=/x"]), "/x");
    assert_eq!(home(&["HOME"]), "/home/a");
    assert_eq!(home(&["HOME=/x", "HOME"]), "/home/a");
}

/// The document of a container with these settings, as libcontainer reads it.
fn written(change: impl FnOnce(&mut SandboxSpec, &mut ContainerSpec)) -> Value {
    let layout = json!({"unified": "/sys/fs/cgroup", "legacy": [], "base": "k"});
    let cgroup: CgroupLayout = serde_json::from_value(layout).unwrap();
    let mut pod = SandboxSpec {
        uid: "u".into(),
        namespace: "ns".into(),
        name: "p".into(),
        attempt: 0,
        hostname: "p".into(),
        qos: QosClass::BestEffort,
        resources: Resources::default(),
        network: NetworkMode::Pod,
        pid: PidMode::Container,
        ipc: IpcMode::Pod,
        hosts: String::new(),
        resolv_conf: String::new(),
        sysctls: Vec::new(),
    };
    let mut spec = ContainerSpec {
        name: "c".into(),
        attempt: 0,
        image: "i".into(),
        args: strings(&["/bin/true", "x"]),
        env: strings(&["A=1"]),
        cwd: "/work".into(),
        user: User {
            additional_gids: vec![9],
            ..User::default()
        },
        mounts: Vec::new(),
        resources: Resources::default(),
        oom_score_adj: 0,
        rootfs: Access::ReadWrite,
        privilege: Privilege::Confined,
        escalation: Escalation::Forbidden,
        capabilities_add: Vec::new(),
        capabilities_drop: strings(&["ALL"]),
        seccomp: knarr_pod::Seccomp::Unconfined,
        termination_message_path: None,
        last_words: knarr_pod::LastWords::File,
        shutdown: knarr_pod::Shutdown::default(),
    };
    change(&mut pod, &mut spec);
    let config = ShimConfig {
        format: 1,
        spec: pod,
        id: String::new(),
        run_dir: "/run/s".into(),
        pod_dir: "/data/p".into(),
        log_dir: "/logs".into(),
        layers_dir: "/layers".into(),
        pause_root: "/empty".into(),
        cgroup,
        pod_cgroup: PodCgroup::pod(QosClass::BestEffort, "u").unwrap(),
        log: LogPolicy::default(),
    };
    let request = StartRequest {
        spec,
        id: String::new(),
        image_id: String::new(),
        layers: Vec::new(),
    };
    let facts = Facts {
        rootfs: "/rootfs".into(),
        identity: Identity {
            uid: 5,
            gid: 6,
            groups: vec![7],
            home: "/home/a".into(),
        },
        sources: Vec::new(),
        termination_file: None,
        pause_pid: 42,
        capabilities: EVERYTHING,
        devices: vec![LinuxDevice::default()],
    };
    let document = document(&config, &request, &facts).unwrap();
    serde_json::to_value(&document).unwrap()
}

#[test]
fn the_document_says_what_was_asked_for_and_nothing_of_the_types_own_defaults() {
    let document = written(|_, _| {});
    let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["ociVersion", "root", "mounts", "process", "linux"]);
    assert_eq!(document["ociVersion"], "1.2.0");
    assert_eq!(
        document["root"],
        json!({"path": "/rootfs", "readonly": false})
    );
    assert_eq!(
        document["process"],
        json!({
            "terminal": false,
            "user": {"uid": 5, "gid": 6, "additionalGids": [6, 7, 9]},
            "args": ["/bin/true", "x"],
            "env": [PATH_DEFAULT, "A=1", "HOSTNAME=p", "HOME=/home/a"],
            "cwd": "/work",
            "capabilities": {"bounding": [], "effective": [], "permitted": []},
            "noNewPrivileges": true,
        })
    );
    let linux = document["linux"].as_object().unwrap();
    let mut keys: Vec<&str> = linux.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "cgroupsPath",
            "maskedPaths",
            "namespaces",
            "readonlyPaths",
            "resources",
            "rootfsPropagation"
        ]
    );
    assert_eq!(
        linux["resources"],
        json!({"devices": [{"allow": false, "access": "rwm"}]})
    );
    assert_eq!(
        linux["namespaces"],
        json!([
            {"type": "mount"},
            {"type": "network", "path": "/proc/42/ns/net"},
            {"type": "uts", "path": "/proc/42/ns/uts"},
            {"type": "ipc", "path": "/proc/42/ns/ipc"},
            {"type": "pid"},
            {"type": "cgroup"},
        ])
    );
    assert_eq!(linux["rootfsPropagation"], "slave");
}

#[test]
fn limits_and_privileges_reach_the_document() {
    let document = written(|pod, container| {
        pod.network = NetworkMode::Host;
        pod.ipc = IpcMode::Host;
        pod.pid = PidMode::Pod;
        container.privilege = Privilege::Privileged;
        container.rootfs = Access::ReadOnly;
        container.resources = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            memory_bytes: Some(1 << 20),
            pids: Some(10),
        };
    });
    assert_eq!(document["root"]["readonly"], true);
    assert_eq!(
        document["linux"]["resources"],
        json!({
            "devices": [{"allow": true, "access": "rwm"}],
            "memory": {"limit": 1 << 20},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
            "pids": {"limit": 10},
        })
    );
    assert_eq!(
        document["linux"]["namespaces"],
        json!([
            {"type": "mount"},
            {"type": "pid", "path": "/proc/42/ns/pid"},
            {"type": "cgroup"},
        ])
    );
    assert_eq!(
        document["linux"]["devices"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(document["linux"].get("maskedPaths"), None);
    let caps = &document["process"]["capabilities"]["permitted"];
    assert_eq!(caps.as_array().map(Vec::len), Some(CAPABILITIES_ALL.len()));
}
