// SPDX-License-Identifier: Apache-2.0
//! The agent goes and comes back; shims and everything else may die at any time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use knarr_pod::{ContainerPhase, ExitReason, SandboxState};
use knarr_runtime::{Runtime, RuntimeError};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::harness::{exited, on_host, outcome, output, sandbox, shell};

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_new_agent_adopts_running_containers_and_exit_codes() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let script = "echo one; while [ ! -e /dev/shm/go ]; do sleep 0.02; done; echo two; exit 4";
        pod.start_container(shell("ends", script)).await?;
        pod.start_container(shell("stays", "sleep 1000")).await?;
        let before = pod.container("stays", 0).unwrap();
        let pause = pod.pause_pid();
        drop(pod);
        drop(runtime);
        // While nobody is there, one of them goes on, writes and ends.
        std::fs::write(host.dir.join("run/sandboxes/a/shm/go"), "")?;
        tokio::time::sleep(Duration::from_millis(300)).await;

        let runtime = Runtime::open(host.config()).await?;
        let adopted = runtime.adopt().await?;
        assert_eq!(adopted.len(), 1);
        let pod = adopted.into_iter().next().unwrap();
        assert_eq!((pod.uid(), pod.pause_pid()), ("a", pause));
        assert_eq!(pod.state(), SandboxState::Ready);
        let state = exited(&pod, "ends", 0).await?;
        assert_eq!(outcome(&state), (4, ExitReason::Error, ""));
        assert_eq!(output(&pod, "ends", 0)?, "one\ntwo\n");
        assert_eq!(pod.container("stays", 0), Some(before));
        pod.netns()?;
        pod.kill("stays", 0).await?;
        assert_eq!(outcome(&exited(&pod, "stays", 0).await?).0, 137);
        pod.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_killed_shim_takes_its_containers_along_and_that_is_told() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        pod.start_container(shell("done", "exit 2")).await?;
        exited(&pod, "done", 0).await?;
        pod.start_container(shell("main", "sleep 1000")).await?;
        kill(pod.shim_pid());
        let state = exited(&pod, "main", 0).await?;
        let (code, reason, message) = outcome(&state);
        assert_eq!((code, reason), (137, ExitReason::ContainerStatusUnknown));
        assert!(message.contains("shim"), "{message}");
        // What was known stays known.
        assert_eq!(outcome(&pod.container("done", 0).unwrap()).0, 2);
        assert!(matches!(pod.state(), SandboxState::Dead { .. }));
        assert!(pod.start_container(shell("late", "true")).await.is_err());
        // Another agent sees the same.
        let other = Runtime::open(host.config()).await?;
        let adopted = other.adopt().await?;
        let same = adopted.first().unwrap();
        assert_eq!(same.containers(), pod.containers());
        assert!(matches!(same.state(), SandboxState::Dead { .. }));
        same.destroy().await?;
        host.assert_clean().await?;
        // The pod can be made again.
        let pod = other.create_sandbox(sandbox("a")).await?;
        pod.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_killed_pause_process_makes_the_sandbox_dead() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        pod.start_container(shell("main", "sleep 1000")).await?;
        let mut changes = pod.changes();
        kill(pod.pause_pid());
        while pod.state() == SandboxState::Ready {
            changes.changed().await?;
        }
        assert!(pod.container("main", 0).unwrap().is_live());
        assert!(pod.netns().is_err());
        pod.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_running_pod_whose_state_cannot_be_read_is_left_running() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let dir = |uid: &str| host.dir.join("run/sandboxes").join(uid);
        let mut pods = Vec::new();
        for uid in ["newer", "foreign", "whole", "gone"] {
            let pod = runtime.create_sandbox(sandbox(uid)).await?;
            pod.start_container(shell("main", "sleep 1000")).await?;
            pods.push(pod);
        }
        let newer = std::fs::read_to_string(dir("newer").join("state.json"))?;
        let newer = newer.replacen("\"format\":1", "\"format\":1000", 1);
        std::fs::write(dir("newer").join("state.json"), newer)?;
        std::fs::write(dir("foreign").join("sandbox.json"), "{\"spec\": 1}")?;
        kill(pods[3].shim_pid());
        while pods[3].state() == SandboxState::Ready {
            tokio::task::yield_now().await;
        }
        std::fs::write(dir("gone").join("state.json"), "")?;

        let other = Runtime::open(host.config()).await?;
        let adopted = other.adopt().await?;
        assert_eq!(adopted.len(), 1);
        assert_eq!(adopted[0].uid(), "whole");
        for (n, uid) in ["newer", "foreign"].into_iter().enumerate() {
            let error = other.adopt_one(uid).await.unwrap_err();
            assert!(
                matches!(error, RuntimeError::Unreadable { .. }),
                "{uid}: {error}"
            );
            assert!(error.to_string().contains("left as it is"), "{error}");
            assert!(pods[n].container("main", 0).unwrap().is_live(), "{uid}");
            assert_eq!(pods[n].state(), SandboxState::Ready, "{uid}");
            // It can be taken away on purpose, and made anew.
            other.destroy_sandbox(uid).await?;
            assert!(other.adopt_one(uid).await?.is_none());
        }
        // Nobody holds what is in it any more.
        assert!(other.adopt_one("gone").await?.is_none());
        assert!(!dir("gone").exists());
        let whole = other.adopt_one("whole").await?.unwrap();
        assert!(whole.container("main", 0).unwrap().is_live());
        whole.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn whatever_a_crash_leaves_is_pruned() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let kept = runtime.create_sandbox(sandbox("kept")).await?;
        kept.start_container(shell("main", "sleep 1000")).await?;
        for uid in ["whole", "shimless", "stateless", "forgotten"] {
            let pod = runtime.create_sandbox(sandbox(uid)).await?;
            pod.start_container(shell("main", "sleep 1000")).await?;
            let dir = host.dir.join("run/sandboxes").join(uid);
            match uid {
                "shimless" => kill(pod.shim_pid()),
                "stateless" => std::fs::remove_file(dir.join("state.json"))?,
                // As after a reboot with the run directory gone, but worse: the processes are there.
                "forgotten" => {
                    kill(pod.shim_pid());
                    // It would write down what became of the shim.
                    drop(pod);
                    umount2(&dir.join("shm"), MntFlags::MNT_DETACH)?;
                    std::fs::remove_dir_all(&dir)?;
                }
                _ => {}
            }
        }
        let volume = runtime.volume_dir("whole", "kubernetes.io~empty-dir", "memory");
        knarr_runtime::volume::make_memory(&volume, Some(1 << 20), None)?;
        drop(runtime);

        let runtime = Runtime::open(host.config()).await?;
        let pruned = runtime.prune(&["kept".to_owned()]).await?;
        assert_eq!(pruned.sandboxes, ["shimless", "stateless", "whole"]);
        assert_eq!(
            pruned.pod_dirs,
            ["forgotten", "shimless", "stateless", "whole"]
        );
        assert_eq!(pruned.log_dirs.len(), 4);
        assert!(pruned.mounts.contains(&volume), "{:?}", pruned.mounts);
        assert!(kept.container("main", 0).unwrap().is_live());
        assert_eq!(runtime.adopt().await?.len(), 1);
        assert_eq!(
            runtime.prune(&["kept".to_owned()]).await?,
            Default::default()
        );
        kept.destroy().await?;
        host.assert_clean().await
    });
}

