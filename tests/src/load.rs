// SPDX-License-Identifier: Apache-2.0
//! Load that runs beside a test and a report of every single call: when, who answered or why nobody did.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::hosts;
use crate::kubectl::Kubectl;
use crate::manifests;
use crate::wait::eventually;

/// No load runs longer than this, whatever happens to the test.
const SECONDS_MAX: u32 = 300;
/// How long the first answer may take: the Service's entries may still be on their way.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Each HTTP request in a connection of its own.
    Requests,
    /// One kept TCP connection.
    KeptTcp,
    /// One kept connected UDP socket.
    KeptUdp,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Milliseconds after the Unix epoch, when it ended.
    pub at_ms: u128,
    /// The pod that answered, or why none did.
    pub outcome: Result<String, String>,
    /// How long it took.
    pub micros: u64,
}

/// All calls of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In order.
    pub calls: Vec<Call>,
}

impl Report {
    /// Reads the lines of `knarr-echo client`.
    pub fn parse(text: &str) -> Self {
        Self {
            calls: text.lines().filter_map(parse_line).collect(),
        }
    }

    /// Calls that nobody answered.
    pub fn failures(&self) -> Vec<&Call> {
        self.calls
            .iter()
            .filter(|call| call.outcome.is_err())
            .collect()
    }

    /// How often each pod answered.
    pub fn spread(&self) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for who in self
            .calls
            .iter()
            .filter_map(|call| call.outcome.as_ref().ok())
        {
            *spread.entry(who.clone()).or_insert(0) += 1;
        }
        spread
    }

    /// Asserts that calls were made and each was answered.
    ///
    /// # Panics
    /// With the first failures when not.
    pub fn assert_unbroken(&self, what: &str, calls_min: usize) {
        let failures = self.failures();
        assert!(
            failures.is_empty(),
            "{what}: {} of {} calls failed, the first: {:?}",
            failures.len(),
            self.calls.len(),
            &failures[..failures.len().min(3)]
        );
        assert!(
            self.calls.len() >= calls_min,
            "{what}: only {} calls were made, so nothing was shown",
            self.calls.len()
        );
    }

    /// Asserts that nothing failed after this moment, in milliseconds after the Unix epoch.
    ///
    /// # Panics
    /// With the first failure when not.
    pub fn assert_unbroken_after(&self, what: &str, at_ms: u128) {
        let later: Vec<&Call> = self
            .calls
            .iter()
            .filter(|call| call.at_ms > at_ms)
            .collect();
        assert!(
            !later.is_empty(),
            "{what}: no call was made after that moment"
        );
        let failed = later.iter().find(|call| call.outcome.is_err());
        assert!(
            failed.is_none(),
            "{what}: a call failed {} ms after that moment: {failed:?}",
            failed.map_or(0, |call| call.at_ms - at_ms)
        );
    }
}

fn parse_line(line: &str) -> Option<Call> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[at, word, who, micros] = words.as_slice() else {
        return None;
    };
    let outcome = match word {
        "ok" => Ok(who.to_owned()),
        "fail" => Err(who.to_owned()),
        _ => return None,
    };
    Some(Call {
        at_ms: at.parse().ok()?,
        outcome,
        micros: micros.parse().ok()?,
    })
}

/// Now, on the scale of [`Call::at_ms`].
pub fn now_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
}

