// SPDX-License-Identifier: Apache-2.0
//! Limits of containers and pods, and what the kernel does at them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use knarr_pod::{ExitReason, Resources};
use knarr_runtime::CgroupLayout;

use crate::harness::{exited, on_host, outcome, run, sandbox, shell};

/// A controller's file of a container, on hybrid or pure v2.
fn setting(pod: &str, names: [(&str, &str); 2]) -> Result<String> {
    let [(controller, v1), (_, v2)] = names;
    let hybrid = Path::new("/sys/fs/cgroup")
        .join(controller)
        .join(pod)
        .join(v1);
    let path = if hybrid.exists() {
        hybrid
    } else {
        PathBuf::from("/sys/fs/cgroup").join(pod).join(v2)
    };
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

#[test]
fn limits_reach_the_cgroups_of_pod_and_container() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let mut spec = sandbox("a");
        spec.qos = knarr_pod::QosClass::Burstable;
        spec.resources = Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(150_000),
            memory_bytes: Some(256 << 20),
            pids: Some(500),
        };
        let sandbox = runtime.create_sandbox(spec).await?;
        let mut spec = shell("main", "cat /proc/self/cgroup; sleep 1000");
        spec.resources = Resources {
            cpu_shares: Some(256),
            cpu_quota_us: Some(50_000),
            memory_bytes: Some(64 << 20),
            pids: Some(100),
        };
        sandbox.start_container(spec).await?;
        let (pod, container) = ("kubepods/burstable/poda", "kubepods/burstable/poda/main.0");
        let memory = [
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.max"),
        ];
        let pids = [("pids", "pids.max"), ("pids", "pids.max")];
        assert_eq!(setting(pod, memory)?, (256 << 20).to_string());
        assert_eq!(setting(container, memory)?, (64 << 20).to_string());
        assert_eq!(setting(pod, pids)?, "500");
        assert_eq!(setting(container, pids)?, "100");
        if Path::new("/sys/fs/cgroup/cpu").exists() {
            for (path, shares, quota) in [(pod, "512", "150000"), (container, "256", "50000")] {
                let read = |name: &str| setting(path, [("cpu", name), ("cpu", name)]);
                assert_eq!(read("cpu.shares")?, shares);
                assert_eq!(read("cpu.cfs_quota_us")?, quota);
            }
        }
        // The programs of Services are in the v2 tree, so the container has to be there.
        let pid = sandbox.container("main", 0).unwrap().pid.unwrap();
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        assert!(
            cgroups.contains("0::/kubepods/burstable/poda/main.0\n"),
            "{cgroups}"
        );
        let root = CgroupLayout::detect(Path::new("/"))?.unified_root();
        assert!(root.join(container).exists());
        let stats = sandbox.stats(Some(("main", 0)))?;
        assert!(stats.memory_bytes > 0 && stats.pids > 0, "{stats:?}");
        // The pod's are counted at another moment: pages are taken back meanwhile, and processes end.
        let pod = sandbox.stats(None)?;
        assert!(pod.memory_bytes > 0 && pod.pids > 0, "{pod:?}");
        assert!(runtime.stats().pids >= 1);
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

/// Processor time of a process, in clock ticks (proc(5), stat, fields 14 and 15).
fn cpu_ticks(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    let times = after.split_whitespace().skip(11).take(2);
    Ok(times.filter_map(|field| field.parse::<u64>().ok()).sum())
}