/// Pods that are being made when everything is killed.
const PODS: usize = 100;
/// So many of them run by then: some are there, some half there, some not begun.
const PODS_MADE_MIN: usize = 5;

#[test]
fn everything_killed_while_a_hundred_pods_are_made_leaves_nothing() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let (running, mut made) = tokio::sync::mpsc::channel(PODS);
        let mut tasks = Vec::new();
        for n in 0..PODS {
            let (runtime, running) = (runtime.clone(), running.clone());
            tasks.push(tokio::spawn(async move {
                let pod = runtime.create_sandbox(sandbox(&format!("p{n}"))).await?;
                let state = pod.start_container(shell("main", "sleep 1000")).await?;
                assert!(matches!(state.phase, ContainerPhase::Running { .. }));
                running.send(()).await?;
                anyhow::Ok(())
            }));
        }
        // The tasks hold the others: when all have failed, nothing is waited for any more.
        drop(running);
        for _ in 0..PODS_MADE_MIN {
            made.recv().await.context("a pod cannot be made")?;
        }
        for task in &tasks {
            task.abort();
        }
        let mut count = PODS_MADE_MIN;
        while made.try_recv().is_ok() {
            count += 1;
        }
        assert!(count < PODS, "all were made before anything was killed");
        let processes = || -> Result<Vec<i32>> {
            let own = i32::try_from(std::process::id())?;
            let mut found = Vec::new();
            for entry in std::fs::read_dir("/proc")?.flatten() {
                let name = entry.file_name();
                let pid = name.to_str().and_then(|n| n.parse::<i32>().ok());
                found.extend(pid.filter(|pid| *pid != own));
            }
            Ok(found)
        };
        // Whoever was just being made when the others were killed is seen in the next round.
        let mut quiet = 0;
        while quiet < 3 {
            let pids = processes()?;
            quiet = if pids.is_empty() { quiet + 1 } else { 0 };
            for pid in pids {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                // The test is the first process of its host: orphans are its to reap.
                let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(runtime);
        let runtime = Runtime::open(host.config()).await?;
        let adopted = runtime.adopt().await?;
        assert!(adopted.len() >= PODS_MADE_MIN, "{}", adopted.len());
        for pod in adopted {
            assert!(
                pod.containers()
                    .iter()
                    .all(|c| !c.is_live() || pod.state() != SandboxState::Ready)
            );
        }
        runtime.prune(&[]).await?;
        host.assert_clean().await?;
        let pod = runtime.create_sandbox(sandbox("p0")).await?;
        pod.start_container(shell("main", "sleep 1000")).await?;
        pod.destroy().await?;
        host.assert_clean().await
    });
}

