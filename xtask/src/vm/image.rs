// SPDX-License-Identifier: Apache-2.0
//! The disk of the stock machine: Debian 12 as debootstrap makes it, and the little that lets tests speak to it. Made
//! once and kept under `target/vm/` by a key of everything that goes into it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use super::addresses::{GATEWAY, NAMES, address};
use super::{folder, wire};
use crate::setup::vm::mirror;
use crate::{paths, run, ui};

/// Change it when the recipe below changes in a way that the rest of the key does not hold.
const RECIPE: u32 = 1;
/// The release that users have.
const SUITE: &str = "bookworm";
/// What a server installation of Debian has and Knarr meets: systemd and its devices, the kernel with AppArmor, and the
/// programs with which the checks look at the machine.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dbus,libpam-systemd,apparmor,kmod,iproute2,procps,\
                        ca-certificates,curl,linux-image-amd64,initramfs-tools";
/// Enough for the system, both programs, the images and what the checks write. The file is sparse.
const DISK_SIZE: &str = "4G";
/// The drivers that the emulated machine needs before its disk is mounted. A smaller archive is unpacked sooner.
const BOOT_MODULES: &str = "virtio_pci\nvirtio_blk\next4\n";

/// A machine's disk and what boots it.
pub struct Image {
    /// ext4, no partitions.
    pub disk: PathBuf,
    /// Debian's kernel.
    pub kernel: PathBuf,
    /// The drivers for the disk.
    pub initrd: PathBuf,
}

/// One file of the machine that Debian does not bring.
struct Extra {
    path: String,
    mode: u32,
    content: String,
}

fn extras() -> Vec<Extra> {
    let mut extras = Vec::new();
    let mut add = |path: &str, mode: u32, content: &str| {
        extras.push(Extra {
            path: path.to_owned(),
            mode,
            content: content.to_owned(),
        });
    };
    add(
        "etc/fstab",
        0o644,
        "/dev/vda / ext4 errors=remount-ro 0 1\n",
    );
    add("etc/hosts", 0o644, "127.0.0.1 localhost\n");
    // Each machine gets its own by the kernel's command line.
    add("etc/machine-id", 0o444, "");
    add("etc/hostname", 0o644, "");
    add("etc/initramfs-tools/modules", 0o644, BOOT_MODULES);
    add("etc/initramfs-tools/conf.d/small", 0o644, "MODULES=list\n");
    for name in NAMES {
        let network = format!(
            "[Match]\nName=en*\nKernelCommandLine=systemd.hostname={name}\n\n\
             [Network]\nAddress={}/24\nGateway={GATEWAY}\n",
            address(name)
        );
        add(
            &format!("etc/systemd/network/{name}.network"),
            0o644,
            &network,
        );
    }
    add(wire::SCRIPT_PATH, 0o755, wire::SCRIPT);
    add(wire::UNIT_PATH, 0o644, wire::UNIT);
    extras
}

/// Units that are started at boot, with the folder of the unit that wants them.
const WANTED: [(&str, &str); 2] = [
    (
        "/lib/systemd/system/systemd-networkd.service",
        "multi-user.target.wants/systemd-networkd.service",
    ),
    (
        "/etc/systemd/system/test-wire.service",
        "multi-user.target.wants/test-wire.service",
    ),
];

fn key() -> String {
    let mut digest = Sha256::new();
    for part in [&RECIPE.to_string(), SUITE, PACKAGES, DISK_SIZE] {
        digest.update(part);
        digest.update([0]);
    }
    for Extra {
        path,
        mode,
        content,
    } in extras()
    {
        digest.update(format!("{path}\0{mode}\0{content}\0"));
    }
    hex::encode(&digest.finalize()[..6])
}

/// The image, made where this checkout has none of this key. Images of other keys are removed.
pub fn ensure() -> anyhow::Result<Image> {
    let name = format!("image-{}", key());
    let made = folder().join(&name);
    if !made.is_dir() {
        fs::create_dir_all(folder())?;
        for entry in fs::read_dir(folder())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("image-") {
                fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        let step = ui::step("making a stock Debian 12 machine, once");
        let unfinished = folder().join("image-unfinished");
        fs::create_dir_all(&unfinished)?;
        make(&unfinished, &step)?;
        fs::rename(&unfinished, &made)?;
        step.done();
    }
    Ok(Image {
        disk: made.join("disk.img"),
        kernel: made.join("vmlinuz"),
        initrd: made.join("initrd.img"),
    })
}

fn make(into: &Path, step: &ui::Step) -> anyhow::Result<()> {
    let root = into.join("root");
    step.say("debootstrap");
    let mut debootstrap = run::command("debootstrap", ["--variant=minbase"]);
    debootstrap
        .arg(format!("--include={PACKAGES}"))
        .arg(SUITE)
        .arg(&root)
        .arg(mirror()?);
    run::quiet(&mut debootstrap).context("Debian 12 could not be installed into a folder")?;
    for Extra {
        path,
        mode,
        content,
    } in extras()
    {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // Debian's own may be a link to somewhere outside of the folder.
        let _ = fs::remove_file(&path);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for (unit, link) in WANTED {
        let link = root.join("etc/systemd/system").join(link);
        let parent = link.parent().context("a unit's link is in a folder")?;
        fs::create_dir_all(parent)?;
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(unit, &link)?;
        }
    }
    step.say("its kernel's drivers");
    run::quiet(run::command("chroot", [&root]).args(["update-initramfs", "-u", "-k", "all"]))?;
    let boot = root.join("boot");
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        fs::copy(newest(&boot, prefix)?, into.join(name))?;
    }
    // No more packages are installed there.
    let _ = fs::remove_dir_all(root.join("var/cache/apt"));
    let _ = fs::remove_dir_all(root.join("var/lib/apt/lists"));
    step.say("its disk");
    let disk = into.join("disk.img");
    run::quiet(
        run::command("mke2fs", ["-q", "-F", "-t", "ext4", "-d"])
            .arg(&root)
            .arg(&disk)
            .arg(DISK_SIZE),
    )?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", paths::show(&root)))
}

fn newest(dir: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    match found.pop() {
        Some(path) => Ok(path),
        None => bail!("{} holds no {prefix}*", dir.display()),
    }
}
