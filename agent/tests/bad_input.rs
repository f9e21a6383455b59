// SPDX-License-Identifier: Apache-2.0
//! What the program says about wrong settings, run as anybody. What needs root is in `machine`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/program.rs"]
mod program;

use program::{AGENT, run};

/// `nobody`, who owns nothing and may do nothing.
const NOBODY: u32 = 65_534;

/// A directory that everybody may enter, with what a failed start must not make.
fn open_dir() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(dir.path(), everybody).expect("chmod");
    let data = dir.path().join("data");
    (dir, data)
}

fn agent_run(config: &str) -> (program::Ended, PathBuf, PathBuf, tempfile::TempDir) {
    let (dir, data) = open_dir();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, config).expect("writes");
    let ended = run(Command::new(AGENT)
        .arg("run")
        .arg("--config")
        .arg(&file)
        .arg("--data-dir")
        .arg(&data));
    (ended, file, data, dir)
}

#[test]
fn without_root_it_says_how_to_have_it_and_makes_nothing() {
    let (dir, data) = open_dir();
    // The program may lie where only root can go.
    let program = dir.path().join("knarr-agent");
    std::fs::copy(AGENT, &program).expect("copies");
    let mut command = Command::new(&program);
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let ended = run(command
        .current_dir("/")
        .args(["run", "--server", "https://127.0.0.1:1", "--data-dir"])
        .arg(&data));
    assert_eq!(
        ended.stderr,
        "Error: knarr-agent run needs root: start it with sudo, or as the systemd service knarr-agent\n"
    );
    assert_eq!(ended.code, Some(1));
    assert!(!data.exists());
}

#[test]
fn an_option_that_does_not_exist_in_the_file_is_named_with_its_line() {
    let (ended, file, data, _dir) = agent_run("server = \"https://127.0.0.1:1\"\nmax-pod = 7\n");
    assert_eq!(ended.code, Some(1));
    let start = format!(
        "Error: the configuration file {} is wrong: TOML parse error at line 2, column 1",
        file.display()
    );
    assert!(ended.stderr.starts_with(&start), "{}", ended.stderr);
    assert!(
        ended
            .stderr
            .contains("unknown field `max-pod`, expected one of"),
        "{}",
        ended.stderr
    );
    assert!(!data.exists());
}

#[test]
fn a_value_of_the_wrong_type_in_the_file_is_named_with_its_line() {
    let (ended, _, data, _dir) = agent_run("max-pods = \"many\"\n");
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stderr
            .contains("TOML parse error at line 1, column 12")
            && ended
                .stderr
                .contains("invalid type: string \"many\", expected u32"),
        "{}",
        ended.stderr
    );
    assert!(!data.exists());
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let path = Path::new("/nonexistent/agent.toml");
    let ended = run(Command::new(AGENT).arg("run").arg("--config").arg(path));
    assert_eq!(
        ended.stderr,
        "Error: cannot read the configuration file /nonexistent/agent.toml: No such file or directory \
         (os error 2)\n"
    );
    assert_eq!(ended.code, Some(1));
}

#[test]
fn a_flag_that_does_not_exist_gets_the_usage() {
    let ended = run(Command::new(AGENT).args(["run", "--max-pod", "7"]));
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .stderr
            .starts_with("error: unexpected argument '--max-pod' found"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("--max-pods"), "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let ended = run(Command::new(AGENT).args(["run", "--log", "info=x=y"]));
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .reason()
            .starts_with("Error: --log: \"info=x=y\" is no tracing filter: "),
        "{}",
        ended.stderr
    );
}
