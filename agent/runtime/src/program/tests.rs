// SPDX-License-Identifier: Apache-2.0
//! Tests of programs in sealed memory and of the limits of mounts.

use std::io::Write;

use super::*;

#[test]
fn a_sealed_program_runs_and_cannot_be_written_to() {
    let program = SealedProgram::new("pause", crate::shim::PAUSE_PROGRAM).unwrap();
    program.check().unwrap();
    let path = crate::tree::fd_path(program.fd());
    // A memfd's file can be opened for writing; its seals forbid each write.
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    assert!(file.write_all(b"#!/bin/sh\n").is_err());
    assert!(file.set_len(0).is_err());
    assert!(rustix::fs::fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), crate::shim::PAUSE_PROGRAM);
}

#[test]
fn what_is_no_program_is_found_out_by_the_check() {
    let text = SealedProgram::new("text", &b"no program\n"[..]).unwrap();
    let error = text.check().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC), "{error}");
}

#[test]
fn proc_is_known_to_be_noexec_nosuid_and_nodev() {
    // Linux' own recommendation, which every distribution follows; a machine that mounts it otherwise shows fewer.
    let flags = rustix::fs::statvfs("/proc").unwrap().f_flag;
    let options = limits_of_volumes(Path::new("/proc")).unwrap();
    let named = |option: &str| options.iter().any(|(name, _)| *name == option);
    assert_eq!(named("noexec"), flags.contains(StatVfsMountFlags::NOEXEC));
    assert_eq!(named("nosuid"), flags.contains(StatVfsMountFlags::NOSUID));
    assert_eq!(named("nodev"), flags.contains(StatVfsMountFlags::NODEV));
}

/// Ends a process and writes to its program by the way that a container has: a descriptor from its exe link. Not before,
/// because the kernel refuses that for any program that runs (ETXTBSY).
fn write_to_ended(mut child: std::process::Child) -> io::Error {
    let exe = File::open(format!("/proc/{}/exe", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let opened = File::options().write(true).open(crate::tree::fd_path(&exe));
    let written = opened.and_then(|mut file| file.write_all(b"#!/bin/sh\n"));
    written.unwrap_err()
}

/// What a mount refuses with, which needs root, and what a sealed memfd does.
fn is_sealed(error: &io::Error) -> bool {
    let refused = if nix::unistd::geteuid().is_root() {
        libc::EROFS
    } else {
        libc::EPERM
    };
    error.raw_os_error() == Some(refused)
}

#[test]
fn a_program_of_a_file_runs_and_cannot_be_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let program = SealedProgram::of_file(&path).unwrap();
    let start = || {
        let child = program.command().arg("100").spawn().unwrap();
        let cmdline = || std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
        // The child has these words when it has executed the program, which may be after the parent goes on.
        while cmdline() != b"program\x00100\0" {
            std::thread::yield_now();
        }
        child
    };
    let error = write_to_ended(start());
    assert!(is_sealed(&error), "{error}");

    // An upgrade replaces the file; what runs is what was there.
    std::fs::write(dir.path().join("new"), "another").unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    let error = write_to_ended(start());
    assert!(is_sealed(&error), "{error}");
    std::fs::remove_file(&path).unwrap();
    write_to_ended(start());
    assert_eq!(
        std::fs::read("/bin/sleep").unwrap(),
        std::fs::read(crate::tree::fd_path(&program.fd)).unwrap()
    );
}

#[test]
fn a_program_whose_file_is_gone_is_found_by_the_process_that_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let mut running = Command::new(&path).arg("100").spawn().unwrap();
    std::fs::remove_file(&path).unwrap();
    let exe = format!("/proc/{}/exe", running.id());
    let program = SealedProgram::of_file(Path::new(&exe)).unwrap();
    assert_eq!(program.name, "program");
    write_to_ended(program.command().arg("100").spawn().unwrap());
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn a_copy_in_memory_serves_as_well() {
    let program = SealedProgram::new("sleep", File::open("/bin/sleep").unwrap()).unwrap();
    program.check().unwrap();
    let error = write_to_ended(program.command().arg("100").spawn().unwrap());
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
}
