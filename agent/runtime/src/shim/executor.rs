// SPDX-License-Identifier: Apache-2.0
//! Executes the program of a container, inside it, as its last step.
//!
//! libcontainer's own would run /bin/sh on a file without a known format, and says nothing to the outside
//! when it fails. This one resets signals and reports over a pipe that a successful exec closes.
//! Messages are runc's (v1.2), because people know them from Kubernetes.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;

/// See the module's comment.
#[derive(Clone)]
pub(super) struct Exec {
    /// The writing end of the pipe, close-on-exec.
    pub report: std::rc::Rc<std::os::fd::OwnedFd>,
}

impl Executor for Exec {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let message = execute(spec);
        let _ = nix::unistd::write(&self.report, message.as_bytes());
        // Not an error for libcontainer: it would only be turned into another exit.
        crate::sys::exit_now(super::EXIT_CODE_NOT_STARTED)
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }
}

/// Returns only with why it could not be done.
fn execute(spec: &Spec) -> String {
    let args = spec.process().as_ref().and_then(|p| p.args().clone());
    let args = args.unwrap_or_default();
    let Some(program) = args.first() else {
        return "no command specified".to_owned();
    };
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let path = match find(program, &environment) {
        Ok(path) => path,
        Err(message) => return message,
    };
    let texts = |texts: Vec<Vec<u8>>| {
        texts
            .into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
    };
    let argv = texts(args.iter().map(|a| a.as_bytes().to_vec()).collect());
    let envp = texts(
        environment
            .iter()
            .map(|(k, v)| [k.as_bytes(), b"=", v.as_bytes()].concat())
            .collect(),
    );
    let file = CString::new(path.as_os_str().as_bytes());
    let (Ok(argv), Ok(envp), Ok(file)) = (argv, envp, file) else {
        return format!("exec: {program:?}: an argument or variable has a zero byte");
    };
    if let Err(e) = crate::sys::reset_signals() {
        return format!("resetting signals: {}", e.desc());
    }
    match nix::unistd::execve(&file, &argv, &envp) {
        Err(Errno::ENOENT) => format!(
            "exec {}: no such file or directory (its interpreter or dynamic loader is missing)",
            path.display()
        ),
        Err(Errno::ENOEXEC) => format!("exec {}: exec format error", path.display()),
        Err(e) => format!("exec {}: {}", path.display(), lower(e)),
        Ok(never) => match never {},
    }
}

/// Go's wording of an error number.
fn lower(e: Errno) -> String {
    e.desc().to_lowercase()
}

/// Where the program is: as it stands when it has a slash, otherwise along `PATH` (Go's `exec.LookPath`).
fn find(program: &str, environment: &[(OsString, OsString)]) -> Result<PathBuf, String> {
    if program.contains('/') {
        return match check(Path::new(program)) {
            Ok(()) => Ok(PathBuf::from(program)),
            Err(Errno::ENOENT) => Err(format!(
                "exec: {program:?}: stat {program}: no such file or directory"
            )),
            Err(e) => Err(format!("exec: {program:?}: {}", lower(e))),
        };
    }
    let path = environment.iter().find(|(k, _)| k == "PATH");
    let path = path.map_or(OsStr::new(""), |(_, v)| v.as_os_str());
    let mut denied = None;
    for dir in std::env::split_paths(path) {
        let candidate = dir.join(program);
        match check(&candidate) {
            Ok(()) if !program.is_empty() => return Ok(candidate),
            Err(Errno::EACCES) => denied = Some(()),
            _ => {}
        }
    }
    Err(match denied {
        Some(()) => format!("exec: {program:?}: permission denied"),
        None => format!("exec: {program:?}: executable file not found in $PATH"),
    })
}

/// A file that may be executed.
fn check(path: &Path) -> Result<(), Errno> {
    let metadata = std::fs::metadata(path)
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
}
