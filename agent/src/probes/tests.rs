// SPDX-License-Identifier: Apache-2.0
//! Tests of asking probes, with real sockets.

use knarr_agent_plan::probe::{HttpGet, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

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
    Check::Http(HttpGet {
        scheme: Scheme::Http,
        host: None,
        port,
        path: "/".into(),
        headers: vec![],
    })
}

#[tokio::test]
async fn a_question_has_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let spec = ProbeSpec {
        timeout_ms: 100,
        ..spec(ProbeKind::Readiness, http(port))
    };
    let said = "no answer within 100 ms".to_owned();
    assert_eq!(ask(&spec, "127.0.0.1").await, Answer::Failed(said));
}

#[tokio::test]
async fn a_refused_connection_fails_a_tcp_probe() {
    let port = server("").await;
    let ok = spec(ProbeKind::Liveness, Check::Tcp { host: None, port });
    assert_eq!(ask(&ok, "127.0.0.1").await, Answer::Passed);
    let closed = spec(
        ProbeKind::Liveness,
        Check::Tcp {
            host: None,
            port: 1,
        },
    );
    let answer = ask(&closed, "127.0.0.1").await;
    assert!(
        matches!(&answer, Answer::Failed(said) if said.starts_with("dial tcp 127.0.0.1:1: ")),
        "{answer:?}"
    );
}

fn hangs_then_panics(spec: ProbeSpec, _: String) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    static ASKED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    Box::pin(async move {
        match spec.kind {
            ProbeKind::Liveness => std::future::pending().await,
            _ if ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 => {
                panic!("the first question of this test panics")
            }
            _ => Answer::Passed,
        }
    })
}

#[tokio::test]
async fn a_probe_that_hangs_or_panics_keeps_no_other_from_being_asked() {
    let wake = Arc::new(Notify::new());
    let mut probes = Probes::new(wake.clone(), Arc::new(hangs_then_panics));
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

fn refuses(_: ProbeSpec, _: String) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    REFUSED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Box::pin(async { Answer::Failed("refused".to_owned()) })
}

#[tokio::test]
async fn a_container_that_has_to_be_restarted_is_not_asked_whether_it_lives() {
    let wake = Arc::new(Notify::new());
    let mut probes = Probes::new(wake.clone(), Arc::new(refuses));
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

fn passes_with_a_word(_: ProbeSpec, _: String) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
    Box::pin(async { Answer::Warned("elsewhere".to_owned()) })
}

#[tokio::test]
async fn a_pass_with_a_word_is_a_pass_and_the_word_is_told() {
    let wake = Arc::new(Notify::new());
    let mut probes = Probes::new(wake.clone(), Arc::new(passes_with_a_word));
    let readiness = spec(ProbeKind::Readiness, http(1));
    let known = ProbeView::default();
    probes.start("c", 0, vec![readiness], "127.0.0.1", Duration::ZERO, &known);
    while probes.views()["c"].ready != Some(true) {
        tokio::time::timeout(Duration::from_secs(10), wake.notified())
            .await
            .expect("a verdict");
    }
    let remark = Remark {
        container: "c".to_owned(),
        probe: ProbeKind::Readiness,
        kind: RemarkKind::Warned,
        message: "elsewhere".to_owned(),
    };
    assert_eq!(probes.take_remarks(), [remark]);
    assert_eq!(probes.take_remarks(), []);
}

#[tokio::test]
async fn a_verdict_wakes_the_worker_and_is_seen() {
    let wake = Arc::new(Notify::new());
    let mut probes = Probes::new(wake.clone(), Arc::new(ask_over_network));
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
