// SPDX-License-Identifier: Apache-2.0
//! Pods as containers see them: command, environment, volumes, resources, restarts, exit codes and logs.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use knarr_tests::hosts::{self, NODES};
use knarr_tests::manifests::{self, ECHO, SHELL};
use knarr_tests::{Cluster, eventually};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);

fn container_status(cluster: &Cluster, pod: &str) -> Value {
    cluster.kubectl.json(&["get", "pod", pod])["status"]["containerStatuses"][0].clone()
}

#[test]
fn command_arguments_environment_and_working_directory_reach_the_container() {
    let cluster = Cluster::namespace("process");
    let mut pod = manifests::script_pod("process", "node-1", "");
    pod["spec"]["containers"][0] = json!({
        "name": "main", "image": SHELL, "workingDir": "/tmp",
        "command": ["sh", "-c"],
        "args": ["pwd; echo $GREETING $(NAME); hostname; echo $MY_POD on $MY_NODE; id -u; exit 0"],
        "env": [
            {"name": "NAME", "value": "knarr"},
            {"name": "GREETING", "value": "hello $(NAME)"},
            {"name": "MY_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "MY_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
    });
    cluster.kubectl.apply(&pod);
    cluster
        .kubectl
        .until("pod/process", "/status/phase", "Succeeded", LIMIT);
    assert_eq!(
        cluster.kubectl.ok(&["logs", "process"]),
        "/tmp\nhello knarr knarr\nprocess\nprocess on node-1\n0\n"
    );
    assert_eq!(
        container_status(&cluster, "process")["state"]["terminated"]["reason"],
        "Completed"
    );
}

#[test]
fn containers_of_a_pod_share_an_empty_dir_and_the_network() {
    let cluster = Cluster::namespace("share");
    let mut pod = manifests::script_pod("share", "node-2", "");
    pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    pod["spec"]["containers"] = json!([
        {"name": "writer", "image": SHELL, "command": ["sh", "-c", "echo from-writer > /work/file; nc -l -p 9000 -e echo over-loopback"], "volumeMounts": [{"name": "work", "mountPath": "/work"}]},
        {"name": "reader", "image": SHELL, "command": ["sh", "-c", "until [ -s /work/file ]; do sleep 0.1; done; cat /work/file; until nc 127.0.0.1 9000 </dev/null; do sleep 0.1; done"], "volumeMounts": [{"name": "work", "mountPath": "/work"}]},
    ]);
    cluster.kubectl.apply(&pod);
    cluster
        .kubectl
        .until("pod/share", "/status/phase", "Succeeded", LIMIT);
    assert_eq!(
        cluster
            .kubectl
            .ok(&["logs", "share", "--container", "reader"]),
        "from-writer\nover-loopback\n"
    );
}

#[test]
fn exit_codes_restarts_and_back_off_are_kubernetes() {
    let cluster = Cluster::namespace("restarts");
    let mut pod = manifests::script_pod("crash", "node-1", "echo attempt; exit 3");
    pod["spec"]["restartPolicy"] = json!("Always");
    cluster.kubectl.apply(&pod);
    eventually("it was restarted and backs off", LIMIT, || {
        let status = container_status(&cluster, "crash");
        let restarted = status["restartCount"].as_u64().unwrap_or(0) >= 1;
        let code = status["lastState"]["terminated"]["exitCode"] == 3;
        let backs_off = status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        if restarted && code && backs_off {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert_eq!(
        cluster.kubectl.ok(&["logs", "crash", "--previous"]),
        "attempt\n"
    );
    assert!(
        cluster
            .kubectl
            .ok(&["get", "pod", "crash", "--no-headers"])
            .contains("CrashLoopBackOff")
    );

    let mut on_failure = manifests::script_pod(
        "on-failure",
        "node-1",
        "test -e /work/second || { touch /work/second; exit 1; }",
    );
    on_failure["spec"]["restartPolicy"] = json!("OnFailure");
    on_failure["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    on_failure["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "work", "mountPath": "/work"}]);
    cluster.kubectl.apply(&on_failure);
    cluster
        .kubectl
        .until("pod/on-failure", "/status/phase", "Succeeded", LIMIT);
    assert_eq!(container_status(&cluster, "on-failure")["restartCount"], 1);

    cluster.kubectl.apply(&manifests::script_pod(
        "killed",
        "node-1",
        "sh -c 'kill -9 $$$$'; exit $?",
    ));
    cluster
        .kubectl
        .until("pod/killed", "/status/phase", "Failed", LIMIT);
    assert_eq!(
        container_status(&cluster, "killed")["state"]["terminated"]["exitCode"],
        137
    );
}

#[test]
fn a_container_that_takes_more_memory_than_its_limit_is_oom_killed() {
    let cluster = Cluster::namespace("memory");
    let mut pod = manifests::script_pod("memory", "node-1", "");
    pod["spec"]["containers"][0] = json!({"name": "main", "image": ECHO, "resources": {"limits": {"memory": "48Mi", "cpu": "500m"}}});
    cluster.kubectl.apply(&pod);
    cluster
        .kubectl
        .until("pod/memory", "/status/phase", "Running", LIMIT);
    let ip = cluster.kubectl.ok(&[
        "get",
        "pod",
        "memory",
        "--output",
        "jsonpath={.status.podIP}",
    ]);
    let target = format!("{ip}:8080");
    eventually("the server listens", LIMIT, || {
        hosts::get("node-1", &target).map(drop)
    });
    let eaten = hosts::run(
        "node-1",
        &[
            "knarr-echo",
            "client",
            "get",
            &target,
            "/memory?mb=200",
            "--timeout",
            "20000",
        ],
    );
    assert!(
        !eaten.success,
        "200 MiB were given under a limit of 48 MiB: {}",
        eaten.stdout
    );
    cluster.kubectl.until(
        "pod/memory",
        "/status/containerStatuses/0/state/terminated/reason",
        "OOMKilled",
        LIMIT,
    );
    assert_eq!(
        container_status(&cluster, "memory")["state"]["terminated"]["exitCode"],
        137
    );
    assert_eq!(
        cluster.kubectl.ok(&[
            "get",
            "pod",
            "memory",
            "--output",
            "jsonpath={.status.qosClass}"
        ]),
        "Guaranteed"
    );
}

#[test]
fn a_pod_that_outgrows_its_emptydir_is_evicted_once_and_leaves_nothing() {
    let cluster = Cluster::namespace("outgrown");
    let mut pod = manifests::script_pod(
        "outgrown",
        "node-1",
        "dd if=/dev/zero of=/data/file bs=1024 count=4096; sleep 1000",
    );
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]);
    cluster.kubectl.apply(&pod);
    cluster
        .kubectl
        .until("pod/outgrown", "/status/phase", "Failed", LIMIT);
    let pod = cluster.kubectl.json(&["get", "pod", "outgrown"]);
    assert_eq!(pod["status"]["reason"], "Evicted", "{}", pod["status"]);
    assert_eq!(
        pod["status"]["message"],
        "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". "
    );
    let of_eviction =
        "involvedObject.name=outgrown,reason=Evicted,involvedObject.kind=Pod".to_owned();
    let evictions = || {
        let events = cluster
            .kubectl
            .items(&["get", "events", "--field-selector", &of_eviction]);
        let counts = events.iter().map(|e| e["count"].as_u64().unwrap_or(1));
        counts.sum::<u64>()
    };
    eventually("an event tells of the eviction", LIMIT, || {
        let seen = evictions();
        if seen > 0 {
            Ok(())
        } else {
            Err("no event".to_owned())
        }
    });
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    // The object of a pod that is over goes at once, and the node takes away what it has of it afterwards.
    cluster.kubectl.ok(&["delete", "pod", "outgrown"]);
    eventually("nothing of the pod is left on its node", LIMIT, || {
        let left = hosts::run("node-1", &["find", "/var/lib/knarr/pods", "-name", uid]);
        if left.stdout.is_empty() && left.success {
            Ok(())
        } else {
            Err(format!("{}{}", left.stdout, left.stderr))
        }
    });
    assert_eq!(evictions(), 1);
}

#[test]
fn a_deleted_pod_gets_its_grace_period_and_no_more() {
    let cluster = Cluster::namespace("grace");
    let mut polite = manifests::script_pod(
        "polite",
        "node-1",
        "trap 'exit 0' TERM; echo listening; while true; do sleep 0.1; done",
    );
    polite["spec"]["terminationGracePeriodSeconds"] = json!(30);
    let mut deaf = manifests::script_pod(
        "deaf",
        "node-1",
        "trap '' TERM; echo listening; while true; do sleep 0.1; done",
    );
    deaf["spec"]["terminationGracePeriodSeconds"] = json!(3);
    cluster.kubectl.apply(&manifests::list(vec![polite, deaf]));
    for (pod, least, most) in [("polite", 0, 15), ("deaf", 3, 15)] {
        // A container runs before its shell has come to the trap.
        eventually(&format!("{pod} has set its trap"), LIMIT, || {
            let log = cluster.kubectl.run(&["logs", pod]);
            if log.stdout.contains("listening") {
                Ok(())
            } else {
                Err(log.stderr)
            }
        });
        let started = Instant::now();
        cluster.kubectl.ok(&["delete", "pod", pod, "--timeout=60s"]);
        let took = started.elapsed().as_secs_f64();
        assert!(
            took >= f64::from(least) && took < f64::from(most),
            "{pod} took {took:.1} s"
        );
    }
    assert!(
        cluster
            .kubectl
            .refused(&["get", "pod", "deaf"], "")
            .contains("NotFound")
    );
}

#[test]
fn logs_are_followed_cut_and_kept() {
    let cluster = Cluster::namespace("logs");
    cluster.kubectl.apply(&manifests::script_pod(
        "talk",
        "node-2",
        "for i in $(seq 1 30); do echo line $i; sleep 0.2; done; echo end >&2",
    ));
    cluster
        .kubectl
        .until("pod/talk", "/status/phase", "Running", LIMIT);
    let mut follow = cluster.kubectl.start(&["logs", "--follow", "talk"]);
    let reader = BufReader::new(follow.stdout.take().expect("it was asked for"));
    let started = Instant::now();
    let mut lines = Vec::new();
    let mut first_at = None;
    for line in reader.lines().map_while(Result::ok) {
        first_at.get_or_insert_with(|| started.elapsed());
        lines.push(line);
    }
    assert!(follow.wait().expect("kubectl ends").success());
    assert_eq!(lines.len(), 31, "every line, from both streams: {lines:?}");
    assert_eq!(lines.last().map(String::as_str), Some("end"));
    let (first, all) = (first_at.expect("a line"), started.elapsed());
    assert!(
        all - first > Duration::from_secs(1),
        "lines came at once, so nothing was followed"
    );
    cluster
        .kubectl
        .until("pod/talk", "/status/phase", "Succeeded", LIMIT);
    assert_eq!(
        cluster.kubectl.ok(&["logs", "talk", "--tail=2"]),
        "line 30\nend\n"
    );
    let stamped = cluster
        .kubectl
        .ok(&["logs", "talk", "--timestamps", "--tail=1"]);
    assert!(
        stamped.starts_with("20") && stamped.contains('T') && stamped.trim_end().ends_with("end"),
        "{stamped}"
    );
    // Cut from the end, and nothing is added: the log begins with `line 1` and a new line.
    assert_eq!(
        cluster.kubectl.ok(&["logs", "talk", "--limit-bytes=6"]),
        "line 1"
    );
    assert!(
        cluster
            .kubectl
            .refused(&["logs", "nobody"], "")
            .contains("not found")
    );
    assert!(
        cluster
            .kubectl
            .refused(&["logs", "talk", "--container", "nobody"], "")
            .contains("nobody")
    );
}

#[test]
fn pods_on_all_nodes_reach_each_other_by_address() {
    let cluster = Cluster::namespace("network");
    for node in NODES {
        cluster.kubectl.apply(&manifests::echo_deployment_on(
            &format!("on-{node}"),
            1,
            node,
        ));
        cluster.kubectl.rolled_out(&format!("on-{node}"));
    }
    let servers: Vec<(String, String)> = cluster
        .kubectl
        .items(&["get", "pods"])
        .iter()
        .filter_map(|pod| {
            let name = pod["metadata"]["name"].as_str()?;
            Some((name.to_owned(), pod["status"]["podIP"].as_str()?.to_owned()))
        })
        .collect();
    assert_eq!(servers.len(), NODES.len());
    // Who answers, and whom it sees calling as `ADDR:PORT`.
    let script: String = servers
        .iter()
        .map(|(_, ip)| {
            format!(
                "wget -qO- http://{ip}:8080/ && wget -qO- http://{ip}:8080/clientip || exit 1; "
            )
        })
        .collect();
    for node in NODES {
        let name = format!("from-{node}");
        cluster
            .kubectl
            .apply(&manifests::script_pod(&name, node, &script));
        cluster
            .kubectl
            .until(&format!("pod/{name}"), "/status/phase", "Succeeded", LIMIT);
        let own =
            cluster
                .kubectl
                .ok(&["get", "pod", &name, "--output", "jsonpath={.status.podIP}"]);
        assert!(own.starts_with("10.244."), "{name} has the address {own:?}");
        let said = cluster.kubectl.ok(&["logs", &name]);
        let heard: Vec<&str> = said
            .lines()
            .map(|line| line.rsplit_once(':').map_or(line, |(address, _)| address))
            .collect();
        // Kubernetes' network model: pods reach each other without NAT, so the source of a pod's call to a pod is the
        // pod itself, on the same node and from another.
        let wanted: Vec<&str> = servers
            .iter()
            .flat_map(|(server, _)| [server.as_str(), own.as_str()])
            .collect();
        assert_eq!(heard, wanted, "called from {name}:\n{said}");
    }
}

/// Nothing else happens to these pods: what they wait for has to wake their agent by itself.
#[test]
fn a_probe_is_asked_and_a_volume_made_without_anybody_touching_the_pod() {
    let cluster = Cluster::namespace("untouched");
    let probe = json!({"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1});
    let closed = json!({"tcpSocket": {"port": 9999}, "periodSeconds": 1, "failureThreshold": 2});
    for (name, field, value) in [
        ("ready", "readinessProbe", &probe),
        ("dying", "livenessProbe", &closed),
    ] {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": ECHO}]},
        });
        pod["spec"]["containers"][0][field] = value.clone();
        cluster.kubectl.apply(&pod);
    }
    cluster.kubectl.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mounting"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "main", "image": SHELL, "command": ["cat", "/map/key", "/secret/key"],
                "volumeMounts": [
                    {"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret"},
                ],
            }],
            "volumes": [
                {"name": "map", "configMap": {"name": "later"}},
                {"name": "secret", "secret": {"secretName": "later"}},
            ],
        },
    }));
    let container = "/status/containerStatuses/0";
    let kubectl = &cluster.kubectl;
    kubectl.until("pod/ready", &format!("{container}/ready"), "true", LIMIT);
    eventually("the pod that dies is started again", LIMIT, || {
        let restarts = container_status(&cluster, "dying")["restartCount"].clone();
        match restarts.as_u64() {
            Some(1..) => Ok(()),
            _ => Err(restarts.to_string()),
        }
    });
    eventually("what is missing is said", LIMIT, || {
        let events = kubectl.ok(&["get", "events", "--output", "jsonpath={.items[*].reason}"]);
        if events.contains("FailedMount") {
            Ok(())
        } else {
            Err(events)
        }
    });
    kubectl.ok(&["create", "configmap", "later", "--from-literal=key=map "]);
    kubectl.ok(&[
        "create",
        "secret",
        "generic",
        "later",
        "--from-literal=key=secret",
    ]);
    kubectl.until("pod/mounting", "/status/phase", "Succeeded", LIMIT);
    assert_eq!(kubectl.ok(&["logs", "mounting"]), "map secret");
}

#[test]
fn a_pod_that_fits_nowhere_waits_and_says_why() {
    let cluster = Cluster::namespace("unschedulable");
    let mut pod = manifests::script_pod("big", "node-1", "sleep 600");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1000"}});
    cluster.kubectl.apply(&pod);
    let message = eventually("the condition says why", LIMIT, || {
        let conditions =
            cluster.kubectl.json(&["get", "pod", "big"])["status"]["conditions"].clone();
        let found = conditions
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| {
                condition["type"] == "PodScheduled" && condition["reason"] == "Unschedulable"
            })
            .cloned();
        found
            .and_then(|condition| condition["message"].as_str().map(str::to_owned))
            .ok_or_else(|| conditions.to_string())
    });
    assert!(
        message.contains("0/2 nodes are available") && message.contains("Insufficient cpu"),
        "{message}"
    );
}