/// Takes all the room that is left on a file system of its own.
fn fill(path: &Path) -> Result<()> {
    const PAGE: [u8; 4096] = [7; 4096];
    let mut file = std::fs::File::create(path)?;
    while std::io::Write::write_all(&mut file, &PAGE).is_ok() {}
    Ok(())
}

#[test]
fn states_that_a_full_disk_does_not_take_are_told_and_written_when_there_is_room() {
    on_host(|host| async move {
        let run = host.run_dir();
        let small = Some("size=8m");
        mount(Some("tmpfs"), &run, Some("tmpfs"), MsFlags::empty(), small)?;
        let full = run.join("full");
        let runtime = host.runtime().await?;

        let pod = runtime.create_sandbox(sandbox("a")).await?;
        for name in ["main", "one", "two"] {
            pod.start_container(shell(name, "sleep 1000")).await?;
        }
        let ends = |text: &str| text.matches("\"exit_code\":137").count();
        let written = || std::fs::read_to_string(run.join("sandboxes/a/state.json"));
        fill(&full)?;
        for name in ["one", "two"] {
            pod.kill(name, 0).await?;
            assert_eq!(outcome(&exited(&pod, name, 0).await?).0, 137);
        }
        assert_eq!(ends(&written()?), 0, "the disk was not full");
        std::fs::remove_file(&full)?;
        let retried = async {
            while ends(&written()?) < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(20), retried).await??;

        // The file is behind what the shim has told when it dies; there is room again, or there is none.
        let other = runtime.create_sandbox(sandbox("b")).await?;
        for name in ["main", "one", "two", "three"] {
            other.start_container(shell(name, "sleep 1000")).await?;
        }
        fill(&full)?;
        for name in ["one", "two", "three"] {
            other.kill(name, 0).await?;
            exited(&other, name, 0).await?;
        }
        kill(pod.shim_pid());
        let main = exited(&pod, "main", 0).await?;
        assert_eq!(outcome(&main).1, ExitReason::ContainerStatusUnknown);
        std::fs::remove_file(&full)?;
        kill(other.shim_pid());
        let main = exited(&other, "main", 0).await?;
        assert_eq!(outcome(&main).1, ExitReason::ContainerStatusUnknown);
        assert!(matches!(other.state(), SandboxState::Dead { .. }));
        // What was seen stays seen.
        let one = other.container("one", 0).unwrap();
        assert_eq!(outcome(&one).1, ExitReason::Error);
        let another = Runtime::open(host.config()).await?;
        let same = another.adopt_one("b").await?.unwrap();
        assert_eq!(same.containers(), other.containers());

        pod.destroy().await?;
        other.destroy().await?;
        umount2(&run, MntFlags::MNT_DETACH)?;
        std::fs::create_dir_all(run.join("sandboxes"))?;
        host.assert_clean().await
    });
}
