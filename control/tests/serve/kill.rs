// SPDX-License-Identifier: Apache-2.0
//! `kill -9` of the program while clients write: what they were told is there afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Identity};

/// Clients that write ConfigMaps, and as many that write Services, at once.
const WRITERS: usize = 4;
/// Rounds of killing and starting again.
const ROUNDS: u64 = 3;
/// Services of one writer in one round; it deletes its oldest for each further one, so that what all of them leave
/// fits twice into the ranges and addresses are given back as well.
const SERVICES_MAX: usize = 30;
/// Services created after each kill.
const FURTHER: usize = 20;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";

/// What clients were told.
#[derive(Default)]
struct Acknowledged {
    /// The newest value of each ConfigMap.
    config_maps: BTreeMap<String, u64>,
    /// What each Service was given; `None` for those that were deleted.
    services: BTreeMap<String, Option<Given>>,
}

/// What a Service was given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    address: String,
    port: Option<u64>,
}

impl Given {
    fn of(service: &Value) -> Self {
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        Self {
            address: address.to_owned(),
            port: service["spec"]["ports"][0]["nodePort"].as_u64(),
        }
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

fn node_port_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]},
    })
}

/// The answer to a request that succeeds; nothing once the connection is broken.
pub(super) async fn ask(
    connection: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Option<Value> {
    let content = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method.clone())
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(content))
        .unwrap();
    // The answer before this may have been read whole before the connection was ready for another request.
    connection.ready().await.ok()?;
    let response = connection.send_request(request).await.ok()?;
    let status = response.status();
    let answer = response.into_body().collect().await.ok()?.to_bytes();
    let text = String::from_utf8_lossy(&answer);
    assert!(status.is_success(), "{method} {path}: {status} {text}");
    Some(serde_json::from_slice(&answer).unwrap())
}

/// Creates and updates ConfigMaps until the connection breaks.
async fn write_config_maps(cluster: &Cluster, writer: usize, round: u64) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let Some(mut connection) = cluster.admin_connection().await else {
        return acknowledged;
    };
    for n in 0.. {
        let name = format!("r{round}-w{writer}-{}", n / 2);
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name}, "data": {"n": n.to_string()},
        });
        // Every object is created and then replaced once.
        let (method, path) = if n % 2 == 0 {
            (Method::POST, CONFIG_MAPS.to_owned())
        } else {
            (Method::PUT, format!("{CONFIG_MAPS}/{name}"))
        };
        if ask(&mut connection, method, &path, Some(body))
            .await
            .is_none()
        {
            break;
        }
        acknowledged.config_maps.insert(name, n);
    }
    acknowledged
}

/// Creates Services with node ports, and deletes the oldest of many, until the connection breaks.
async fn write_services(cluster: &Cluster, writer: usize, round: u64) -> Acknowledged {
    let mut acknowledged = Acknowledged::default();
    let Some(mut connection) = cluster.admin_connection().await else {
        return acknowledged;
    };
    let mut held = VecDeque::new();
    for n in 0.. {
        let name = format!("r{round}-w{writer}-{n}");
        let body = node_port_service(&name);
        let Some(made) = ask(&mut connection, Method::POST, SERVICES, Some(body)).await else {
            break;
        };
        let given = Given::of(&made);
        assert!(given.port.is_some(), "{made}");
        acknowledged.services.insert(name.clone(), Some(given));
        held.push_back(name);
        if held.len() <= SERVICES_MAX {
            continue;
        }
        let oldest = held.pop_front().unwrap();
        let path = format!("{SERVICES}/{oldest}");
        // It may be there or not until the deletion is acknowledged.
        acknowledged.services.remove(&oldest);
        if ask(&mut connection, Method::DELETE, &path, None)
            .await
            .is_none()
        {
            break;
        }
        acknowledged.services.insert(oldest, None);
    }
    acknowledged
}

/// What every Service has, by its name. No address and no port is there twice.
async fn given_to_services(cluster: &Cluster) -> BTreeMap<String, Given> {
    let (status, list) = cluster.get(&Identity::Admin, "/api/v1/services").await;
    assert_eq!(status, StatusCode::OK);
    let mut all = BTreeMap::new();
    let (mut addresses, mut ports) = (BTreeMap::new(), BTreeMap::new());
    for service in list["items"].as_array().unwrap() {
        let (name, given) = (name_of(service), Given::of(service));
        let other = addresses.insert(given.address.clone(), name.clone());
        assert!(other.is_none(), "{other:?} and {name} have {given:?}");
        if let Some(port) = given.port {
            let other = ports.insert(port, name.clone());
            assert!(other.is_none(), "{other:?} and {name} have {given:?}");
        }
        all.insert(name, given);
    }
    all
}

/// Every acknowledged Service has what it was given, no deleted one is back, and further ones get what is free.
async fn check_services(cluster: &Cluster, acknowledged: &mut Acknowledged, round: u64) {
    let stored = given_to_services(cluster).await;
    for (name, given) in &acknowledged.services {
        let found = stored.get(name);
        assert_eq!(found, given.as_ref(), "of {name} after kill {round}");
    }
    for n in 0..FURTHER {
        let name = format!("r{round}-further-{n}");
        let made = cluster.post(SERVICES, node_port_service(&name)).await;
        let given = Given::of(&made);
        let taken = stored
            .iter()
            .find(|(_, other)| other.address == given.address || other.port == given.port);
        assert!(taken.is_none(), "{name} got {given:?} of {taken:?}");
        acknowledged.services.insert(name, Some(given));
    }
    given_to_services(cluster).await;
}

async fn check_config_maps(cluster: &Cluster, acknowledged: &Acknowledged) {
    let (status, list) = cluster.get(&Identity::Admin, CONFIG_MAPS).await;
    assert_eq!(status, StatusCode::OK);
    let stored: BTreeMap<String, u64> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let n = item["data"]["n"].as_str();
            (name_of(item), n.map_or(0, |n| n.parse().unwrap()))
        })
        .collect();
    for (name, n) in &acknowledged.config_maps {
        let found = stored.get(name).copied();
        assert!(
            found.is_some_and(|found| found >= *n),
            "{name}: {n} was acknowledged, {found:?} is stored"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_control_plane_loses_nothing_acknowledged_and_gives_nothing_twice() {
    let mut cluster = Arc::new(Cluster::start_process().await);
    let mut acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (maps, services) = (cluster.clone(), cluster.clone());
            writers.spawn(async move { write_config_maps(&maps, writer, round).await });
            writers.spawn(async move { write_services(&services, writer, round).await });
        }
        tokio::time::sleep(Duration::from_millis(700 + 31 * round)).await;
        cluster.kill();
        for told in writers.join_all().await {
            acknowledged.config_maps.extend(told.config_maps);
            acknowledged.services.extend(told.services);
        }
        let cluster = Arc::get_mut(&mut cluster).expect("the writers have ended");
        cluster.start_again().await;
        check_services(cluster, &mut acknowledged, round).await;
    }
    // Enough that some were written in the last moments before each kill; a busy machine makes fewer than a quiet one.
    let (maps, services) = (&acknowledged.config_maps, &acknowledged.services);
    assert!(maps.len() > 20, "only {} ConfigMaps", maps.len());
    let written = services.len() - FURTHER * usize::try_from(ROUNDS).unwrap();
    assert!(written > 20, "only {written} Services");
    check_config_maps(&cluster, &acknowledged).await;
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
