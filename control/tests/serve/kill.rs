// SPDX-License-Identifier: Apache-2.0
//! `kill -9` of the program while clients write: what they were told is there afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Identity};

/// Clients that write at once.
const WRITERS: usize = 8;
/// Rounds of killing and starting again.
const ROUNDS: u64 = 3;

/// Creates and updates ConfigMaps until the connection breaks; the newest value acknowledged of each.
async fn write_until_killed(cluster: &Cluster, writer: usize, round: u64) -> BTreeMap<String, u64> {
    let mut acknowledged = BTreeMap::new();
    let Some(mut connection) = cluster.admin_connection().await else {
        return acknowledged;
    };
    let collection = "/api/v1/namespaces/default/configmaps";
    for n in 0.. {
        let name = format!("r{round}-w{writer}-{}", n / 2);
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name}, "data": {"n": n.to_string()},
        });
        // Every object is created and then replaced once.
        let (method, path) = if n % 2 == 0 {
            ("POST", collection.to_owned())
        } else {
            ("PUT", format!("{collection}/{name}"))
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let Ok(response) = connection.send_request(request).await else {
            break;
        };
        let status = response.status();
        let Ok(_) = response.into_body().collect().await else {
            break;
        };
        assert!(status.is_success(), "{method} {name}: {status}");
        acknowledged.insert(name, n);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_control_plane_loses_nothing_acknowledged() {
    let mut cluster = Arc::new(Cluster::start_process().await);
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let cluster = cluster.clone();
            writers.spawn(async move { write_until_killed(&cluster, writer, round).await });
        }
        tokio::time::sleep(Duration::from_millis(700 + 31 * round)).await;
        cluster.kill();
        for newest in writers.join_all().await {
            acknowledged.extend(newest);
        }
        let cluster = Arc::get_mut(&mut cluster).expect("the writers have ended");
        cluster.start_again().await;
    }
    // Enough that some were written in the last moments before each kill; a busy machine makes fewer than a quiet one.
    assert!(acknowledged.len() > 20, "only {}", acknowledged.len());
    let path = "/api/v1/namespaces/default/configmaps";
    let (status, list) = cluster.get(&Identity::Admin, path).await;
    assert_eq!(status, StatusCode::OK);
    let stored: BTreeMap<&str, u64> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item: &Value| {
            let name = item["metadata"]["name"].as_str().unwrap();
            (
                name,
                item["data"]["n"].as_str().map_or(0, |n| n.parse().unwrap()),
            )
        })
        .collect();
    for (name, n) in &acknowledged {
        let found = stored.get(name.as_str()).copied();
        assert!(
            found.is_some_and(|found| found >= *n),
            "{name}: {n} was acknowledged, {found:?} is stored"
        );
    }
}

#[test]
fn sigterm_ends_the_program_even_when_nobody_reads_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut child = Command::new(env!("CARGO_BIN_EXE_knarr-control"))
        .arg("--data-dir")
        .arg(dir.path())
        .args(["--listen", &address, "--advertise-address", "10.0.0.5"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let up = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("is up")));
    assert!(up.is_some(), "it never said that it is up");
    drop(log);
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    let end = Instant::now() + Duration::from_secs(10);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("SIGTERM was not obeyed");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}
