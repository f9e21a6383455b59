// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo` from nothing and once more: every part that it promises is in what it prints.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use knarr_tests::lab::xtask;
use knarr_tests::{Outcome, faults};

use crate::down::down;
use crate::machine;

/// "A second run takes seconds": on two cores it is about twenty, half of which the calls themselves take.
const SECOND_LIMIT: Duration = Duration::from_secs(60);
/// How many pods answer.
const REPLICAS: usize = 3;
/// Calls behind each line.
const CALLS: usize = 30;

fn demo() -> (String, Duration) {
    let started = Instant::now();
    let outcome = Outcome::of(&mut xtask(&["demo"]), "");
    let printed = outcome.stdout + &outcome.stderr;
    assert_eq!(outcome.code, Some(0), "{printed}");
    (printed, started.elapsed())
}

/// The lines below the heading that begins so, up to the next heading.
fn section<'a>(printed: &'a str, heading: &str) -> (&'a str, Vec<&'a str>) {
    let mut lines = printed.lines();
    let found = lines
        .by_ref()
        .find(|line| line.starts_with(heading))
        .unwrap_or_else(|| panic!("no heading \"{heading}\" in:\n{printed}"));
    let below = lines
        .take_while(|line| line.is_empty() || line.starts_with(' '))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    (found, below)
}

/// Who answered this caller how often, by the one line that says so.
fn answers(lines: &[&str], caller: &str) -> BTreeMap<String, usize> {
    let said: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix(caller))
        .collect();
    let [spread] = said.as_slice() else {
        panic!("not one line \"{caller}\" among {lines:#?}");
    };
    let words: Vec<&str> = spread.split_whitespace().collect();
    words
        .chunks(2)
        .map(|pair| match pair {
            [pod, count] => (
                (*pod).to_owned(),
                count
                    .parse()
                    .unwrap_or_else(|_| panic!("no number in {spread}")),
            ),
            _ => panic!("no pairs of pod and number: {spread}"),
        })
        .collect()
}

fn assert_shows_everything(printed: &str) {
    let (_, nodes) = section(printed, "One control plane, two nodes");
    for node in ["node-1", "node-2"] {
        assert!(
            nodes
                .iter()
                .any(|line| line.starts_with(&format!("{node} ")) && line.contains(" Ready ")),
            "{node} is not shown as Ready: {nodes:#?}"
        );
    }
    let (_, objects) = section(printed, "A Deployment with three replicas and a Service");
    let mut pods: Vec<String> = objects
        .iter()
        .filter(|line| line.contains(" Running ") && line.contains(" node-1 "))
        .filter_map(|line| line.strip_prefix("pod/web-"))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(|rest| format!("web-{rest}"))
        .collect();
    pods.sort();
    assert_eq!(pods.len(), REPLICAS, "on node-1 only: {objects:#?}");
    let spread = |lines: &[&str], caller: &str| {
        let answers = answers(lines, caller);
        assert_eq!(
            answers.keys().cloned().collect::<Vec<_>>(),
            pods,
            "each pod has to answer {caller}"
        );
        assert_eq!(answers.values().sum::<usize>(), CALLS, "{caller}");
    };

    let (heading, lines) = section(printed, "The ClusterIP ");
    assert!(heading.contains(" 10."), "{heading}");
    for caller in [
        "from a pod on node-1",
        "from a pod on node-2",
        "from node-1 itself",
        "from node-2 itself",
    ] {
        spread(&lines, caller);
    }
    let (heading, lines) = section(printed, "The NodePort ");
    assert!(
        heading.ends_with("from a host outside the cluster"),
        "{heading}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("node-2 runs none of the pods")),
        "{lines:#?}"
    );
    spread(&lines, "from outside");

    let (_, lines) = section(printed, "One client keeps one pod");
    for caller in ["from a pod on node-1", "from node-1 itself", "from outside"] {
        let answers = answers(&lines, caller);
        let kept: Vec<_> = answers.iter().collect();
        assert!(
            matches!(kept.as_slice(), [(pod, count)] if pods.contains(pod) && **count == CALLS),
            "{caller}: {answers:?}"
        );
    }

    let (_, trace) = section(printed, "Why: ");
    let trace = trace.join("\n");
    assert!(
        trace.contains("knarr_connect4") && trace.contains("is demo/web (id "),
        "{trace}"
    );
    for pod in &pods {
        assert!(
            trace.contains(&format!("demo/{pod} at 10.244.")),
            "{pod} is not in the trace:\n{trace}"
        );
    }

    let (_, around) = section(printed, "Look around");
    let kubeconfig = around
        .iter()
        .find_map(|line| line.strip_prefix("export KUBECONFIG="))
        .unwrap_or_else(|| panic!("no kubeconfig is named: {around:#?}"));
    assert!(
        Path::new(kubeconfig).is_file(),
        "{kubeconfig} does not exist"
    );
    for command in [
        "kubectl -n demo get pods",
        "cargo xtask node node-1 -- knarr-agent service ls",
        "cargo xtask client -- knarr-echo client get ",
        "cargo xtask node node-1 --kill-agent",
        "cargo xtask down",
    ] {
        assert!(
            around.iter().any(|line| line.contains(command)),
            "no `{command}` among {around:#?}"
        );
    }
    assert!(
        printed
            .trim_end()
            .lines()
            .last()
            .is_some_and(|line| line.starts_with("The demo took ")),
        "{printed}"
    );
}

#[test]
fn the_demo_shows_every_part_from_nothing_and_again_in_seconds() {
    faults::lab(&["down"]);
    let (first, _) = demo();
    let lab = machine::lab();
    assert_shows_everything(&first);
    let (second, took) = demo();
    assert_shows_everything(&second);
    assert!(
        took < SECOND_LIMIT,
        "the second run took {} s:\n{second}",
        took.as_secs()
    );
    down(&lab, "after the demo");
}
