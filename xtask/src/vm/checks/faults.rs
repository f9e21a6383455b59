// SPDX-License-Identifier: Apache-2.0
//! What happens to a machine in its life: an upgrade, a full disk, hardened mounts.

use anyhow::ensure;

use super::serve::{never_restarted, reached, ready};
use super::{CALL, LIMIT, Stage};
use crate::ui;

/// Calls a second of each client: an emulated machine answers a few.
const RATE: u32 = 4;
/// No client runs longer, whatever happens to the check.
const SECONDS_MAX: u32 = 600;
/// Fewer calls show nothing.
const CALLS_MIN: usize = 20;

/// New programs in place of the old ones, by the README's commands, while clients call the Service on connections of
/// their own and on one that is kept.
pub fn upgraded(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let upgrade = stage.commands.upgrade.clone();
    let machine = stage.first()?;
    let ip = &service.cluster_ip;
    for (name, keep) in [("calls", ""), ("kept", "--keep")] {
        machine.ok(
            &format!(
                "systemd-run --quiet --unit=load-{name} bash -c \
                 'exec /usr/local/bin/knarr-echo client load {ip}:80 / --rate {RATE} --seconds {SECONDS_MAX} --timeout 30000 {keep} > /run/load-{name}'"
            ),
            CALL,
        )?;
    }
    // Other programs, as another version's are: these end with one byte more.
    let said = machine.ok(
        &format!(
            "set -e\n\
             rm -rf /root/new && cp -r /root/knarr-*-linux /root/new && cd /root/new\n\
             for program in bin/*; do printf x >> $program; done\n\
             {upgrade}\n\
             for name in knarr-control knarr-agent; do\n\
               pid=$(systemctl show $name --property=MainPID --value)\n\
               cmp /proc/$pid/exe /root/new/bin/$name\n\
             done"
        ),
        LIMIT,
    )?;
    ensure!(said.trim().is_empty(), "the upgrade said: {said}");
    ready(machine)?;
    never_restarted(machine)?;
    machine.eventually(
        "the clients have called often enough",
        &format!("for name in calls kept; do [ $(wc -l < /run/load-$name) -ge {CALLS_MIN} ] || exit 1; done"),
        LIMIT,
    )?;
    machine.ok("systemctl stop load-calls load-kept", CALL)?;
    for name in ["calls", "kept"] {
        let report = machine.ok(&format!("cat /run/load-{name}"), CALL)?;
        let failed: Vec<&str> = report
            .lines()
            .filter(|line| line.split(' ').nth(1) == Some("fail"))
            .collect();
        ensure!(
            failed.is_empty(),
            "{name}: {} of {} calls failed, the first: {}",
            failed.len(),
            report.lines().count(),
            failed[0]
        );
        ui::line(&format!(
            "{name}: {} calls, 0 failed",
            report.lines().count()
        ));
    }
    Ok(())
}

/// The one disk of the machine is full: programs, journal and everything else share it.
pub fn disk_full(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let machine = stage.first()?;
    machine.ok("kubectl create configmap before --from-literal=a=b", CALL)?;
    // Most of it by a promise, the last blocks by writing: also those that are kept for root.
    machine.ok(
        "fallocate --length $(( ($(stat --file-system --format %f /) - 20000) * 4096 )) /filler; \
         cat /dev/zero > /filler-2 2>/run/full; grep 'No space left' /run/full",
        LIMIT,
    )?;
    let full = (|| {
        reached(machine, &service)?;
        // The store keeps room ahead, so it takes some writes yet; when it has to grow it says why it cannot.
        let refused = machine.ok(
            "head -c 700000 /dev/zero | tr '\\0' x > /run/value\n\
             for n in $(seq 60); do kubectl create configmap big-$n --from-file=value=/run/value >/dev/null 2>/run/refused || break; done\n\
             cat /run/refused",
            LIMIT,
        )?;
        ensure!(
            refused.contains("the disk that holds the store is full"),
            "a full disk was answered with: {refused}"
        );
        // A program that is restarted on a full disk carries on.
        machine.ok("systemctl restart knarr-control knarr-agent", LIMIT)?;
        machine.eventually("reading goes on", "kubectl get configmap before", LIMIT)?;
        reached(machine, &service)
    })();
    machine.ok("rm -f /filler /filler-2", CALL)?;
    full?;
    machine.eventually(
        "there is room, so it writes",
        "kubectl create configmap after --from-literal=a=b",
        LIMIT,
    )?;
    ready(machine)?;
    machine.eventually(
        "the node takes pods again",
        "kubectl run late --image=localhost/knarr-echo:dev --restart=Never; kubectl wait --for=condition=Ready pod/late --timeout=50s",
        LIMIT,
    )?;
    machine.ok("kubectl delete pod late --timeout=50s", LIMIT)?;
    never_restarted(machine)
}

/// Options that hardening guides want: nothing is executed from /var, /tmp or /run, and no set-user-ID bit counts there.
pub fn hardened_mounts(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let machine = stage.first()?;
    machine.ok(
        "set -e\n\
         for at in /var /tmp; do mount --bind $at $at; mount -o remount,bind,noexec,nosuid,nodev $at; done\n\
         systemctl restart knarr-agent",
        CALL,
    )?;
    ready(machine)?;
    reached(machine, &service)?;
    machine.ok(
        "kubectl run hardened --image=localhost/knarr-shell:dev --restart=Never --command -- /bin/sh -c 'echo it runs; sleep 600'",
        CALL,
    )?;
    machine.eventually(
        "a pod runs from a data directory that is noexec",
        "kubectl logs hardened | grep 'it runs' || { kubectl describe pod hardened | tail -n 5; false; }",
        LIMIT,
    )?;
    machine.ok(
        "kubectl delete pod hardened --timeout=50s\n\
         systemctl stop knarr-agent; umount --lazy /tmp /var; systemctl start knarr-agent",
        LIMIT,
    )?;
    ready(machine)?;
    never_restarted(machine)?;
    reached(machine, &service)
}
