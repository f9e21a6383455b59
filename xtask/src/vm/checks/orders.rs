// SPDX-License-Identifier: Apache-2.0
//! `systemctl` in every order, and what else systemd does to a machine: no order of starts and stops may lose a pod, and
//! nothing that systemd sets again may undo what the agent has set.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::serve::{never_restarted, reached, ready};
use super::{CALL, LIMIT, Stage};
use crate::ui;

/// Two programs, running at first. Each line ends with both running.
const ORDERS: [&[&str]; 8] = [
    // Agent before control plane, and the other way.
    &[
        "stop knarr-control knarr-agent",
        "start knarr-agent",
        "start knarr-control",
    ],
    &[
        "stop knarr-agent",
        "stop knarr-control",
        "start knarr-control",
        "start knarr-agent",
    ],
    &[
        "stop knarr-control",
        "stop knarr-agent",
        "start knarr-control knarr-agent",
    ],
    &[
        "stop knarr-control",
        "restart knarr-agent",
        "start knarr-control",
    ],
    &["restart knarr-control", "restart knarr-agent"],
    &["restart knarr-agent", "restart knarr-control"],
    &["restart knarr-agent knarr-control"],
    // Not asked: a crash of both.
    &["kill --signal=KILL knarr-agent knarr-control"],
];
/// More failures in a row than systemd's default limit allows (5 in 10 s): a unit that keeps it stays down.
const FAILED_STARTS: u32 = 7;

/// How long something may be gone that systemd has undone; the agent needs milliseconds on a machine that is not emulated.
const SET_AGAIN_LIMIT: Duration = Duration::from_secs(20);

/// After each order the control plane is asked for one pod more or one less: that needs both programs and their session.
pub fn every_order(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let machine = stage.first()?;
    for (number, order) in ORDERS.iter().enumerate() {
        let words = order.join(", ");
        for command in *order {
            machine.ok(&format!("systemctl {command}"), LIMIT)?;
        }
        reached(machine, &service)?;
        let replicas = if number % 2 == 0 { 3 } else { 2 };
        machine.eventually(
            &format!("after `{words}` the deployment is scaled"),
            &format!(
                "kubectl scale deployment web --replicas={replicas} && kubectl rollout status deployment/web --timeout=50s"
            ),
            LIMIT,
        )?;
    }
    ready(machine)?;
    machine.eventually(
        "two pods are left",
        r#"[ "$(kubectl get pods --selector app=web --output name | wc -l)" = 2 ]"#,
        LIMIT,
    )?;
    never_restarted(machine)
}

/// An agent that cannot start yet, because the machine has no address but that of a bridge for containers, starts when
/// there is one, however often it had to try.
pub fn keeps_trying(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let machine = stage.first()?;
    machine.ok(
        "set -e\n\
         systemctl stop knarr-agent systemd-networkd.socket systemd-networkd\n\
         ip link add docker0 type bridge\n\
         ip address add 172.17.0.1/16 dev docker0\n\
         ip link set docker0 up\n\
         ip address flush dev $(ls -d /sys/class/net/en* | xargs basename)",
        CALL,
    )?;
    machine.ok("systemctl start --no-block knarr-agent", CALL)?;
    let tried = machine.eventually(
        "the agent is started again and again",
        &format!(
            r#"n=$(systemctl show knarr-agent --property=NRestarts --value); echo "$n"; [ "$n" -ge {FAILED_STARTS} ] && [ "$(systemctl is-failed knarr-agent)" != failed ]"#
        ),
        LIMIT,
    );
    machine.ok(
        "ip link delete docker0; systemctl start systemd-networkd",
        CALL,
    )?;
    tried?;
    ready(machine)?;
    // The control plane has counted the pods of a node that was silent for long as not ready.
    machine.eventually(
        "the pods count as ready again",
        "kubectl rollout status deployment/web --timeout=20s",
        LIMIT,
    )?;
    machine.eventually(
        "the Service has its endpoints again",
        &format!(
            "curl --silent --show-error --fail --max-time 20 http://{}:80/",
            service.cluster_ip
        ),
        LIMIT,
    )?;
    reached(machine, &service)?;
    never_restarted(machine)
}

/// Everything that a machine's own services set again: links and routes, kernel settings, cgroups. Distributions do it
/// on every update of systemd.
pub fn systemd_sets_again(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let machine = stage.first()?;
    // A pod whose limits would be lost with its cgroup's controllers.
    machine.ok(
        "kubectl set resources deployment web --limits=memory=64Mi,cpu=500m --requests=memory=16Mi,cpu=50m && \
         kubectl rollout status deployment/web --timeout=100s",
        LIMIT,
    )?;
    machine.eventually(
        "the old pods are gone",
        r#"[ "$(kubectl get pods --selector app=web --output name | wc -l)" = 2 ]"#,
        LIMIT,
    )?;
    const SEEN: &str = "ip route | grep -v ' dev en' | sort; echo; \
         find /sys/fs/cgroup -name memory.max -path '*pod*' | sort | xargs grep -H . ; \
         find /sys/fs/cgroup -name cpu.max -path '*pod*' | sort | xargs grep -H . ; \
         ip -brief link | grep -v ' UNKNOWN' | awk '{print $1, $3}' | sort";
    let before = machine.ok(SEEN, CALL)?;
    ensure!(
        before.contains("67108864") && before.contains("50000 100000"),
        "the pods' limits are not in their cgroups:\n{before}"
    );
    for command in [
        "systemctl restart systemd-networkd",
        "networkctl reload",
        "systemctl daemon-reload",
        "systemctl daemon-reexec",
        "udevadm trigger --settle",
        "systemctl restart systemd-sysctl",
    ] {
        machine.ok(command, CALL)?;
        // Netlink reports that a route is gone, and the agent sets it again.
        let end = Instant::now() + SET_AGAIN_LIMIT;
        let after = loop {
            let seen = machine.ok(SEEN, CALL)?;
            if seen == before || Instant::now() >= end {
                break seen;
            }
            std::thread::sleep(Duration::from_secs(1));
        };
        ensure!(
            before == after,
            "`{command}` changed what the agent has set, from\n{before}\nto\n{after}"
        );
        reached(machine, &service)?;
    }
    ui::line("routes, links and limits stay through a reload of everything");
    never_restarted(machine)
}
