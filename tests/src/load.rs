// SPDX-License-Identifier: Apache-2.0
//! Load that runs beside a test and a report of every single call: when, and which pod answered or why none did.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::ops::Range;
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
/// No call may take so long. It is what TCP waits before it sends a SYN again (RFC 6298), so a connection whose first
/// packet was lost shows, although the client gets its answer in the end.
const CALL_MICROS_LIMIT: u64 = 1_000_000;
/// Nothing may be silent for so long. A busy machine may leave the client itself without a core for a moment.
const SILENCE_LIMIT_MS: u128 = 3_000;
/// Calls a second of every load here.
const RATE: u128 = 50;
/// How many of a hundred due calls have to be made: two cores carry the cluster, its clients and the test.
const MADE_PERCENT_MIN: u128 = 50;
/// A stretch of time with fewer calls shows nothing.
const CALLS_MIN: usize = 10;
/// How long a load is watched before and after what happens to the cluster.
const QUIET: Duration = Duration::from_secs(1);

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

    /// Calls without an answer.
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

    /// Asserts that calls were made, each was answered, and there was never silence.
    ///
    /// # Panics
    /// With the first failures, or the longest silence, when not.
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
        assert_no_silence(what, &self.calls);
    }

    /// The same for a load that ran around something that happened in this time: calls were made and answered before,
    /// while and after it happened, and about as many as were due.
    ///
    /// # Panics
    /// With what is wrong and in which part.
    pub fn assert_unbroken_around(&self, what: &str, happened: &Range<u128>) {
        self.assert_unbroken(what, CALLS_MIN);
        let (first, last) = (self.calls[0].at_ms, self.calls[self.calls.len() - 1].at_ms);
        for (part, span) in [
            ("before", first..happened.start),
            ("during", happened.clone()),
            ("after", happened.end..last + 1),
        ] {
            let made = self
                .calls
                .iter()
                .filter(|call| span.contains(&call.at_ms))
                .count();
            let length_ms = span.end.saturating_sub(span.start);
            let due = length_ms * RATE / 1_000;
            let wanted = usize::try_from(due * MADE_PERCENT_MIN / 100).unwrap_or(usize::MAX);
            assert!(
                made >= wanted.max(CALLS_MIN),
                "{what}: {made} calls were answered in the {length_ms} ms {part}, where {due} were due"
            );
        }
    }

    /// Asserts that no call that began after this moment, in milliseconds after the Unix epoch, failed, and that there
    /// was no silence among them.
    ///
    /// # Panics
    /// With the first failure when not.
    pub fn assert_unbroken_after(&self, what: &str, at_ms: u128) {
        // What began before may end much later: with the client's timeout.
        let later: Vec<Call> = self
            .calls
            .iter()
            .filter(|call| call.began_ms() > at_ms)
            .cloned()
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
        assert_no_silence(what, &later);
    }
}

impl Call {
    /// Milliseconds after the Unix epoch, when it began.
    fn began_ms(&self) -> u128 {
        self.at_ms.saturating_sub(u128::from(self.micros) / 1_000)
    }
}

fn assert_no_silence(what: &str, calls: &[Call]) {
    if let Some(slowest) = calls.iter().max_by_key(|call| call.micros) {
        assert!(
            slowest.micros < CALL_MICROS_LIMIT,
            "{what}: a call took {} ms: {slowest:?}",
            slowest.micros / 1_000
        );
    }
    let longest = calls
        .windows(2)
        .map(|pair| (pair[1].at_ms.saturating_sub(pair[0].at_ms), &pair[1]))
        .max_by_key(|(silence, _)| *silence);
    if let Some((silence, until)) = longest {
        assert!(
            silence < SILENCE_LIMIT_MS,
            "{what}: no call was answered for {silence} ms, until {until:?}"
        );
    }
}

/// Lets loads run for a moment, does something to the cluster, and lets them run for another moment. Says when it
/// happened, for [`Report::assert_unbroken_around`].
pub fn around(happens: impl FnOnce()) -> Range<u128> {
    thread::sleep(QUIET);
    let began = now_ms();
    happens();
    let ended = now_ms();
    thread::sleep(QUIET);
    began..ended
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

    /// Answers at these moments.
    fn answers(at_ms: impl IntoIterator<Item = u128>) -> Report {
        let calls = at_ms.into_iter().map(|at_ms| Call {
            at_ms,
            outcome: Ok("a".to_owned()),
            micros: 100,
        });
        Report {
            calls: calls.collect(),
        }
    }

    #[test]
    fn a_load_that_goes_on_through_a_fault_is_unbroken() {
        answers((0..5_000).step_by(20)).assert_unbroken_around("a load", &(1_000..3_000));
    }

    #[test]
    #[should_panic(expected = "a call took 1001 ms")]
    fn an_answer_that_came_by_a_second_syn_breaks_a_load() {
        let mut report = answers((0..2_000).step_by(20));
        report.calls[50].micros = 1_001_000;
        report.assert_unbroken("a load", 1);
    }

    #[test]
    #[should_panic(expected = "no call was answered for 3020 ms")]
    fn a_silence_breaks_a_load() {
        answers((0..2_000).step_by(20).chain((5_000..7_000).step_by(20)))
            .assert_unbroken("a load", 1);
    }

    #[test]
    #[should_panic(expected = "1 calls were answered in the 1 ms after")]
    fn a_load_that_ended_with_the_fault_shows_nothing() {
        answers((0..3_000).step_by(20)).assert_unbroken_around("a load", &(1_000..2_980));
    }

    #[test]
    #[should_panic(expected = "in the 2000 ms during, where 100 were due")]
    fn a_load_that_limps_through_the_fault_is_broken() {
        let limping = (0..1_000)
            .step_by(20)
            .chain((1_000..3_000).step_by(200))
            .chain((3_000..4_000).step_by(20));
        answers(limping).assert_unbroken_around("a load", &(1_000..3_000));
    }

    #[test]
    fn a_call_that_began_before_the_moment_may_end_badly_after_it() {
        Report::parse("3000 fail timed_out 2000000\n3020 ok a 100\n3040 ok a 100\n")
            .assert_unbroken_after("a load", 2_000);
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
