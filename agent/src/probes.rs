// SPDX-License-Identifier: Apache-2.0
//! Asks the probes of one pod's running containers and keeps their verdicts.
//!
//! Not here: what a row of answers means (`knarr_agent_plan::probe`). One task for each probe of each running
//! container; it ends with the attempt.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use knarr_agent_plan::probe::{
    Check, Outcome, ProbeKind, ProbeSpec, ProbeState, ProbeView, probe_view,
};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

mod http;

/// What a probe found, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Passed,
    /// Passed, and there is something to say about it.
    Warned(String),
    /// Not as it should be; the text says what was seen.
    Failed(String),
}

/// An answer that an event tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Container name.
    pub container: String,
    /// Which probe.
    pub probe: ProbeKind,
    /// What became of it.
    pub kind: RemarkKind,
    /// What was seen.
    pub message: String,
}

/// The kubelet's two events about an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemarkKind {
    /// `Unhealthy`: it failed.
    Failed,
    /// `ProbeWarning`: it passed, but not as it should have.
    Warned,
}

/// How a probe is asked; the text is the pod's address. [`ask_over_network`], or what a test puts here.
pub type Ask = Arc<dyn Fn(ProbeSpec, String) -> AnswerFuture + Send + Sync>;

/// An answer to come.
pub type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Asks the pod over the network.
pub fn ask_over_network(spec: ProbeSpec, pod_ip: String) -> AnswerFuture {
    Box::pin(async move { ask(&spec, &pod_ip).await })
}

type States = Arc<Mutex<Vec<(ProbeSpec, ProbeState)>>>;

struct Prober {
    attempt: u32,
    states: States,
    /// One for each probe; they end with this value.
    _tasks: JoinSet<()>,
}

/// The probers of one pod.
pub struct Probes {
    wake: Arc<Notify>,
    probers: BTreeMap<String, Prober>,
    remarks: Arc<Mutex<Vec<Remark>>>,
    ask: Ask,
}

impl Probes {
    /// Verdicts that change wake `wake`.
    pub fn new(wake: Arc<Notify>, ask: Ask) -> Probes {
        Probes {
            wake,
            probers: BTreeMap::new(),
            remarks: Arc::default(),
            ask,
        }
    }

    /// Begins to ask an attempt that runs, once. `known` is what an agent before this one knew of it: a
    /// restart of the agent makes nothing unready.
    pub fn start(
        &mut self,
        container: &str,
        attempt: u32,
        specs: Vec<ProbeSpec>,
        pod_ip: &str,
        age: Duration,
        known: &ProbeView,
    ) {
        if specs.is_empty()
            || self
                .probers
                .get(container)
                .is_some_and(|p| p.attempt == attempt)
        {
            return;
        }
        let states: States = Arc::new(Mutex::new(
            specs
                .into_iter()
                .map(|spec| {
                    let passed = match spec.kind {
                        ProbeKind::Startup => known.started,
                        ProbeKind::Readiness => known.ready,
                        ProbeKind::Liveness => None,
                    };
                    let state = ProbeState {
                        verdict: passed.filter(|p| *p),
                        ..ProbeState::default()
                    };
                    (spec, state)
                })
                .collect(),
        ));
        let asker = Asker {
            container: container.to_owned(),
            pod_ip: pod_ip.to_owned(),
            states: states.clone(),
            started: watch::Sender::new(started(&states)),
            wake: self.wake.clone(),
            remarks: self.remarks.clone(),
            ask: self.ask.clone(),
        };
        let specs: Vec<ProbeSpec> = {
            let states = states.lock();
            states.iter().map(|(spec, _)| spec.clone()).collect()
        };
        let mut tasks = JoinSet::new();
        for (n, spec) in specs.into_iter().enumerate() {
            tasks.spawn(asker.clone().run(n, spec, age));
        }
        let prober = Prober {
            attempt,
            states,
            _tasks: tasks,
        };
        self.probers.insert(container.to_owned(), prober);
    }

    /// Stops asking containers that do not run.
    pub fn retain(&mut self, running: impl Fn(&str, u32) -> bool) {
        self.probers.retain(|name, p| running(name, p.attempt));
    }

