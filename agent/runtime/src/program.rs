// SPDX-License-Identifier: Apache-2.0
//! Programs that are executed from where no process can write to them.
//!
//! systemd mounts /run with `noexec`, and the data directory may be mounted so: what the runtime brings along is executed
//! from a sealed memfd. The shim is the agent's own program, and its children become containers: through /proc/PID/exe a
//! container could write to the agent's file (CVE-2019-5736), so it is executed from a read-only mount of that file, which
//! costs no memory. Called by the runtime when it opens and by the shim.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use rustix::mount::OpenTreeFlags;

/// Since Linux 6.3; decides whether a memfd can be executed.
const MEMFD_SYSCTL: &str = "/proc/sys/vm/memfd_noexec";

/// An open program that nobody can write to, however it is opened again.
#[derive(Debug)]
pub(crate) struct SealedProgram {
    fd: OwnedFd,
    /// The name of its file.
    name: OsString,
}

impl SealedProgram {
    /// A memfd with these contents. `name` is what /proc shows.
    pub fn new(name: &str, mut contents: impl Read) -> io::Result<SealedProgram> {
        let fd = executable_memfd(name).map_err(explain)?;
        let mut file = File::from(fd);
        io::copy(&mut contents, &mut file)?;
        let fd = OwnedFd::from(file);
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals)?;
        let name = name.into();
        Ok(SealedProgram { fd, name })
    }

    /// The program in a file, as it is now: a file of the same name that replaces it later is another program. Where it
    /// cannot be mounted read-only, it is copied into a memfd, once for all shims.
    pub fn of_file(path: &Path) -> io::Result<SealedProgram> {
        // /proc/self/exe leads to a file that may have been replaced since.
        let file = std::fs::read_link(path).unwrap_or_else(|_| path.to_owned());
        let name = file.file_name().unwrap_or_default().as_bytes();
        let name = OsStr::from_bytes(name.strip_suffix(b" (deleted)").unwrap_or(name)).to_owned();
        let mounted = read_only_mount(path).and_then(|fd| {
            let name = name.clone();
            let program = SealedProgram { fd, name };
            program.check().map(|()| program)
        });
        let why = match mounted {
            Ok(program) => return Ok(program),
            Err(why) => why,
        };
        tracing::info!(
            "{path:?} cannot be mounted read-only ({why}); shims run from a copy in memory"
        );
        let copy = SealedProgram::new(&name.to_string_lossy(), File::open(path)?)?;
        copy.check()?;
        Ok(copy)
    }

    /// Executes it with its file's name as its own, to be completed by the caller. The descriptor has to stay open until
    /// the child is started.
    pub fn command(&self) -> Command {
        let mut command = Command::new(crate::tree::fd_path(&self.fd));
        command.arg0(&self.name).env_clear().current_dir("/");
        command
    }

    /// The descriptor, for those who close all others.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Executes it in place of this process, without an environment. Returns only with why that is not possible.
    pub fn execute(&self, argv: &[&CStr]) -> io::Error {
        let environment: [&CStr; 0] = [];
        match nix::unistd::execveat(&self.fd, c"", argv, &environment, AtFlags::AT_EMPTY_PATH) {
            Err(e) => e.into(),
            Ok(never) => match never {},
        }
    }

    /// Starts it once and kills it: what the kernel and its security modules allow is known only then.
    pub fn check(&self) -> io::Result<()> {
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(explain)?;
        child.kill()?;
        child.wait().map(drop)
    }
}

/// Opens a file by a mount of it that is read-only, and that belongs to no mount namespace: nobody can find it to mount it
/// otherwise, and it lasts as long as it is open or executed.
fn read_only_mount(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags)?;
    crate::sys::set_mount_read_only(&tree)?;
    // With the last descriptor of open_tree(2) the mount is taken away from those who have it open, as by a lazy unmount.
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(
        &crate::tree::fd_path(&tree),
        flags,
        Mode::empty(),
    )?)
}

fn executable_memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and every memfd is executable.
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// Names the setting that refuses executable memfds, if it is the reason.
fn explain(error: io::Error) -> io::Error {
    let setting = std::fs::read_to_string(MEMFD_SYSCTL).unwrap_or_default();
    if error.kind() == io::ErrorKind::PermissionDenied && setting.trim() == "2" {
        let text =
            "the sysctl vm.memfd_noexec is 2, which forbids executable memfds; set it to 0 or 1";
        return io::Error::new(error.kind(), text);
    }
    error
}

/// Mount options of the file system at `path` that take something away from volumes of pods that lie there. A
/// container's root file system is an overlay with options of its own, and loses nothing.
pub(crate) fn limits_of_volumes(path: &Path) -> io::Result<Vec<(&'static str, &'static str)>> {
    let flags = rustix::fs::statvfs(path)?.f_flag;
    let all = [
        (
            StatVfsMountFlags::NOEXEC,
            "noexec",
            "programs in emptyDir volumes cannot be executed",
        ),
        (
            StatVfsMountFlags::NOSUID,
            "nosuid",
            "set-user-ID bits of files in emptyDir volumes have no effect",
        ),
        (
            StatVfsMountFlags::NODEV,
            "nodev",
            "device files in emptyDir volumes cannot be opened",
        ),
    ];
    let set = all.into_iter().filter(|(flag, ..)| flags.contains(*flag));
    Ok(set.map(|(_, option, effect)| (option, effect)).collect())
}

#[cfg(test)]
mod tests;
