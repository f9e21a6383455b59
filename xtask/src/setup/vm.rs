// SPDX-License-Identifier: Apache-2.0
//! What makes and runs the stock machine of the tier `vm`: debootstrap and QEMU. QEMU 7.2 of Debian 12 hangs at random
//! when it emulates a processor, so it comes from Debian's backports.

use std::fs;

use anyhow::Context;

use crate::{paths, run};

/// Program, and the package that brings it.
const PROGRAMS: [(&str, &str); 3] = [
    (QEMU, "qemu-system-x86"),
    ("debootstrap", "debootstrap"),
    ("mke2fs", "e2fsprogs"),
];
/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// What QEMU reads at run time and Debian only recommends: firmware of the machine and of its network card.
const FIRMWARE: [&str; 2] = ["seabios", "ipxe-qemu"];
/// The oldest major version that is known not to hang and has `reconnect-ms` of `-netdev stream` (since 9.2).
const QEMU_MAJOR_MIN: u32 = 10;
/// The Debian release whose own QEMU is too old.
const OLD_RELEASE: &str = "bookworm";

/// Programs that are missing or too old.
pub fn missing() -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    for (program, package) in PROGRAMS {
        if !run::exists(program) {
            missing.push(package.to_owned());
        } else if program == QEMU {
            let version = run::stdout(&mut run::command(program, ["--version"]))?;
            if qemu_major(&version).is_none_or(|major| major < QEMU_MAJOR_MIN) {
                missing.push(format!("{package} {QEMU_MAJOR_MIN} or newer"));
            }
        }
    }
    Ok(missing)
}

/// `QEMU emulator version 10.0.2 (...)`.
fn qemu_major(version: &str) -> Option<u32> {
    let (_, rest) = version.split_once("version ")?;
    rest.split('.').next()?.parse().ok()
}

/// Installs the packages, with Debian's backports among apt's sources for this one call.
pub fn install(what: &[String]) -> anyhow::Result<()> {
    run::require_root()?;
    let packages = what
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .chain(FIRMWARE);
    let mut options: Vec<String> = Vec::new();
    if release()? == OLD_RELEASE {
        // apt takes one list in place of /etc/apt/sources.list and goes on reading /etc/apt/sources.list.d.
        let own = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
        let list = paths::tools().join("with-backports.list");
        fs::create_dir_all(paths::tools())?;
        let backports = format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {OLD_RELEASE}-backports main\n",
            mirror()?
        );
        fs::write(&list, own + "\n" + &backports)
            .with_context(|| format!("cannot write {}", list.display()))?;
        options.extend([
            "-o".to_owned(),
            format!("Dir::Etc::sourcelist={}", list.display()),
            "-t".to_owned(),
            format!("{OLD_RELEASE}-backports"),
        ]);
    }
    run::quiet(run::command("apt-get", ["update"]).args(&options))
        .context("apt-get update failed: is there network?")?;
    let mut install = run::command("apt-get", ["install", "--yes", "--no-install-recommends"]);
    run::quiet(
        install
            .args(&options)
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// The codename of this machine's Debian.
fn release() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot tell which Debian this is")?;
    Ok(text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or_default()
        .to_owned())
}

/// The Debian mirror that apt uses on this machine.
pub fn mirror() -> anyhow::Result<String> {
    let listed = run::stdout(&mut run::command(
        "apt-get",
        [
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
            "Component: main",
        ],
    ))?;
    listed
        .lines()
        .find(|line| !line.contains("security"))
        .map(str::to_owned)
        .context("apt knows no Debian mirror: run `apt-get update`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_qemu_is_read() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds)\nCopyright";
        assert_eq!(qemu_major(said), Some(10));
        assert_eq!(qemu_major("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(qemu_major("nothing"), None);
    }
}