#[test]
fn a_flood_of_logs_costs_the_pod_and_not_the_node() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let mut spec = sandbox("a");
        spec.resources.cpu_quota_us = Some(10_000);
        let sandbox = runtime.create_sandbox(spec).await?;
        let shim = sandbox.shim_pid();
        let pod = "kubepods/besteffort/poda";
        let cgroups = std::fs::read_to_string(format!("/proc/{shim}/cgroup"))?;
        for line in cgroups.lines() {
            let counts = ["0::", ":memory:", ":cpu:", ":pids:", ":name=systemd:"];
            if counts.iter().any(|name| line.contains(name)) {
                assert!(line.ends_with(&format!("/{pod}/shim")), "{cgroups}");
            }
        }
        let memory = [
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.high"),
        ];
        assert_eq!(
            setting(&format!("{pod}/shim"), memory)?,
            (64 << 20).to_string()
        );

        let began = std::time::Instant::now();
        let before = cpu_ticks(shim)?;
        sandbox.start_container(shell("main", "yes")).await?;
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let used = cpu_ticks(shim)? - before;
        // The pod may use a tenth of a processor, and the container has its part of that. A tick is 10 ms.
        let wall = u64::try_from(began.elapsed().as_millis())? / 10;
        assert!(used * 10 < wall * 3, "{used} of {wall} ticks");
        assert!(std::fs::metadata(sandbox.log_path("main", 0))?.len() > 0);
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_container_that_eats_memory_is_oom_killed() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let mut spec = shell("main", "head -c 200m /dev/zero | tail -n 1");
        // The program itself is killed, not a child of it.
        spec.args = ["tail", "-n", "1", "/dev/zero"].map(str::to_owned).to_vec();
        spec.resources.memory_bytes = Some(32 << 20);
        sandbox.start_container(spec).await?;
        let state = exited(&sandbox, "main", 0).await?;
        assert_eq!(outcome(&state), (137, ExitReason::OOMKilled, ""));
        // A child that is killed shows too, when the container fails of it.
        let mut spec = shell("child", "tail -n 1 /dev/zero; exit 9");
        spec.resources.memory_bytes = Some(32 << 20);
        sandbox.start_container(spec).await?;
        let state = exited(&sandbox, "child", 0).await?;
        assert_eq!(outcome(&state), (9, ExitReason::OOMKilled, ""));
        // The next one starts with a clean slate.
        let mut spec = shell("next", "exit 5");
        spec.resources.memory_bytes = Some(32 << 20);
        sandbox.start_container(spec).await?;
        let state = exited(&sandbox, "next", 0).await?;
        assert_eq!(outcome(&state), (5, ExitReason::Error, ""));
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn the_pids_limit_stops_a_fork_bomb() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let script = "for n in $(seq 100); do sleep 100 & done; echo all";
        let mut spec = shell("main", script);
        spec.resources.pids = Some(20);
        let (code, text) = run(&sandbox, spec).await?;
        assert_ne!(code, 0, "{text}");
        assert!(text.contains("can't fork"), "{text}");
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn logs_are_rotated_and_read_as_one() {
    use futures::StreamExt;
    on_host(|host| async move {
        host.runtime().await?;
        let mut config = host.config();
        config.log = knarr_pod::LogPolicy {
            file_bytes_max: 20_000,
            files_max: 3,
        };
        let runtime = knarr_runtime::Runtime::open(config).await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let spec = shell(
            "main",
            "for n in $(seq 2000); do echo line $n; done; printf end",
        );
        let (code, _) = run(&sandbox, spec).await?;
        assert_eq!(code, 0);
        let path = runtime.log_path("default", "pod-a", "a", "main", 0);
        let files = std::fs::read_dir(path.parent().unwrap())?.count();
        assert_eq!(files, 3);
        let mut stream = knarr_runtime::logs::read(path, knarr_runtime::logs::LogQuery::default());
        let mut text = Vec::new();
        while let Some(chunk) = stream.next().await {
            text.extend(chunk?);
        }
        let text = String::from_utf8(text)?;
        let kept: Vec<&str> = text.lines().collect();
        assert_eq!(kept.last(), Some(&"end"));
        let first: usize = kept.first().unwrap().trim_start_matches("line ").parse()?;
        let expected: Vec<String> = (first..=2000).map(|n| format!("line {n}")).collect();
        assert_eq!(kept.get(..kept.len() - 1).unwrap(), expected);
        assert!(kept.len() > 1000, "{}", kept.len());
        sandbox.destroy().await?;
        runtime.remove_pod("a").await?;
        assert!(!host.dir.join("data/logs/default_pod-a_a").exists());
        host.assert_clean().await
    });
}
