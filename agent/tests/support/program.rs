// SPDX-License-Identifier: Apache-2.0
//! Runs the real program and waits for it to end by itself.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Far more than any refusal takes, also on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// The program under test.
pub const AGENT: &str = env!("CARGO_BIN_EXE_knarr-agent");

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Ended {
    /// The last line, where the reason of a failure stands.
    pub fn reason(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

/// Runs a command without this process' settings for the agent.
pub fn run(command: &mut Command) -> Ended {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KNARR_AGENT_") {
            command.env_remove(name);
        }
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let file = |name: &str| std::fs::File::create(dir.path().join(name)).expect("output file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .expect("the program starts");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break Some(status);
        }
        if started.elapsed() > WITHIN {
            child.kill().expect("kill");
            child.wait().expect("wait");
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = |name: &str| {
        let bytes = std::fs::read(dir.path().join(name)).expect("output");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (text("out"), text("err"));
    let status = status.unwrap_or_else(|| panic!("it did not end by itself: {stderr}"));
    Ended {
        code: status.code(),
        stdout,
        stderr,
    }
}
