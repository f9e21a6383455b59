// SPDX-License-Identifier: Apache-2.0
//! A second machine joins the first one, and its address changes.

use anyhow::{Context, ensure};

use super::install::{bring, wait_for_boot};
use super::serve::{never_restarted, reached};
use super::{CALL, LIMIT, Service, Stage};
use crate::vm::machine::{Machine, SECOND};
use crate::vm::readme;

/// What the second machine's address becomes.
const OTHER_ADDRESS: &str = "198.18.9.4";

/// The README's commands for a node, on a machine without a control plane.
pub fn joins(stage: &mut Stage) -> anyhow::Result<()> {
    let join = stage.join.clone().context("there is a line to join")?;
    let unpack = stage.commands.unpack.clone();
    let agent = readme::fill_agent(&stage.commands.agent, &join)?;
    let import = readme::fill(&stage.commands.image, &[("FILE", "/root/knarr-echo.tar")])?;
    let second = stage.start_second()?;
    wait_for_boot(second)?;
    bring(second)?;
    second.ok(&format!("set -e\n{unpack}\n{agent}\n{import}"), LIMIT)?;
    let (first, _) = stage.both()?;
    first.eventually(
        "the second node is Ready",
        &format!("kubectl wait --for=condition=Ready node/{SECOND} --timeout=20s"),
        LIMIT,
    )?;
    first.eventually(
        "pods run on both nodes",
        // The scheduler may like the first node better, where the image has been longer.
        "kubectl cordon first && kubectl scale deployment web --replicas=4 && \
         kubectl rollout status deployment/web --timeout=50s && kubectl uncordon first",
        LIMIT,
    )?;
    let nodes = first.ok(
        "kubectl get pods --selector app=web --output jsonpath='{.items[*].spec.nodeName}'",
        CALL,
    )?;
    ensure!(
        nodes.contains("first") && nodes.contains("second"),
        "the pods are all on one node: {nodes}"
    );
    every_pod_answers(stage)
}

/// From both machines every pod is met, by the Service's address and by both NodePorts.
fn every_pod_answers(stage: &mut Stage) -> anyhow::Result<()> {
    let service = stage.service()?;
    let (first, second) = stage.both()?;
    let pods = first.ok(
        "kubectl get pods --selector app=web --output jsonpath='{.items[*].status.podIP}'",
        CALL,
    )?;
    for machine in [&mut *first, &mut *second] {
        for pod in pods.split_whitespace() {
            machine.eventually(
                "a pod answers",
                &format!("curl --silent --show-error --fail --max-time 10 http://{pod}:8080/"),
                LIMIT,
            )?;
        }
    }
    reached(first, &service)?;
    by_cluster_ip(second, &service)
}

fn by_cluster_ip(machine: &mut Machine, service: &Service) -> anyhow::Result<()> {
    let ip = &service.cluster_ip;
    machine.ok(
        &format!(
            "for _ in 1 2 3 4; do curl --silent --show-error --fail --max-time 20 http://{ip}:80/ || exit 1; done"
        ),
        LIMIT,
    )?;
    Ok(())
}

/// The second machine gets another address, as by DHCP. The agent goes on; pods there are not restarted, and are
/// reached from the other node again.
pub fn changes_address(stage: &mut Stage) -> anyhow::Result<()> {
    let (first, second) = stage.both()?;
    second.ok(
        &format!(
            "sed -i 's/^Address=.*/Address={OTHER_ADDRESS}\\/24/' /etc/systemd/network/{SECOND}.network && \
             networkctl reload && networkctl reconfigure $(ls -d /sys/class/net/en* | xargs basename)"
        ),
        CALL,
    )?;
    second.eventually(
        "the machine has its new address alone",
        &format!("ip -4 -o address show scope global | grep {OTHER_ADDRESS}/ && ! ip -4 -o address | grep 198.18.9.3/"),
        CALL,
    )?;
    first.eventually(
        "the Node has its new address and is Ready",
        &format!(
            r#"kubectl get node {SECOND} --output jsonpath='{{.status.addresses[?(@.type=="InternalIP")].address}} {{.status.conditions[?(@.type=="Ready")].status}}' | tee /run/node; grep -x '{OTHER_ADDRESS} True' /run/node"#
        ),
        LIMIT,
    )?;
    every_pod_answers(stage)?;
    let service = stage.service()?;
    let (first, _) = stage.both()?;
    first.ok(
        &format!(
            "curl --silent --show-error --fail --max-time 20 http://{OTHER_ADDRESS}:{}/",
            service.node_port
        ),
        CALL,
    )?;
    let restarts = first.ok(
        r#"kubectl get pods --selector app=web --output jsonpath='{.items[*].status.containerStatuses[0].restartCount}'"#,
        CALL,
    )?;
    ensure!(restarts.split(' ').all(|count| count == "0"), "{restarts}");
    Ok(())
}

/// The second machine is gone; what follows is about one machine again.
pub fn leaves(stage: &mut Stage) -> anyhow::Result<()> {
    stage.end_second()?;
    let first = stage.first()?;
    first.ok(
        &format!("kubectl delete node {SECOND} && kubectl scale deployment web --replicas=2"),
        CALL,
    )?;
    first.eventually(
        "two pods are left",
        r#"kubectl rollout status deployment/web --timeout=20s && [ "$(kubectl get pods --selector app=web --output name | wc -l)" = 2 ]"#,
        LIMIT,
    )?;
    never_restarted(first)
}
