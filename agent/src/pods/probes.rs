// SPDX-License-Identifier: Apache-2.0
//! Asks the probes of one pod's running containers and keeps their verdicts.
//!
//! Not here: what a row of answers means (`knarr_agent_plan::probe`). One task for each probe of each running
//! container; it ends with the attempt.

use knarr_agent_plan::probe::{
    Check, Outcome, ProbeKind, ProbeSpec, ProbeState, ProbeView, probe_view,
};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A status line longer than this is none.
const ANSWER_BYTES_MAX: usize = 4096;

/// A failed answer, for the `Unhealthy` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unhealthy {
    /// Container name.
    pub container: String,
    /// Which probe.
    pub probe: &'static str,
    /// What was seen.
    pub message: String,
}

/// How a probe is asked; tests put another one here.
type Ask = fn(ProbeSpec, String) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

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
    unhealthy: Arc<Mutex<Vec<Unhealthy>>>,
    ask: Ask,
}

impl Probes {
    /// Verdicts that change wake `wake`.
    pub fn new(wake: Arc<Notify>) -> Probes {
        Probes {
            wake,
            probers: BTreeMap::new(),
            unhealthy: Arc::default(),
            ask: |spec, pod_ip| Box::pin(async move { ask(&spec, &pod_ip).await }),
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
            unhealthy: self.unhealthy.clone(),
            ask: self.ask,
        };
        let specs: Vec<ProbeSpec> = {
            let states = states.lock().unwrap_or_else(PoisonError::into_inner);
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
            let states = p.states.lock().unwrap_or_else(PoisonError::into_inner);
            probe_view(&states)
        };
        let views = self.probers.iter().map(|(name, p)| (name.clone(), view(p)));
        views.collect()
    }

    /// Failed answers since the last call.
    pub fn take_unhealthy(&self) -> Vec<Unhealthy> {
        let mut list = self
            .unhealthy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
    unhealthy: Arc<Mutex<Vec<Unhealthy>>>,
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
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states[n].1.verdict
    }

