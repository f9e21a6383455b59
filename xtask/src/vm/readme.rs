// SPDX-License-Identifier: Apache-2.0
//! The commands of the README's "On real machines", as they are printed there: what the checks install with is what
//! the README has people type.

use std::fs;

use anyhow::{Context, bail};

use crate::paths;

/// The part of the README.
const HEADING: &str = "## On real machines";
/// The fence of a block of commands.
const FENCE: &str = "```";

/// The blocks of that part, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// Unpacks the archive.
    pub unpack: String,
    /// Installs and starts the control plane; prints the line that joins a node.
    pub control: String,
    /// Installs and starts an agent, with places for what that line says.
    pub agent: String,
    /// Imports an image.
    pub image: String,
    /// Replaces both programs.
    pub upgrade: String,
}

/// What the line of `knarr-control token create` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    pub server: String,
    pub token: String,
    pub ca_hash: String,
}

/// Reads the README of this checkout.
pub fn read() -> anyhow::Result<Commands> {
    let text = fs::read_to_string(paths::root().join("README.md")).context("no README.md")?;
    parse(&text)
}

fn parse(text: &str) -> anyhow::Result<Commands> {
    let (_, part) = text
        .split_once(&format!("{HEADING}\n"))
        .with_context(|| format!("README.md has no part `{HEADING}`"))?;
    let part = part.split("\n## ").next().unwrap_or_default();
    // Between two fences there is either a block or the text after one.
    let blocks: Vec<&str> = part.split(FENCE).skip(1).step_by(2).collect();
    let [unpack, control, agent, image, upgrade] = blocks[..] else {
        bail!(
            "`{HEADING}` has {} blocks of commands; the checks know five: unpack, control plane, agent, image, upgrade",
            blocks.len()
        );
    };
    for (block, part) in [
        (unpack, "tar "),
        (control, "systemctl enable --now knarr-control"),
        (control, "knarr-control token create"),
        (agent, "systemctl enable --now knarr-agent"),
        (image, "knarr-agent image import"),
        (upgrade, "systemctl restart knarr-"),
    ] {
        if !block.contains(part) {
            bail!("a block of `{HEADING}` should hold `{part}`:\n{block}");
        }
    }
    Ok(Commands {
        unpack: unpack.to_owned(),
        control: control.to_owned(),
        agent: agent.to_owned(),
        image: image.to_owned(),
        upgrade: upgrade.to_owned(),
    })
}

impl Join {
    /// From what the commands for the control plane printed.
    pub fn parse(printed: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = printed.split_whitespace().collect();
        let after = |flag: &str| {
            words
                .iter()
                .position(|word| *word == flag)
                .and_then(|at| words.get(at + 1))
                .map(|value| (*value).to_owned())
                .with_context(|| format!("the README's commands printed no {flag}:\n{printed}"))
        };
        Ok(Self {
            server: after("--server")?,
            token: after("--token")?,
            ca_hash: after("--ca-hash")?,
        })
    }
}

/// Puts values in place of the capitals, as a person does. A place that is not there is an error: it was renamed.
pub fn fill(commands: &str, values: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut filled = commands.to_owned();
    for (place, value) in values {
        if !filled.contains(place) {
            bail!("the README's commands have no place `{place}`:\n{commands}");
        }
        filled = filled.replace(place, value);
    }
    Ok(filled)
}

/// The commands for an agent, for this control plane.
pub fn fill_agent(commands: &str, join: &Join) -> anyhow::Result<String> {
    let Join {
        server,
        token,
        ca_hash,
    } = join;
    fill(
        commands,
        &[
            ("https://CONTROL:6443", server),
            ("=TOKEN\n", &format!("={token}\n")),
            ("sha256:HASH", ca_hash),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_holds_the_blocks_and_their_places() {
        let commands = read().expect("the README's commands");
        let join = Join::parse(
            "knarr-agent run --server https://198.18.9.2:6443 --token abc --ca-hash sha256:12\n",
        )
        .expect("a line");
        let filled = fill_agent(&commands.agent, &join).expect("filled");
        for line in [
            "KNARR_AGENT_SERVER=https://198.18.9.2:6443",
            "KNARR_AGENT_TOKEN=abc",
            "KNARR_AGENT_CA_HASH=sha256:12",
        ] {
            assert!(filled.lines().any(|found| found == line), "{filled}");
        }
        fill(&commands.image, &[("FILE", "x")]).expect("a place for the file");
    }

    #[test]
    fn a_place_that_is_missing_is_said() {
        assert!(fill("a FILE", &[("FOLDER", "x")]).is_err());
        assert!(Join::parse("--token x").is_err());
        assert!(parse("# Knarr\n## On real machines\n```\ntar x\n```\n").is_err());
    }
}
