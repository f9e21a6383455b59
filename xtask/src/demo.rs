// SPDX-License-Identifier: Apache-2.0
//! x
pub fn run() -> anyhow::Result<()> {
    Ok(())
}
