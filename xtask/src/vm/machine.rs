// SPDX-License-Identifier: Apache-2.0
//! One virtual machine: starting it, speaking to it, ending it. QEMU emulates the processor, because nested KVM cannot
//! be relied on: function shows here, time does not. Its only network is a cable to the other machine, a Unix socket,
//! so nothing gets out.
//!
//! A machine is in the lab's book before it is started and in a cgroup of the lab, so `down` ends it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

pub use super::addresses::{FIRST, NAMES, SECOND, address};

use super::image::Image;
use super::wire::{Answer, PORT, Wire};
use super::{folder, show_tail};
use crate::lab::machine::{cgroup_name, end_process};
use crate::lab::{cgroup, state};
use crate::process::Process;
use crate::setup::vm::QEMU;
use crate::{ui, up};

/// Control plane and agent need a third of it; the rest is for pods and for unoptimized programs.
const MEMORY: &str = "2G";
/// A kernel and systemd come up in 30 s on a free machine; beside other work it was seen to take 150 s.
const BOOT_LIMIT: Duration = Duration::from_secs(400);
const POLL: Duration = Duration::from_millis(200);

/// A running machine.
pub struct Machine {
    /// `first` or `second`.
    pub name: &'static str,
    process: Process,
    wire: Wire,
}

/// Where a machine's files are.
fn home(name: &str) -> PathBuf {
    folder().join("run").join(name)
}

/// What the machine's first serial port printed: the kernel's messages.
pub fn console(name: &str) -> PathBuf {
    home(name).join("console.log")
}

fn socket(name: &str) -> PathBuf {
    home(name).join("wire")
}