    fn take(&self, n: usize, spec: &ProbeSpec, answer: Result<(), String>) {
        let outcome = match &answer {
            Ok(()) => Outcome::Pass,
            Err(_) => Outcome::Fail,
        };
        let changed = {
            let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
            let before = states[n].1.verdict;
            states[n].1.take(spec, outcome);
            before != states[n].1.verdict
        };
        if let Err(message) = answer {
            let mut list = self
                .unhealthy
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let unhealthy = Unhealthy {
                container: self.container.clone(),
                probe: spec.kind.as_str(),
                message,
            };
            if !list.contains(&unhealthy) {
                list.push(unhealthy);
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
    let states = states.lock().unwrap_or_else(PoisonError::into_inner);
    match probe_view(&states).started {
        Some(false) => Started::NotYet,
        _ => Started::Yes,
    }
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

async fn ask(spec: &ProbeSpec, pod_ip: &str) -> Result<(), String> {
    let limit = duration(spec.timeout_ms);
    let asked = match &spec.check {
        Check::Tcp { host, port } => {
            let target = (host.as_deref().unwrap_or(pod_ip), *port);
            tokio::time::timeout(limit, TcpStream::connect(target))
                .await
                .map(|r| {
                    r.map(|_| ())
                        .map_err(|e| format!("dial tcp {}:{port}: {e}", target.0))
                })
        }
        Check::Http {
            host,
            port,
            path,
            headers,
        } => {
            let host = host.as_deref().unwrap_or(pod_ip);
            tokio::time::timeout(limit, ask_http(host, *port, path, headers)).await
        }
    };
    asked.unwrap_or_else(|_| Err(format!("no answer within {} ms", spec.timeout_ms)))
}

async fn ask_http(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let url = format!("http://{host}:{port}{path}");
    let fail = |e: std::io::Error| format!("Get \"{url}\": {e}");
    let mut stream = TcpStream::connect((host, port)).await.map_err(fail)?;
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    let has = |name: &str| headers.iter().any(|(k, _)| k.eq_ignore_ascii_case(name));
    for (name, value) in [
        ("Host", format!("{host}:{port}")),
        ("User-Agent", "kube-probe/1.37".to_owned()),
        ("Accept", "*/*".to_owned()),
        ("Connection", "close".to_owned()),
    ] {
        if !has(name) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        let clean = |text: &str| text.replace(['\r', '\n'], "");
        request.push_str(&format!("{}: {}\r\n", clean(name), clean(value)));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(fail)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < ANSWER_BYTES_MAX {
        if stream.read_buf(&mut answer).await.map_err(fail)? == 0 {
            break;
        }
    }
    let line = answer.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_whitespace();
    let version = words.next().unwrap_or("");
    let status = words.next().and_then(|s| s.parse::<u16>().ok());
    match status {
        Some(200..400) if version.starts_with("HTTP/") => Ok(()),
        Some(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
        None => Err(format!(
            "Get \"{url}\": malformed HTTP response {:?}",
            line.trim()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn server(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    fn spec(kind: ProbeKind, check: Check) -> ProbeSpec {
        ProbeSpec {
            kind,
            check,
            initial_delay_ms: 0,
            period_ms: 1000,
            timeout_ms: 1000,
            success_threshold: 1,
            failure_threshold: 1,
            grace_ms: None,
        }
    }

    fn http(port: u16) -> Check {
        Check::Http {
            host: None,
            port,
            path: "/".into(),
            headers: vec![],
        }
    }

    #[tokio::test]
    async fn an_http_probe_passes_from_200_to_399() {
        for (answer, passes) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 302 Found\r\n\r\n", true),
            ("HTTP/1.1 500 Oops\r\n\r\n", false),
            ("SSH-2.0-x\r\n", false),
        ] {
            let spec = spec(ProbeKind::Readiness, http(server(answer).await));
            assert_eq!(ask(&spec, "127.0.0.1").await.is_ok(), passes, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_fails_a_tcp_probe() {
        let port = server("").await;
        let ok = spec(ProbeKind::Liveness, Check::Tcp { host: None, port });
        assert!(ask(&ok, "127.0.0.1").await.is_ok());
        let closed = spec(
            ProbeKind::Liveness,
            Check::Tcp {
                host: None,
                port: 1,
            },
        );
        assert!(ask(&closed, "127.0.0.1").await.is_err());
    }

    fn hangs_then_panics(
        spec: ProbeSpec,
        _: String,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        static ASKED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        Box::pin(async move {
            match spec.kind {
                ProbeKind::Liveness => std::future::pending().await,
                _ if ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
                    panic!("the first question of this test panics")
                }
                _ => Ok(()),
            }
        })
    }

    #[tokio::test]
    async fn a_probe_that_hangs_or_panics_keeps_no_other_from_being_asked() {
        let wake = Arc::new(Notify::new());
        let mut probes = Probes::new(wake.clone());
        probes.ask = hangs_then_panics;
        let often = |kind| ProbeSpec {
            period_ms: 10,
            ..spec(kind, http(1))
        };
        let specs = vec![often(ProbeKind::Liveness), often(ProbeKind::Readiness)];
        let known = ProbeView::default();
        probes.start("c", 0, specs, "127.0.0.1", Duration::ZERO, &known);
        let ready = async {
            while probes.views()["c"].ready != Some(true) {
                wake.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ready)
            .await
            .expect("ready although the liveness probe hangs and the first question panicked");
    }

    static REFUSED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

    fn refuses(
        _: ProbeSpec,
        _: String,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        REFUSED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(async { Err("refused".to_owned()) })
    }

    #[tokio::test]
    async fn a_container_that_has_to_be_restarted_is_not_asked_whether_it_lives() {
        let wake = Arc::new(Notify::new());
        let mut probes = Probes::new(wake.clone());
        probes.ask = refuses;
        let liveness = ProbeSpec {
            period_ms: 10,
            failure_threshold: 2,
            ..spec(ProbeKind::Liveness, http(1))
        };
        let known = ProbeView::default();
        probes.start("c", 0, vec![liveness], "127.0.0.1", Duration::ZERO, &known);
        while probes.views()["c"].failed.is_none() {
            tokio::time::timeout(Duration::from_secs(10), wake.notified())
                .await
                .expect("a verdict");
        }
        // Time for many more questions.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(REFUSED.load(std::sync::atomic::Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_verdict_wakes_the_worker_and_is_seen() {
        let wake = Arc::new(Notify::new());
        let mut probes = Probes::new(wake.clone());
        let port = server("HTTP/1.1 200 OK\r\n\r\n").await;
        let specs = vec![
            spec(ProbeKind::Startup, http(port)),
            spec(ProbeKind::Readiness, http(port)),
        ];
        let known = ProbeView::default();
        probes.start("c", 0, specs, "127.0.0.1", Duration::ZERO, &known);
        assert_eq!(probes.views()["c"].started, Some(false));
        while probes.views()["c"].ready != Some(true) {
            tokio::time::timeout(Duration::from_secs(10), wake.notified())
                .await
                .expect("a verdict");
        }
        assert_eq!(probes.views()["c"].started, Some(true));
        probes.retain(|_, attempt| attempt == 1);
        assert!(probes.views().is_empty());
    }
}
