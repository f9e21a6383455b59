// SPDX-License-Identifier: Apache-2.0
//! Sandboxes themselves: namespaces, files, many at once.

use crate::harness::{exited, on_host, output, run, sandbox, shell};
use knarr_runtime::{NetworkMode, PidMode, RuntimeError};
use std::os::fd::AsFd;
use std::time::Instant;

#[test]
fn the_network_namespace_is_new_and_has_loopback_only() {
    on_host(
        "sandboxes::the_network_namespace_is_new_and_has_loopback_only",
        |host| async move {
            let runtime = host.runtime().await?;
            let mut spec = sandbox("a");
            spec.sysctls = vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())];
            let pod = runtime.create_sandbox(spec).await?;
            let inode = |fd: &dyn AsFd| nix::sys::stat::fstat(fd.as_fd()).unwrap().st_ino;
            let own = std::fs::File::open("/proc/self/ns/net")?;
            assert_ne!(inode(&pod.netns()?), inode(&own));
            let script = "ip -o link | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
            let (_, text) = run(&pod, shell("main", script)).await?;
            assert_eq!(text, "1\n0\n");
            pod.destroy().await?;

            let mut spec = sandbox("b");
            spec.network = NetworkMode::Host;
            let pod = runtime.create_sandbox(spec).await?;
            assert_eq!(inode(&pod.netns()?), inode(&own));
            let (_, text) = run(
                &pod,
                shell("main", "ls -l /proc/self/ns/net; ls /sys/class/net"),
            )
            .await?;
            assert!(text.contains(&format!("net:[{}]", inode(&own))), "{text}");
            pod.destroy().await?;

            let mut spec = sandbox("c");
            spec.sysctls = vec![("kernel.panic".into(), "1".into())];
            let refused = runtime.create_sandbox(spec).await.unwrap_err().to_string();
            assert!(refused.contains("kernel.panic"), "{refused}");
            host.assert_clean().await
        },
    );
}

#[test]
fn a_shared_pid_namespace_is_shared_and_ends_with_the_container() {
    on_host(
        "sandboxes::a_shared_pid_namespace_is_shared_and_ends_with_the_container",
        |host| async move {
            let runtime = host.runtime().await?;
            let mut spec = sandbox("a");
            spec.pid = PidMode::Pod;
            let pod = runtime.create_sandbox(spec).await?;
            pod.start_container(shell("one", "sleep 1001 & sleep 1000"))
                .await?;
            let (_, text) = run(&pod, shell("two", "sleep 0.1; ps")).await?;
            assert!(
                text.contains("/pause") && text.contains("sleep 1000"),
                "{text}"
            );
            pod.signal("one", 0, libc::SIGKILL).await?;
            exited(&pod, "one", 0).await?;
            let (_, text) = run(&pod, shell("three", "sleep 0.1; ps")).await?;
            assert!(!text.contains("sleep 100"), "{text}");
            pod.destroy().await?;
            host.assert_clean().await
        },
    );
}

#[test]
fn the_hosts_file_can_be_replaced_while_containers_run() {
    on_host(
        "sandboxes::the_hosts_file_can_be_replaced_while_containers_run",
        |host| async move {
            let runtime = host.runtime().await?;
            let pod = runtime.create_sandbox(sandbox("a")).await?;
            let script = "until grep -q new /etc/hosts; do sleep 0.02; done; cat /etc/hosts";
            pod.start_container(shell("main", script)).await?;
            pod.write_hosts("198.18.0.1\tnew\n").await?;
            exited(&pod, "main", 0).await?;
            assert_eq!(output(&pod, "main", 0)?, "198.18.0.1\tnew\n");
            pod.destroy().await?;
            host.assert_clean().await
        },
    );
}

#[test]
fn names_that_would_leave_their_place_are_refused() {
    on_host(
        "sandboxes::names_that_would_leave_their_place_are_refused",
        |host| async move {
            let runtime = host.runtime().await?;
            for uid in ["", "..", "a/b", "../../etc"] {
                let refused = runtime.create_sandbox(sandbox(uid)).await;
                assert!(matches!(refused, Err(RuntimeError::Refused(_))), "{uid}");
            }
            let pod = runtime.create_sandbox(sandbox("a")).await?;
            let twice = runtime.create_sandbox(sandbox("a")).await;
            assert!(matches!(twice, Err(RuntimeError::Refused(_))));
            let refused = pod.start_container(shell("../x", "true")).await;
            assert!(refused.is_err());
            assert!(
                runtime.remove_pod("a").await.is_err(),
                "it still has a sandbox"
            );
            pod.destroy().await?;
            pod.destroy().await?;
            runtime.remove_pod("a").await?;
            assert!(!runtime.pod_dir("a").exists());
            host.assert_clean().await
        },
    );
}

#[test]
fn a_hundred_pods_start_at_once() {
    on_host(
        "sandboxes::a_hundred_pods_start_at_once",
        |host| async move {
            let runtime = host.runtime().await?;
            let began = Instant::now();
            let mut tasks = Vec::new();
            for n in 0..100 {
                let runtime = runtime.clone();
                tasks.push(tokio::spawn(async move {
                    let pod = runtime.create_sandbox(sandbox(&format!("p{n}"))).await?;
                    pod.start_container(shell("main", "sleep 1000")).await?;
                    anyhow::Ok(pod)
                }));
            }
            let mut pods = Vec::new();
            for task in tasks {
                pods.push(task.await??);
            }
            println!("100 pods run after {:?}", began.elapsed());
            let began = Instant::now();
            for pod in &pods {
                assert!(pod.container("main", 0).unwrap().is_live());
                pod.destroy().await?;
            }
            println!("100 pods are gone after {:?}", began.elapsed());
            host.assert_clean().await
        },
    );
}