impl Machine {
    /// Starts a machine with a fresh copy of the image's disk, and a second disk that holds `delivery`, a tar archive.
    /// Returns at once; [`Machine::wait_boot`] waits until it can be spoken to.
    pub fn start(name: &'static str, image: &Image, delivery: &PathBuf) -> anyhow::Result<Self> {
        end(name)?;
        fs::create_dir_all(home(name))?;
        let lock = state::lock()?;
        let mut state = match state::State::load()? {
            Some(state) => state,
            None => up::empty_book()?,
        };
        state.machines.insert(name.to_owned(), None);
        state.save()?;
        let below = cgroup_name(name);
        cgroup::create(&state.cgroup, &below)?;
        let child = Command::new("/proc/self/exe")
            .args(["lab-machine", &state.cgroup, &below, "--", QEMU])
            .args(arguments(name, image, delivery)?)
            // The changes to the disk go into a file that is deleted as soon as it is open.
            .env("TMPDIR", home(name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(home(name).join("qemu.log"))?)
            .process_group(0)
            .spawn()
            .context("cannot start QEMU")?;
        let pid = i32::try_from(child.id()).context("a process id is a small number")?;
        let process = Process::of(pid).context("QEMU ended at once")?;
        state.machines.insert(name.to_owned(), Some(process));
        state.save()?;
        drop(lock);
        let wire = open_wire(name, process)?;
        Ok(Self {
            name,
            process,
            wire,
        })
    }

    /// Waits until the machine answers from another boot than `before`; the boot's id.
    pub fn wait_boot(&mut self, before: Option<&str>) -> anyhow::Result<String> {
        let end = Instant::now() + BOOT_LIMIT;
        loop {
            match self.wire.boot_id() {
                Ok(id) if !id.is_empty() && before != Some(&id) => return Ok(id),
                _ if !self.process.alive() => bail!(
                    "QEMU of {} ended\n{}",
                    self.name,
                    show_tail(&home(self.name).join("qemu.log"))
                ),
                _ if Instant::now() >= end => bail!(
                    "{} did not boot in {} s\n{}",
                    self.name,
                    BOOT_LIMIT.as_secs(),
                    show_tail(&console(self.name))
                ),
                _ => std::thread::sleep(POLL),
            }
        }
    }

    /// Runs a script with bash in the machine.
    ///
    /// # Errors
    /// When the machine does not answer; with what its kernel said last.
    pub fn run(&mut self, script: &str, limit: Duration) -> anyhow::Result<Answer> {
        self.wire.run(script, limit).with_context(|| {
            format!(
                "the machine {} hangs\n{}",
                self.name,
                show_tail(&console(self.name))
            )
        })
    }

    /// Runs a script that has to succeed; what it printed.
    pub fn ok(&mut self, script: &str, limit: Duration) -> anyhow::Result<String> {
        let Answer { code, text } = self.run(script, limit)?;
        if code != 0 {
            bail!(
                "on {}, `{}` ended with {code}:\n{}",
                self.name,
                script.trim(),
                text.trim_end()
            );
        }
        Ok(text)
    }

    /// Runs a script again and again until it succeeds; what it printed then.
    pub fn eventually(
        &mut self,
        what: &str,
        script: &str,
        limit: Duration,
    ) -> anyhow::Result<String> {
        const PAUSE: Duration = Duration::from_secs(1);
        const ONE_CALL: Duration = Duration::from_secs(60);
        let end = Instant::now() + limit;
        loop {
            let answer = match self.run(script, ONE_CALL) {
                // A machine that boots beside other work may leave one question without an answer.
                Err(_) if Instant::now() < end => continue,
                answer => answer?,
            };
            let Answer { code, text } = answer;
            if code == 0 {
                return Ok(text);
            }
            if Instant::now() >= end {
                bail!(
                    "{what}: not after {} s; `{}` on {} ended with {code}:\n{}",
                    limit.as_secs(),
                    script.trim(),
                    self.name,
                    text.trim_end()
                );
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Speaks to a machine that another call of xtask has started.
pub fn run_in(name: &str, script: &str, limit: Duration) -> anyhow::Result<Answer> {
    let state = state::State::load()?;
    let process = state
        .and_then(|state| state.machines.get(name).copied().flatten())
        .filter(|process| process.alive());
    if process.is_none() {
        bail!(
            "no machine {name} is running: a `cargo xtask test vm` that fails leaves its machines"
        );
    }
    Wire::open(&socket(name))?.run(script, limit)
}

/// Ends a machine, if it runs, and takes it out of the book.
pub fn end(name: &str) -> anyhow::Result<()> {
    let _lock = state::lock()?;
    let Some(mut state) = state::State::load()? else {
        return Ok(());
    };
    let Some(process) = state.machines.remove(name) else {
        return Ok(());
    };
    end_process(&state.cgroup, name, process)?;
    if state.hosts.is_empty() && state.machines.is_empty() {
        cgroup::kill_and_remove(&state.cgroup, "")?;
        return state::remove();
    }
    state.save()
}

/// Runs QEMU in place of this process, in its cgroup of the lab.
pub fn become_machine(lab: &str, below: &str, command: &[String]) -> anyhow::Result<()> {
    cgroup::join(lab, below)?;
    let (program, args) = command.split_first().context("there is a program")?;
    Err(Command::new(program).args(args).exec()).with_context(|| format!("cannot run {program}"))
}

fn open_wire(name: &str, process: Process) -> anyhow::Result<Wire> {
    const LIMIT: Duration = Duration::from_secs(60);
    let end = Instant::now() + LIMIT;
    loop {
        match Wire::open(&socket(name)) {
            Ok(wire) => return Ok(wire),
            Err(error) if Instant::now() >= end || !process.alive() => {
                return Err(error.context(show_tail(&home(name).join("qemu.log"))));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn arguments(name: &'static str, image: &Image, delivery: &PathBuf) -> anyhow::Result<Vec<String>> {
    let cable = folder().join("run").join("cable");
    let _ = fs::remove_file(socket(name));
    let (end, number) = if name == FIRST {
        let _ = fs::remove_file(&cable);
        ("server=on", 1)
    } else {
        // The first machine may be rebooting: the cable is plugged in again each second.
        ("server=off,reconnect-ms=1000", 2)
    };
    let machine_id = format!("{number:032x}");
    let append = format!(
        "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no systemd.hostname={name} systemd.machine_id={machine_id}"
    );
    let text = |path: &std::path::Path| -> anyhow::Result<String> {
        // A comma ends a value of QEMU's options.
        match path.to_str() {
            Some(path) if !path.contains(',') => Ok(path.to_owned()),
            _ => bail!("QEMU takes no path like {}", path.display()),
        }
    };
    let mut args = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    add(&["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
    add(&["-smp", "2", "-m", MEMORY, "-device", "virtio-rng-pci"]);
    add(&["-kernel", &text(&image.kernel)?]);
    add(&["-initrd", &text(&image.initrd)?, "-append", &append]);
    for (file, options) in [(&image.disk, "snapshot=on"), (delivery, "readonly=on")] {
        let drive = format!("file={},if=virtio,format=raw,{options}", text(file)?);
        add(&["-drive", &drive]);
    }
    add(&[
        "-netdev",
        &format!(
            "stream,id=cable,{end},addr.type=unix,addr.path={}",
            text(&cable)?
        ),
        "-device",
        &format!("virtio-net-pci,netdev=cable,mac=52:54:00:12:09:0{number}"),
    ]);
    add(&["-serial", &format!("file:{}", text(&console(name))?)]);
    add(&[
        "-chardev",
        &format!(
            "socket,id=wire,path={},server=on,wait=off",
            text(&socket(name))?
        ),
        "-device",
        "virtio-serial-pci",
        "-device",
        &format!("virtserialport,chardev=wire,name={PORT}"),
    ]);
    Ok(args)
}

/// Says where a machine that is left for people can be looked at.
pub fn say_how_to_look(name: &str) {
    ui::line(&format!(
        "{name} is left running: `cargo xtask machine {name} -- CMD...` runs a command in it, `cargo xtask down` ends it"
    ));
}
