// SPDX-License-Identifier: Apache-2.0
//! A stock machine, and the README's commands on it.

use anyhow::Context;

use super::{CALL, LIMIT, Stage};
use crate::ui;
use crate::vm::machine::{Machine, address};
use crate::vm::readme::{self, Join};

/// The machine is what a user's is: if it were not, the checks would show nothing.
pub fn boots(stage: &mut Stage) -> anyhow::Result<()> {
    let machine = stage.start_first()?;
    wait_for_boot(machine)?;
    for (what, script) in [
        (
            "Debian 12 with its own kernel",
            "grep -q bookworm /etc/os-release && uname -r | grep '^6.1.'",
        ),
        (
            "cgroup v2 alone",
            r#"[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]"#,
        ),
        (
            "nothing may be executed from /run",
            "findmnt -no OPTIONS /run | grep -w noexec",
        ),
    ] {
        machine.ok(script, CALL).context(what)?;
    }
    bring(machine)?;
    let seen = machine.ok("uname -r; findmnt -no FSTYPE,OPTIONS /run", CALL)?;
    ui::line(&seen.trim().replace('\n', ", /run: "));
    Ok(())
}

/// Waits until the machine has booted, every unit of it, and has its address.
pub fn wait_for_boot(machine: &mut Machine) -> anyhow::Result<()> {
    machine.wait_boot(None)?;
    machine.eventually(
        "the boot comes to its end",
        "systemctl is-system-running || { systemctl --failed --no-pager; systemctl list-jobs --no-pager; false; }",
        LIMIT,
    )?;
    let address = address(machine.name);
    machine.eventually(
        "the uplink has its address",
        &format!("ip -4 -o address show scope global | grep -w {address}/24"),
        CALL,
    )?;
    Ok(())
}

/// Unpacks what was brought on the second disk.
pub fn bring(machine: &mut Machine) -> anyhow::Result<()> {
    machine.ok(
        "tar -xf /dev/vdb -C /root && install kubectl knarr-echo /usr/local/bin/",
        LIMIT,
    )?;
    Ok(())
}

pub fn control_plane(stage: &mut Stage) -> anyhow::Result<()> {
    let commands = stage.commands.clone();
    let machine = stage.first()?;
    let script = format!("set -e\n{}\n{}", commands.unpack, commands.control);
    let printed = machine.ok(&script, LIMIT)?;
    stage.join = Some(Join::parse(&printed)?);
    Ok(())
}

pub fn node(stage: &mut Stage) -> anyhow::Result<()> {
    let join = stage.join.clone().context("there is a line to join")?;
    let commands = readme::fill_agent(&stage.commands.agent, &join)?;
    let machine = stage.first()?;
    machine.ok(
        &format!("set -e\ncd /root/knarr-*-linux\n{commands}"),
        LIMIT,
    )?;
    machine.eventually(
        "the node is Ready",
        "kubectl wait --for=condition=Ready node/first --timeout=20s || { journalctl -u knarr-agent -n 15 --no-pager; false; }",
        LIMIT,
    )?;
    Ok(())
}

/// A setting that systemd does not know is skipped with a warning, and a line that it cannot read too.
pub fn units(stage: &mut Stage) -> anyhow::Result<()> {
    let machine = stage.first()?;
    let said = machine.ok(
        "cd /root/knarr-*-linux && cp knarr-control.socket /run/ && \
         systemd-analyze verify /etc/systemd/system/knarr-control.service /etc/systemd/system/knarr-agent.service /run/knarr-control.socket; \
         rm /run/knarr-control.socket",
        CALL,
    )?;
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("knarr")).collect();
    anyhow::ensure!(ours.is_empty(), "{}", ours.join("\n"));
    let exposure = machine.ok(
        "systemd-analyze security --no-pager knarr-agent.service; systemd-analyze security --no-pager --threshold=20 knarr-control.service",
        CALL,
    )?;
    for line in exposure
        .lines()
        .filter(|line| line.contains("exposure level"))
    {
        ui::line(line.trim_start_matches('→').trim());
    }
    Ok(())
}

/// An earlier version ran as root, and its data belongs to root.
pub fn takes_over_data(stage: &mut Stage) -> anyhow::Result<()> {
    let machine = stage.first()?;
    machine.ok(
        "set -e; systemctl stop knarr-control; chown -R root:root /var/lib/knarr-control; systemctl start knarr-control\n\
         kubectl get --raw /readyz\n\
         [ \"$(find /var/lib/knarr-control/ ! -user knarr-control)\" = '' ]\n\
         [ \"$(stat --format %U /proc/$(systemctl show knarr-control --property=MainPID --value))\" = knarr-control ]",
        LIMIT,
    )?;
    Ok(())
}
