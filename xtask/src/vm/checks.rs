// SPDX-License-Identifier: Apache-2.0
//! The checks, in the order of a machine's life, and what one leaves to the next.

mod faults;
mod install;
mod orders;
mod second;
mod serve;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use super::image::Image;
use super::machine::{self, FIRST, Machine, SECOND};
use super::readme::{self, Commands, Join};

/// One command on an emulated machine, beside other work.
pub const CALL: Duration = Duration::from_secs(60);
/// Something that takes a cluster a few seconds.
pub const LIMIT: Duration = Duration::from_secs(180);

/// One check.
pub struct Check {
    /// A true sentence.
    pub name: &'static str,
    /// Whether others build on it.
    pub needed: Needed,
    /// What it does.
    pub run: fn(&mut Stage) -> anyhow::Result<()>,
}

/// What is lost when a check is left out or fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// Everything after it.
    ByAll,
    /// Nothing.
    IfAsked,
}

const fn needed(name: &'static str, run: fn(&mut Stage) -> anyhow::Result<()>) -> Check {
    Check {
        name,
        needed: Needed::ByAll,
        run,
    }
}

const fn check(name: &'static str, run: fn(&mut Stage) -> anyhow::Result<()>) -> Check {
    Check {
        name,
        needed: Needed::IfAsked,
        run,
    }
}

/// Every check.
pub const ALL: [Check; 19] = [
    needed("a stock machine boots", install::boots),
    needed(
        "the README's commands start a control plane and print how to join",
        install::control_plane,
    ),
    needed(
        "the README's commands make the machine a node that is Ready",
        install::node,
    ),
    check("systemd finds no fault in the units", install::units),
    needed(
        "a deployment runs and its Service is reached",
        serve::deploys,
    ),
    check(
        "a pod has the limits of a container, not those of a unit",
        serve::limits,
    ),
    check(
        "the journal has no warning and no error",
        serve::quiet_journal,
    ),
    check(
        "the control plane takes over data that belongs to root",
        install::takes_over_data,
    ),
    check(
        "the Service is reached while the agent is stopped",
        serve::agent_stopped,
    ),
    check(
        "the README's upgrade under load fails no call and restarts no container",
        faults::upgraded,
    ),
    check("systemctl in every order loses no pod", orders::every_order),
    check(
        "an agent that cannot start yet keeps trying",
        orders::keeps_trying,
    ),
    check(
        "what systemd sets again leaves routes, links and limits alone",
        orders::systemd_sets_again,
    ),
    check(
        "a data directory and /tmp that are noexec, nosuid and nodev do",
        faults::hardened_mounts,
    ),
    check(
        "a full disk is said, and everything goes on when there is room",
        faults::disk_full,
    ),
    check(
        "a second machine joins and all pods are reached from both",
        second::joins,
    ),
    check(
        "a node whose address changes is found at the new one",
        second::changes_address,
    ),
    check("a machine that leaves is forgotten", second::leaves),
    check(
        "pods serve after a reboot without a control plane",
        serve::rebooted,
    ),
];

/// What is on the stage.
pub struct Stage {
    image: Image,
    delivery: PathBuf,
    commands: Commands,
    first: Option<Machine>,
    second: Option<Machine>,
    join: Option<Join>,
    service: Option<Service>,
}

/// How the Service of the deployment is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    cluster_ip: String,
    node_port: String,
}

impl Stage {
    /// Nothing is running yet.
    pub fn new(image: Image, delivery: PathBuf) -> anyhow::Result<Self> {
        Ok(Self {
            image,
            delivery,
            commands: readme::read()?,
            first: None,
            second: None,
            join: None,
            service: None,
        })
    }

    /// The machines that were started.
    pub fn machines(&self) -> Vec<&'static str> {
        [&self.first, &self.second]
            .into_iter()
            .flatten()
            .map(|machine| machine.name)
            .collect()
    }

    fn start_first(&mut self) -> anyhow::Result<&mut Machine> {
        let machine = Machine::start(FIRST, &self.image, &self.delivery)?;
        Ok(self.first.insert(machine))
    }

    fn first(&mut self) -> anyhow::Result<&mut Machine> {
        self.first.as_mut().context("the first machine was started")
    }

    fn start_second(&mut self) -> anyhow::Result<&mut Machine> {
        let machine = Machine::start(SECOND, &self.image, &self.delivery)?;
        Ok(self.second.insert(machine))
    }

    fn both(&mut self) -> anyhow::Result<(&mut Machine, &mut Machine)> {
        let first = self.first.as_mut();
        let second = self.second.as_mut();
        first
            .zip(second)
            .context("the check before this one has started the second machine")
    }

    fn end_second(&mut self) -> anyhow::Result<()> {
        self.both()?;
        self.second = None;
        machine::end(SECOND)
    }

    fn service(&self) -> anyhow::Result<Service> {
        self.service.clone().context("the deployment has a Service")
    }
}
