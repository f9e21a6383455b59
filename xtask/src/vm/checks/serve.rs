// SPDX-License-Identifier: Apache-2.0
//! A deployment behind a Service, and what must not disturb it.

use anyhow::ensure;

use super::{CALL, LIMIT, Service, Stage};
use crate::vm::machine::{FIRST, Machine, address};
use crate::vm::readme;

/// How many pods the deployment has.
const REPLICAS: usize = 2;
/// Calls in one look: with two pods it is unlikely that all of them meet the same one, and each has to be answered.
const CALLS: usize = 4;

pub fn deploys(stage: &mut Stage) -> anyhow::Result<()> {
    let import = readme::fill(&stage.commands.image, &[("FILE", "/root/knarr-echo.tar")])?
        + &readme::fill(&stage.commands.image, &[("FILE", "/root/knarr-shell.tar")])?;
    let machine = stage.first()?;
    machine.ok(&import, LIMIT)?;
    machine.ok(
        &format!(
            "set -e\n\
             kubectl create deployment web --image=localhost/knarr-echo:dev --replicas={REPLICAS}\n\
             kubectl expose deployment web --port=80 --target-port=8080 --type=NodePort"
        ),
        CALL,
    )?;
    machine.eventually(
        "the pods run",
        "kubectl rollout status deployment/web --timeout=20s || \
         { kubectl get pods; kubectl get events | tail -n 5; journalctl -u knarr-agent -n 10 --no-pager; false; }",
        LIMIT,
    )?;
    let read = |machine: &mut Machine, path: &str| {
        machine.ok(
            &format!("kubectl get service web --output jsonpath={{{path}}}"),
            CALL,
        )
    };
    let service = Service {
        cluster_ip: read(machine, ".spec.clusterIP")?,
        node_port: read(machine, ".spec.ports[0].nodePort")?,
    };
    reached(machine, &service)?;
    stage.service = Some(service);
    Ok(())
}

/// Calls the Service by its ClusterIP and by its NodePort; every call has to be answered.
pub fn reached(machine: &mut Machine, service: &Service) -> anyhow::Result<()> {
    let Service {
        cluster_ip,
        node_port,
    } = service;
    let node = address(machine.name);
    machine.ok(
        &format!(
            "for _ in $(seq {CALLS}); do for to in {cluster_ip}:80 {node}:{node_port}; do \
             curl --silent --show-error --fail --max-time 20 http://$to/ || {{ echo \"$to does not answer\"; exit 1; }}; echo; done; done"
        ),
        LIMIT,
    )?;
    Ok(())
}

/// Every pod of the deployment is ready and no container was started twice.
pub fn never_restarted(machine: &mut Machine) -> anyhow::Result<()> {
    let seen = machine.ok(
        r#"kubectl get pods --selector app=web --output jsonpath='{range .items[*]}{.status.containerStatuses[0].restartCount}{" "}{.status.containerStatuses[0].ready}{"\n"}{end}'"#,
        CALL,
    )?;
    let pods: Vec<&str> = seen.lines().collect();
    ensure!(
        pods == vec!["0 true"; REPLICAS],
        "restarts, ready: {pods:?}"
    );
    Ok(())
}

/// What systemd gives to a unit and a pod has from it: no limit that counts other pods' processes, the usual mask for new
/// files, no filter of system calls, every capability left to give.
pub fn limits(stage: &mut Stage) -> anyhow::Result<()> {
    let machine = stage.first()?;
    let seen = machine.ok(
        "pid=$(pgrep --oldest knarr-echo)\n\
         grep -E '^Max (processes|core file size|locked memory|open files) ' /proc/$pid/limits | tr --squeeze-repeats ' '\n\
         grep -E '^(Umask|NoNewPrivs):' /proc/$pid/status | tr '\\t' ' '\n\
         grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/$(systemctl show knarr-agent --property=MainPID --value)/status | tr '\\t' ' '",
        CALL,
    )?;
    for line in [
        "Max processes unlimited unlimited processes ",
        "Max locked memory unlimited unlimited bytes ",
        "Max open files 1048576 1048576 files ",
        "Umask: 0022",
        "NoNewPrivs: 0",
        "Seccomp: 0",
    ] {
        ensure!(
            seen.lines().any(|found| found == line),
            "`{line}` is not among\n{seen}"
        );
    }
    Ok(())
}

/// What both programs have logged since the machine booted.
pub fn quiet_journal(stage: &mut Stage) -> anyhow::Result<()> {
    let machine = stage.first()?;
    let said = machine.ok(
        "journalctl --boot --unit knarr-agent --unit knarr-control --no-pager | grep -E ' (WARN|ERROR) |panicked' | tail -n 20 || true",
        CALL,
    )?;
    ensure!(said.trim().is_empty(), "{said}");
    Ok(())
}

pub fn agent_stopped(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let machine = stage.first()?;
    machine.ok("systemctl stop knarr-agent", CALL)?;
    reached(machine, &service)?;
    machine.ok("systemctl start knarr-agent", CALL)?;
    ready(machine)?;
    never_restarted(machine)
}

/// The node reports again: its agent has made a session with the control plane that runs now.
pub fn ready(machine: &mut Machine) -> anyhow::Result<()> {
    machine.eventually(
        "the agent is connected and the node Ready",
        &format!(
            "kubectl wait --for=condition=Ready node/{FIRST} --timeout=20s && \
             curl --silent --fail --max-time 10 http://127.0.0.1:10248/healthz"
        ),
        LIMIT,
    )?;
    Ok(())
}

pub fn rebooted(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let machine = stage.first()?;
    let before = machine.ok("cat /proc/sys/kernel/random/boot_id", CALL)?;
    machine.ok("systemctl disable knarr-control", CALL)?;
    machine.ok("systemd-run --on-active=1 systemctl reboot", CALL)?;
    machine.wait_boot(Some(before.trim()))?;
    let control = machine.run("systemctl is-active knarr-control", CALL)?;
    ensure!(
        control.code != 0,
        "the control plane runs: {}",
        control.text
    );
    machine.eventually(
        "the pods serve",
        &format!(
            "curl --silent --show-error --fail --max-time 10 http://{}:80/ || {{ journalctl -u knarr-agent -n 10 --no-pager; false; }}",
            service.cluster_ip
        ),
        LIMIT,
    )?;
    reached(machine, &service)?;
    machine.ok("systemctl enable --now knarr-control", CALL)?;
    ready(machine)?;
    reached(machine, &service)
}
