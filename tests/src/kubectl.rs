// SPDX-License-Identifier: Apache-2.0
//! The real kubectl, as a user has it: arguments in, exit code and text out.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::lab::up_dir;
use crate::outcome::Outcome;
use crate::wait::eventually;

/// kubectl with the admin's kubeconfig and a default namespace.
#[derive(Clone, Debug)]
pub struct Kubectl {
    namespace: String,
}

impl Kubectl {
    /// With this default namespace.
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    /// The command, for tests that want to read its output as it comes.
    pub fn command(&self, args: &[&str]) -> Command {
        let up = up_dir();
        let mut command = Command::new(up.join("bin/kubectl"));
        command
            .arg("--kubeconfig")
            .arg(up.join("kubeconfig"))
            .args(["--namespace", &self.namespace]);
        command
            .env("KUBECACHEDIR", up.join("kube-cache"))
            .args(args);
        command
    }

    /// kubectl without any credentials of ours: what a stranger can do.
    pub fn stranger(args: &[&str]) -> Outcome {
        let config = std::fs::read_to_string(up_dir().join("kubeconfig")).expect("a cluster is up");
        let server = config
            .lines()
            .find_map(|line| line.trim().strip_prefix("server: "))
            .expect("a kubeconfig names the server")
            .trim_matches('"')
            .to_owned();
        let mut command = Command::new(up_dir().join("bin/kubectl"));
        command.args([
            "--kubeconfig",
            "/dev/null",
            "--server",
            &server,
            "--insecure-skip-tls-verify",
        ]);
        command
            .env("KUBECACHEDIR", up_dir().join("kube-cache-stranger"))
            .args(args);
        Outcome::of(&mut command, "")
    }

    /// Runs it, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(args), "")
    }

    /// Runs it with this on its standard input, whatever comes of it.
    pub fn run_with(&self, args: &[&str], input: &str) -> Outcome {
        Outcome::of(&mut self.command(args), input)
    }

    /// Runs it and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok(&self, args: &[&str]) -> String {
        self.ok_with(args, "")
    }

    /// The same with standard input.
    ///
    /// # Panics
    /// When it fails.
    pub fn ok_with(&self, args: &[&str], input: &str) -> String {
        let outcome = self.run_with(args, input);
        assert!(
            outcome.success,
            "kubectl {} failed:\n{}{}",
            args.join(" "),
            outcome.stdout,
            outcome.stderr
        );
        outcome.stdout
    }

    /// Runs it and returns its complaint.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn refused(&self, args: &[&str], input: &str) -> String {
        let outcome = self.run_with(args, input);
        assert!(
            !outcome.success,
            "kubectl {} was expected to fail and printed:\n{}",
            args.join(" "),
            outcome.stdout
        );
        outcome.stderr
    }

    /// Applies an object, or a list of them.
    ///
    /// # Panics
    /// When it fails.
    pub fn apply(&self, object: &Value) -> String {
        self.ok_with(&["apply", "--filename", "-"], &object.to_string())
    }

    /// Takes all finalizers from an object.
    ///
    /// # Panics
    /// When it fails.
    pub fn let_go(&self, kind: &str, name: &str) {
        self.ok(&[
            "patch",
            kind,
            name,
            "--type=merge",
            "--patch",
            r#"{"metadata":{"finalizers":null}}"#,
        ]);
    }

    /// An object or a list as JSON.
    ///
    /// # Panics
    /// When it fails.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["--output", "json"]);
        serde_json::from_str(&self.ok(&all)).expect("kubectl prints JSON")
    }

    /// What the API has at a path, as JSON.
    ///
    /// # Panics
    /// When it fails.
    pub fn raw(&self, path: &str) -> Value {
        serde_json::from_str(&self.ok(&["get", "--raw", path])).expect("the API answers with JSON")
    }

    /// The objects of a list.
    ///
    /// # Panics
    /// When it fails.
    pub fn items(&self, args: &[&str]) -> Vec<Value> {
        self.json(args)["items"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until a Deployment has been rolled out and its pods are all there.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn rolled_out(&self, deployment: &str) {
        self.ok(&[
            "rollout",
            "status",
            &format!("deployment/{deployment}"),
            "--timeout=120s",
        ]);
    }

    /// Waits until the value at a JSON path is this.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn until(&self, object: &str, pointer: &str, wanted: &str, limit: Duration) {
        eventually(
            &format!("{object} has {wanted} at {pointer}"),
            limit,
            || {
                let outcome = self.run(&["get", object, "--output", "json"]);
                let found: Value =
                    serde_json::from_str(&outcome.stdout).map_err(|_| outcome.stderr.clone())?;
                let value = found.pointer(pointer).cloned().unwrap_or(Value::Null);
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                if text == wanted { Ok(()) } else { Err(text) }
            },
        );
    }

    /// Starts it and lets it run.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts")
    }
}
