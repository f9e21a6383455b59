// SPDX-License-Identifier: Apache-2.0
//! The machine goes down: its shims get SIGTERM, end their pods and then themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use knarr_pod::{ContainerPhase, ContainerSpec, ExitReason, PidMode, SandboxState, Shutdown};
use knarr_runtime::{Runtime, Sandbox};
use nix::sys::signal::Signal;

use crate::harness::{Host, exited, on_host, outcome, output, sandbox, shell};

/// The grace of the container that ignores its signal.
const GRACE_SECONDS: u32 = 1;
/// Far longer than a shim needs beyond that, and far shorter than systemd waits.
const END_MAX: Duration = Duration::from_secs(15);

fn send(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

fn stopped_by(signal: Signal, grace_seconds: u32, spec: ContainerSpec) -> ContainerSpec {
    let signal = signal as i32;
    ContainerSpec {
        shutdown: Shutdown {
            signal,
            grace_seconds,
        },
        ..spec
    }
}

/// A container whose first process is a script that has said `ready` when this returns.
async fn start(pod: &Sandbox, spec: ContainerSpec) -> Result<()> {
    let name = spec.name.clone();
    pod.start_container(spec).await?;
    let deadline = Instant::now() + END_MAX;
    while output(pod, &name, 0)? != "ready\n" {
        ensure!(Instant::now() < deadline, "{name} says nothing");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Waits until no process of the host is left but the test's own; returns how long that took.
async fn all_ended(host: &Host) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let left = host.processes();
        if left.is_empty() {
            return Ok(began.elapsed());
        }
        ensure!(began.elapsed() < END_MAX, "still running: {left:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_shim_that_gets_sigterm_stops_its_containers_and_ends() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let waits = "echo ready; while :; do sleep 0.02; done";
        let ends = |signal: &str, code: u32| format!("trap 'exit {code}' {signal}; {waits}");
        start(
            &pod,
            stopped_by(Signal::SIGTERM, 30, shell("term", &ends("TERM", 7))),
        )
        .await?;
        start(
            &pod,
            stopped_by(Signal::SIGQUIT, 30, shell("quit", &ends("QUIT", 8))),
        )
        .await?;
        let ignores = format!("trap '' TERM; {waits}");
        start(
            &pod,
            stopped_by(Signal::SIGTERM, GRACE_SECONDS, shell("ignores", &ignores)),
        )
        .await?;
        pod.start_container(shell("over", "exit 3")).await?;
        exited(&pod, "over", 0).await?;

        send(pod.shim_pid(), Signal::SIGTERM);
        for (name, code) in [("term", 7), ("quit", 8)] {
            assert_eq!(outcome(&exited(&pod, name, 0).await?).0, code, "{name}");
        }
        // No container is started meanwhile: restarts would keep the machine up.
        let refused = pod.start_container(shell("late", "true")).await;
        let refused = refused.map(drop).unwrap_err().to_string();
        assert!(refused.contains("SIGTERM"), "{refused}");
        assert!(pod.container("ignores", 0).unwrap().is_live());
        let ignores = exited(&pod, "ignores", 0).await?;
        let (code, reason, message) = outcome(&ignores);
        assert_eq!((code, reason, message), (137, ExitReason::Error, ""));
        let ContainerPhase::Exited {
            started_at,
            finished_at,
            ..
        } = ignores.phase
        else {
            unreachable!("outcome has seen to it");
        };
        assert!(finished_at > started_at, "{started_at:?} {finished_at:?}");
        all_ended(&host).await?;

        // The next agent finds how each of them ended.
        let other = Runtime::open(host.config()).await?;
        let same = other.adopt_one("a").await?.context("the sandbox")?;
        assert!(matches!(same.state(), SandboxState::Dead { .. }));
        for (name, code) in [("term", 7), ("quit", 8), ("ignores", 137), ("over", 3)] {
            assert_eq!(outcome(&same.container(name, 0).unwrap()).0, code, "{name}");
        }
        same.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_shim_without_containers_and_one_whose_processes_are_shared_end_by_sigterm() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let empty = runtime.create_sandbox(sandbox("empty")).await?;
        let mut spec = sandbox("shared");
        spec.pid = PidMode::Pod;
        let shared = runtime.create_sandbox(spec).await?;
        let leaves_one_behind = "sleep 1000 & echo ready; sleep 1000";
        start(&shared, shell("main", leaves_one_behind)).await?;
        for pod in [&empty, &shared] {
            send(pod.shim_pid(), Signal::SIGTERM);
        }
        let took = all_ended(&host).await?;
        // The shell has no handler and is not the first process of its namespace, so SIGTERM ends it.
        let grace = Shutdown::default().grace_seconds;
        assert!(took < Duration::from_secs(grace.into()), "{took:?}");
        for pod in [empty, shared] {
            pod.destroy().await?;
        }
        host.assert_clean().await
    });
}

#[test]
fn a_shim_outlives_its_agent_and_a_terminal() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        start(&pod, shell("main", "echo ready; sleep 1000")).await?;
        let before = pod.container("main", 0).unwrap();
        let shim = pod.shim_pid();
        drop(pod);
        drop(runtime);
        for signal in [Signal::SIGINT, Signal::SIGHUP] {
            send(shim, signal);
        }
        let runtime = Runtime::open(host.config()).await?;
        let pod = runtime.adopt_one("a").await?.context("the sandbox")?;
        // It answers, so it has read the signals.
        pod.start_container(shell("more", "exit 0")).await?;
        exited(&pod, "more", 0).await?;
        assert_eq!(pod.state(), SandboxState::Ready);
        assert_eq!(pod.container("main", 0), Some(before));
        pod.destroy().await?;
        host.assert_clean().await
    });
}
