// SPDX-License-Identifier: Apache-2.0
//! `bench start`: from nothing to a node that is Ready, and from the POST of a pod to its container running.

use std::time::Instant;

use anyhow::{Context, bail};

use super::cluster::pod;
use super::{Effort, Figure, stats};
use crate::build::Build;
use crate::http::{Proxy, Watch};
use crate::{kube, ui, up};

/// Whole cold starts.
const STARTS: usize = 5;
/// Pods, one after the other, in each round.
const PODS: usize = 50;
/// Rounds: each has its own median and 99th percentile, and these have a spread.
const ROUNDS: usize = 5;
const NAMESPACE: &str = "bench-start";
/// More events than this for one pod mean that something goes round in circles.
const EVENTS_MAX: usize = 200;

/// Measures.
pub fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let starts = effort.pick(STARTS, 1);
    let amount = effort.pick(
        Amount {
            rounds: ROUNDS,
            pods: PODS,
        },
        Amount { rounds: 1, pods: 3 },
    );
    let mut cold = Vec::new();
    let mut control = Vec::new();
    for number in 1..=starts {
        let times = up::cold_start()?;
        ui::line(&format!(
            "cold start {number} of {starts}: Ready after {} ms",
            times.node_ready.as_millis()
        ));
        cold.push(times.node_ready.as_secs_f64() * 1e3);
        control.push(times.control_ready.as_secs_f64() * 1e3);
    }
    let Times { running, posted } = start_pods(amount)?;
    let Amount { rounds, pods } = amount;
    let rounds =
        format!("the middle, least and most of {rounds} rounds of {pods} pods one after the other");
    let note = format!("{rounds}; image present, as a watcher sees it");
    Ok(vec![
        stats::median(
            "cold_start_ms",
            "ms",
            &cold,
            format!(
                "{starts} starts: from the start of the control plane with an empty data directory to the node's Ready"
            ),
        ),
        stats::median(
            "cold_start_control_ms",
            "ms",
            &control,
            "the part until the control plane is ready",
        ),
        stats::of_rounds("post_to_running_ms_p50", "ms", &running, 0.5, &note),
        stats::of_rounds("post_to_running_ms_p99", "ms", &running, 0.99, &note),
        stats::of_rounds(
            "post_ms_p50",
            "ms",
            &posted,
            0.5,
            format!("{rounds}; the part until the POST is answered"),
        ),
    ])
}

/// How many pods are started.
#[derive(Clone, Copy, Debug)]
struct Amount {
    rounds: usize,
    /// In each round.
    pods: usize,
}

/// Milliseconds by round, and in it by pod.
#[derive(Default)]
struct Times {
    /// Until a watcher saw it run.
    running: Vec<Vec<f64>>,
    /// Until its POST was answered.
    posted: Vec<Vec<f64>>,
}

/// Starts pods, one after the other in each round.
fn start_pods(amount: Amount) -> anyhow::Result<Times> {
    let Amount { rounds, pods } = amount;
    up::up_with(2, &[], Build::asked())?;
    kube::get(&["create", "namespace", NAMESPACE])?;
    kube::get(&[
        "-n",
        NAMESPACE,
        "wait",
        "--for=jsonpath={.metadata.name}=default",
        "serviceaccount/default",
        "--timeout=20s",
    ])?;
    let proxy = Proxy::start()?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let mut api = proxy.connect()?;
    let list: serde_json::Value = serde_json::from_str(&api.request("GET", &path, "")?)?;
    let from = list["metadata"]["resourceVersion"]
        .as_str()
        .context("a list has a version")?;
    let mut watch = proxy
        .connect()?
        .watch(&format!("{path}?watch=1&resourceVersion={from}"))?;
    let mut times = Times::default();
    for round in 0..rounds {
        let step = ui::step(format!(
            "round {} of {rounds}: starting {pods} pods one after the other",
            round + 1
        ));
        let (mut running, mut posted) = (Vec::new(), Vec::new());
        for number in 0..pods {
            let name = format!("start-{round}-{number}");
            let body = pod(NAMESPACE, &name, None).to_string();
            let started = Instant::now();
            api.request("POST", &path, &body)?;
            posted.push(started.elapsed().as_secs_f64() * 1e3);
            wait_running(&mut watch, &name)?;
            running.push(started.elapsed().as_secs_f64() * 1e3);
        }
        times.running.push(running);
        times.posted.push(posted);
        // The objects go at once. What the nodes still end of them is the beginning of the next round.
        api.request(
            "DELETE",
            &path,
            r#"{"kind":"DeleteOptions","apiVersion":"v1"}"#,
        )?;
        wait_gone(&mut watch, pods)?;
        step.done();
    }
    Ok(times)
}

fn wait_running(watch: &mut Watch, name: &str) -> anyhow::Result<()> {
    for _ in 0..EVENTS_MAX {
        let event = watch.event()?;
        let object = &event["object"];
        if object["metadata"]["name"] == name
            && !object["status"]["containerStatuses"][0]["state"]["running"].is_null()
        {
            return Ok(());
        }
    }
    bail!("{EVENTS_MAX} events, and {name} does not run")
}

/// Waits until every pod of a round is deleted.
fn wait_gone(watch: &mut Watch, pods: usize) -> anyhow::Result<()> {
    let mut gone = 0;
    for _ in 0..EVENTS_MAX * pods {
        if watch.event()?["type"] == "DELETED" {
            gone += 1;
            if gone == pods {
                return Ok(());
            }
        }
    }
    bail!("{gone} of {pods} pods are gone after many events")
}
