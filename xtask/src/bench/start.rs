// SPDX-License-Identifier: Apache-2.0
//! `bench start`: from nothing to a node that is Ready, and from the POST of a pod to its container running.

use std::time::Instant;

use anyhow::{Context, bail};

use super::cluster::pod;
use super::http::{Proxy, Watch};
use super::{Figure, stats};
use crate::{kube, ui, up};

/// Whole cold starts.
const STARTS: usize = 5;
/// Pods, one after the other.
const PODS: usize = 50;
const NAMESPACE: &str = "bench-start";
/// More events than this for one pod mean that something goes round in circles.
const EVENTS_MAX: usize = 200;

/// Measures.
pub fn measure() -> anyhow::Result<Vec<Figure>> {
    let mut cold = Vec::new();
    let mut control = Vec::new();
    for number in 1..=STARTS {
        let times = up::cold_start()?;
        ui::line(&format!(
            "cold start {number} of {STARTS}: Ready after {} ms",
            times.node_ready.as_millis()
        ));
        cold.push(times.node_ready.as_secs_f64() * 1e3);
        control.push(times.control_ready.as_secs_f64() * 1e3);
    }
    let (running, posted) = pods()?;
    let note = format!("{PODS} pods one after the other, image present, as a watcher sees it");
    Ok(vec![
        stats::median(
            "cold_start_ms",
            "ms",
            &cold,
            format!(
                "{STARTS} starts: from the start of the control plane with an empty data directory to the node's Ready"
            ),
        ),
        stats::median(
            "cold_start_control_ms",
            "ms",
            &control,
            "the part until the control plane is ready",
        ),
        percentile("post_to_running_ms_p50", &running, 0.5, &note),
        percentile("post_to_running_ms_p99", &running, 0.99, &note),
        percentile(
            "post_ms_p50",
            &posted,
            0.5,
            "the part until the POST is answered",
        ),
    ])
}

fn percentile(metric: &str, samples: &[f64], part: f64, note: &str) -> Figure {
    Figure {
        value: stats::percentile(samples, part),
        ..stats::median(metric, "ms", samples, note)
    }
}

/// Milliseconds until each pod ran, and until its POST was answered.
fn pods() -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    up::up_with(2, &[])?;
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
    let step = ui::step(format!("starting {PODS} pods one after the other"));
    let (mut running, mut posted) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let name = format!("start-{number}");
        let body = pod(NAMESPACE, &name, None).to_string();
        let started = Instant::now();
        api.request("POST", &path, &body)?;
        posted.push(started.elapsed().as_secs_f64() * 1e3);
        wait_running(&mut watch, &name)?;
        running.push(started.elapsed().as_secs_f64() * 1e3);
    }
    step.done();
    Ok((running, posted))
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
