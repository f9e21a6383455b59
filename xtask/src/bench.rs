// SPDX-License-Identifier: Apache-2.0
//! x
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Name {
    Idle,
}
pub fn run(_: &[Name]) -> anyhow::Result<()> {
    Ok(())
}