/// Load that is running. Dropping it ends it.
pub struct Load {
    what: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts it on a host and waits for the first answer, so that what follows is shown under load.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn start(host: &str, kind: From, target: &str) -> Self {
        eventually(
            &format!("{target} answers {host}"),
            FIRST_ANSWER_LIMIT,
            || one_answer(host, kind, target),
        );
        let seconds = SECONDS_MAX.to_string();
        let client: &[&str] = match kind {
            From::Requests => &[
                "knarr-echo",
                "client",
                "load",
                target,
                "--rate",
                "50",
                "--seconds",
                &seconds,
                "--until-eof",
            ],
            From::KeptTcp => &[
                "knarr-echo",
                "client",
                "tcp",
                target,
                "--every",
                "20",
                "--seconds",
                &seconds,
                "--until-eof",
            ],
            From::KeptUdp => &[
                "knarr-echo",
                "client",
                "udp",
                target,
                "--every",
                "20",
                "--seconds",
                &seconds,
                "--until-eof",
            ],
        };
        let mut child = hosts::command(host, client)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the load starts");
        let stdout = child.stdout.take().expect("it was asked for");
        let stdin = child.stdin.take();
        let lines = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&lines);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut all = written.lock().expect("no holder of this lock panics");
                all.push_str(&line);
                all.push('\n');
            }
        });
        let load = Self {
            what: format!("{kind:?} on {host} to {target}"),
            child,
            stdin,
            lines,
            reader: Some(reader),
        };
        eventually(&format!("{} runs", load.what), FIRST_ANSWER_LIMIT, || {
            if load.so_far().calls.is_empty() {
                Err("no call".to_owned())
            } else {
                Ok(())
            }
        });
        load
    }

    /// What happened until now.
    ///
    /// # Panics
    /// Never: no holder of the lock panics.
    pub fn so_far(&self) -> Report {
        Report::parse(&self.lines.lock().expect("no holder of this lock panics"))
    }

    /// What this load is, for messages.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Ends it and returns every call.
    pub fn stop(mut self) -> Report {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        // The end of its input ends the client.
        drop(self.stdin.take());
        if let Some(reader) = self.reader.take() {
            let _ = self.child.wait();
            let _ = reader.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn one_answer(host: &str, kind: From, target: &str) -> Result<(), String> {
    let args: &[&str] = match kind {
        From::Requests => &["knarr-echo", "client", "get", target],
        From::KeptTcp => &["knarr-echo", "client", "tcp", target, "--seconds", "0.01"],
        From::KeptUdp => &["knarr-echo", "client", "udp", target, "--seconds", "0.01"],
    };
    let outcome = hosts::run(host, args);
    if outcome.success {
        Ok(())
    } else {
        Err(outcome.stderr)
    }
}

/// Load from inside a pod on a node, for a fixed time; the report is read from the pod's log.
pub struct PodLoad<'a> {
    kubectl: &'a Kubectl,
    name: String,
}

impl<'a> PodLoad<'a> {
    /// Starts the pod and waits for its first line.
    ///
    /// # Panics
    /// When it does not come.
    pub fn start(kubectl: &'a Kubectl, name: &str, node: &str, target: &str, seconds: u32) -> Self {
        kubectl.apply(&manifests::load_pod(name, node, target, seconds));
        let load = Self {
            kubectl,
            name: name.to_owned(),
        };
        eventually(
            &format!("the pod {name} makes calls"),
            Duration::from_secs(60),
            || {
                if load.so_far().calls.is_empty() {
                    Err(kubectl.run(&["get", "pod", name]).stdout)
                } else {
                    Ok(())
                }
            },
        );
        load
    }

    /// What happened until now.
    pub fn so_far(&self) -> Report {
        Report::parse(&self.kubectl.run(&["logs", &self.name]).stdout)
    }

    /// Waits for the pod's end and returns every call.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(self) -> Report {
        eventually(
            &format!("the pod {} has ended", self.name),
            Duration::from_secs(u64::from(SECONDS_MAX)),
            || {
                let phase = self
                    .kubectl
                    .run(&[
                        "get",
                        "pod",
                        &self.name,
                        "--output",
                        "jsonpath={.status.phase}",
                    ])
                    .stdout;
                if matches!(phase.as_str(), "Succeeded" | "Failed") {
                    Ok(())
                } else {
                    Err(phase)
                }
            },
        );
        self.so_far()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_every_call_and_ignores_other_lines() {
        let report = Report::parse(
            "peer 10.96.0.1:80\n1000 ok web-a 120\n1020 fail connect:_refused 80\n1040 ok web-b 100\ntotal 3 failed 1\n",
        );
        assert_eq!(report.calls.len(), 3);
        assert_eq!(report.failures().len(), 1);
        assert_eq!(
            report.spread(),
            BTreeMap::from([("web-a".to_owned(), 1), ("web-b".to_owned(), 1)])
        );
        report.assert_unbroken_after("later", 1030);
    }

    #[test]
    #[should_panic(expected = "1 of 2 calls failed")]
    fn one_failed_call_breaks_a_load() {
        Report::parse("1 ok a 1\n2 fail b 1\n").assert_unbroken("a load", 1);
    }

    #[test]
    #[should_panic(expected = "nothing was shown")]
    fn a_load_without_calls_shows_nothing() {
        Report::default().assert_unbroken("a load", 1);
    }
}