    /// The verdicts; containers with probes whose asking has not begun are not started and not ready.
    pub fn views(&self) -> BTreeMap<String, ProbeView> {
        let view = |p: &Prober| {
            let states = p.states.lock();
            probe_view(&states)
        };
        let views = self.probers.iter().map(|(name, p)| (name.clone(), view(p)));
        views.collect()
    }

    /// What there was to say of answers since the last call.
    pub fn take_remarks(&self) -> Vec<Remark> {
        let mut list = self.remarks.lock();
        std::mem::take(&mut list)
    }
}

/// Asks one probe. Each has a task of its own: one that hangs delays no other.
#[derive(Clone)]
struct Asker {
    container: String,
    pod_ip: String,
    states: States,
    /// Whether the startup probe, if there is one, has passed.
    started: watch::Sender<Started>,
    wake: Arc<Notify>,
    remarks: Arc<Mutex<Vec<Remark>>>,
    ask: Ask,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    Yes,
    NotYet,
}

impl Asker {
    async fn run(self, n: usize, spec: ProbeSpec, age: Duration) {
        let mut due = Instant::now() + duration(spec.initial_delay_ms).saturating_sub(age);
        // The startup probe holds the others back.
        if spec.kind != ProbeKind::Startup {
            let mut started = self.started.subscribe();
            if started.wait_for(|s| *s == Started::Yes).await.is_err() {
                return;
            }
        }
        while !is_settled(spec.kind, self.verdict(n)) {
            tokio::time::sleep_until(due).await;
            // A task of its own, which ends with this one: a panic in it is not the end of the probing.
            let mut asked = JoinSet::new();
            asked.spawn((self.ask)(spec.clone(), self.pod_ip.clone()));
            match asked.join_next().await {
                Some(Ok(answer)) => self.take(n, &spec, answer),
                Some(Err(error)) => tracing::error!(
                    container = self.container,
                    probe = spec.kind.as_str(),
                    %error,
                    "asking a probe failed, which says nothing about the container"
                ),
                None => return,
            }
            due = Instant::now() + duration(spec.period_ms);
        }
    }

    fn verdict(&self, n: usize) -> Option<bool> {
        let states = self.states.lock();
        states[n].1.verdict
    }

    fn take(&self, n: usize, spec: &ProbeSpec, answer: Answer) {
        let (outcome, remark) = match answer {
            Answer::Passed => (Outcome::Pass, None),
            Answer::Warned(message) => (Outcome::Pass, Some((RemarkKind::Warned, message))),
            Answer::Failed(message) => (Outcome::Fail, Some((RemarkKind::Failed, message))),
        };
        let changed = {
            let mut states = self.states.lock();
            let before = states[n].1.verdict;
            states[n].1.take(spec, outcome);
            before != states[n].1.verdict
        };
        if let Some((kind, message)) = remark {
            let mut list = self.remarks.lock();
            let remark = Remark {
                container: self.container.clone(),
                probe: spec.kind,
                kind,
                message,
            };
            if !list.contains(&remark) {
                list.push(remark);
            }
            self.wake.notify_one();
        }
        if changed {
            self.started.send_replace(started(&self.states));
            self.wake.notify_one();
        }
    }
}

/// Whether a probe has nothing to be asked any more: what it found holds for the container until it is another.
fn is_settled(kind: ProbeKind, verdict: Option<bool>) -> bool {
    matches!(
        (kind, verdict),
        (ProbeKind::Startup, Some(_)) | (ProbeKind::Liveness, Some(false))
    )
}

fn started(states: &States) -> Started {
    let states = states.lock();
    match probe_view(&states).started {
        Some(false) => Started::NotYet,
        _ => Started::Yes,
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

async fn ask(spec: &ProbeSpec, pod_ip: &str) -> Answer {
    let asked = async {
        match &spec.check {
            Check::Tcp { host, port } => {
                let host = host.as_deref().unwrap_or(pod_ip);
                match TcpStream::connect((host, *port)).await {
                    Ok(_) => Answer::Passed,
                    Err(error) => Answer::Failed(format!("dial tcp {host}:{port}: {error}")),
                }
            }
            Check::Http(get) => http::ask(get, pod_ip).await,
        }
    };
    let answer = tokio::time::timeout(duration(spec.timeout_ms), asked).await;
    answer.unwrap_or_else(|_| Answer::Failed(format!("no answer within {} ms", spec.timeout_ms)))
}

#[cfg(test)]
mod tests;
