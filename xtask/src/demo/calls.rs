// SPDX-License-Identifier: Apache-2.0
//! Calls to a Service from a pod, from a node and from outside, and who answered them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use anyhow::bail;

use super::{LIMIT, NAMESPACE, POLL, manifest};
use crate::lab::{CLIENT, enter};
use crate::{kube, run};

/// Where calls come from.
pub enum Caller<'a> {
    /// A pod on this node.
    Pod { node: &'a str, pod: &'a str },
    /// A process of the node itself.
    Node(&'a str),
    /// A host outside the cluster.
    Outside,
}

impl fmt::Display for Caller<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { node, .. } => write!(out, "from a pod on {node}"),
            Self::Node(node) => write!(out, "from {node} itself"),
            Self::Outside => write!(out, "from outside"),
        }
    }
}

/// Who answered how often.
pub struct Spread(BTreeMap<String, usize>);

impl Spread {
    /// Reads the lines of `knarr-echo client load`.
    fn parse(report: &str) -> anyhow::Result<Self> {
        let mut counts = BTreeMap::new();
        for line in report.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [_, "ok", who, _] => *counts.entry((*who).to_owned()).or_insert(0) += 1,
                [_, "fail", why, _] => bail!("a call failed: {why}"),
                _ => {}
            }
        }
        Ok(Self(counts))
    }

    /// How many pods answered.
    pub fn pods(&self) -> usize {
        self.0.len()
    }

    /// How many calls were answered.
    pub fn answers(&self) -> usize {
        self.0.values().sum()
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(pod, count)| format!("{pod} {count}"))
            .collect();
        write!(out, "{}", parts.join("   "))
    }
}

impl Caller<'_> {
    /// Makes this many calls, each in a connection of its own.
    pub fn call(&self, address: &str, calls: usize) -> anyhow::Result<Spread> {
        let report = match self {
            Self::Pod { node, pod } => from_pod(node, pod, address, calls)?,
            Self::Node(node) => from_host(node, address, calls)?,
            Self::Outside => from_host(CLIENT, address, calls)?,
        };
        Spread::parse(&report)
    }
}

fn from_host(host: &str, address: &str, calls: usize) -> anyhow::Result<String> {
    let calls = calls.to_string();
    enter::output(
        host,
        &[
            "knarr-echo",
            "client",
            "load",
            address,
            "--rate",
            "50",
            "--count",
            &calls,
        ],
    )
}

fn from_pod(node: &str, pod: &str, address: &str, calls: usize) -> anyhow::Result<String> {
    // A pod of an earlier run has the same name.
    run::quiet(kube::kubectl().args([
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        pod,
        "--ignore-not-found",
        "--wait",
    ]))?;
    kube::apply(&manifest::caller(pod, node, address, calls))?;
    let end = Instant::now() + LIMIT;
    loop {
        let phase = kube::get(&[
            "-n",
            NAMESPACE,
            "get",
            "pod",
            pod,
            "--output",
            "jsonpath={.status.phase}",
        ])?;
        match phase.trim() {
            "Succeeded" => break,
            "Failed" => bail!(
                "calls from the pod {pod} failed:\n{}",
                kube::get(&["-n", NAMESPACE, "logs", pod])?
            ),
            _ if Instant::now() >= end => bail!(
                "the pod {pod} is still {phase}:\n{}",
                kube::get(&["-n", NAMESPACE, "describe", "pod", pod])?
            ),
            _ => std::thread::sleep(POLL),
        }
    }
    kube::get(&["-n", NAMESPACE, "logs", pod])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_pod_and_a_failure_is_an_error() {
        let spread =
            Spread::parse("1 ok web-a 200\n2 ok web-b 180\n3 ok web-a 190\ntotal 3 failed 0\n")
                .expect("it reads");
        assert_eq!((spread.pods(), spread.answers()), (2, 3));
        assert_eq!(spread.to_string(), "web-a 2   web-b 1");
        assert!(Spread::parse("1 fail connect:_refused 200\n").is_err());
    }
}
