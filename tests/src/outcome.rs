// SPDX-License-Identifier: Apache-2.0
//! A program that ran to its end.

use std::io::Write;
use std::process::{Command, Stdio};

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether it ended with 0.
    pub success: bool,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs a program to its end with this on its standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn of(command: &mut Command, input: &str) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut stdin = child.stdin.take().expect("it was asked for");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // A program that ends early shows that by its exit code.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().expect("a child can be waited for");
        writer.join().expect("the writer does not panic");
        Self {
            success: output.status.success(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
