// SPDX-License-Identifier: Apache-2.0
//! `setup`: brings what building, running and testing need and a machine does not have, and says what and why.
//! What is there is left alone, so a second run only looks.

mod debian;
mod kubectl;
mod linker;
pub mod vm;

use anyhow::{Context, bail};

use crate::{run, ui};

/// One thing that has to be there.
struct Part {
    /// What people call it.
    name: &'static str,
    /// What it is needed for.
    why: &'static str,
    /// Says what is missing; nothing when it is there.
    missing: fn() -> anyhow::Result<Vec<String>>,
    /// Brings it.
    install: fn(&[String]) -> anyhow::Result<()>,
}

const PARTS: [Part; 3] = [
    Part {
        name: "Debian packages",
        why: "compilers for host and kernel programs, the lab's network tools, the shell image, the peers of the benches",
        missing: debian::missing,
        install: debian::install,
    },
    Part {
        name: "bpf-linker",
        why: "links the kernel programs",
        missing: linker::missing,
        install: linker::install,
    },
    Part {
        name: "kubectl and helm 1.37",
        why: "the real clients, for the demo and the tests",
        missing: kubectl::missing,
        install: kubectl::install,
    },
];

/// What only the tier `vm` needs.
const VM_PARTS: [Part; 1] = [Part {
    name: "QEMU and debootstrap",
    why: "the stock Debian machine of `cargo xtask test vm`; QEMU is Debian's backport, as 7.2 hangs at random",
    missing: vm::missing,
    install: vm::install,
}];

/// The command.
pub fn run() -> anyhow::Result<()> {
    if install_missing(&PARTS)? + install_missing(&VM_PARTS)? == 0 {
        ui::line("everything is there");
    }
    Ok(())
}

/// The same as a first step of other commands; says nothing when nothing is missing.
pub fn ensure_for_up() -> anyhow::Result<()> {
    install_missing(&PARTS).map(drop)
}

/// What the tier `vm` needs besides.
pub fn ensure_for_vm() -> anyhow::Result<()> {
    install_missing(&VM_PARTS).map(drop)
}

/// Where bpf-linker is.
pub fn bpf_linker() -> Option<std::path::PathBuf> {
    linker::find()
}

fn install_missing(parts: &[Part]) -> anyhow::Result<usize> {
    if !run::exists("dpkg-query") {
        bail!(
            "set-up knows Debian 12 and what is made from it; on other systems install these yourself: {}",
            debian::names()
        );
    }
    let mut installed = 0;
    for Part {
        name,
        why,
        missing,
        install,
    } in parts
    {
        let what = missing().with_context(|| format!("cannot see whether {name} is there"))?;
        if what.is_empty() {
            continue;
        }
        ui::line(&format!("missing: {} ({why})", what.join(", ")));
        let step = ui::step(format!("installing {name}"));
        install(&what).with_context(|| format!("{name} could not be installed; without network, bring it to this machine and run `cargo xtask setup` again"))?;
        let still = missing()?;
        if !still.is_empty() {
            bail!(
                "{name}: {} still missing after the installation",
                still.join(", ")
            );
        }
        step.done();
        installed += 1;
    }
    Ok(installed)
}
