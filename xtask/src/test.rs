// SPDX-License-Identifier: Apache-2.0
//! x
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Tier {
    Unit,
}
pub fn run(_: &[Tier], _: Option<&str>) -> anyhow::Result<()> {
    Ok(())
}
