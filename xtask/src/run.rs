// SPDX-License-Identifier: Apache-2.0
//! Running other programs: no shell, no quoting, and an error that says which program said what.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

use crate::paths;

/// How much of a failed program's output an error repeats.
const OUTPUT_LINES_SHOWN: usize = 20;

/// A program with its arguments.
pub fn command<I, S>(program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// How the command would be typed.
pub fn show(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// Runs it to its end, quietly. Fails with what it printed when it ends badly.
pub fn quiet(command: &mut Command) -> anyhow::Result<()> {
    output(command).map(drop)
}

/// Runs it to its end and returns what it printed on standard output.
pub fn stdout(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it with this text on its standard input and returns what it printed.
pub fn stdout_with_input(command: &mut Command, input: &[u8]) -> anyhow::Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything shows that by its exit code.
        let _ = stdin.write_all(input);
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for `{shown}`"))?;
    check(&shown, &output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it to its end with its output going where ours goes.
pub fn loud(command: &mut Command) -> anyhow::Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

fn output(command: &mut Command) -> anyhow::Result<Output> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    check(&shown, &output)?;
    Ok(output)
}

fn check(shown: &str, output: &Output) -> anyhow::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.trim().is_empty() {
        said = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let lines: Vec<&str> = said.trim().lines().collect();
    let tail = lines[lines.len().saturating_sub(OUTPUT_LINES_SHOWN)..].join("\n    ");
    bail!("`{shown}` failed ({}):\n    {tail}", output.status)
}

/// Whether a program of this name can be found.
pub fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program of this name is, looking through `PATH` and where Debian keeps the administrator's programs.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).to_path_buf()))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// cargo, as the one that called us.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::root());
    // What cargo set for us must not look like settings of the build that we start, and what a test runner that runs us
    // set is not for the one that we start. What a person set is.
    let in_test = std::env::var_os("NEXTEST").is_some();
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || (in_test && name.starts_with("NEXTEST"))
                || name == "CARGO_MANIFEST_DIR"
                || name == "CARGO_MANIFEST_PATH"
        }) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Namespaces, cgroups and eBPF need it.
pub fn require_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "this makes namespaces, cgroups and loads eBPF programs, so it must run as root (for example with `sudo -E`)"
        );
    }
    Ok(())
}
