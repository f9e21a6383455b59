// SPDX-License-Identifier: Apache-2.0
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
    let text = SealedProgram::new("text", b"no program\n").unwrap();
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
