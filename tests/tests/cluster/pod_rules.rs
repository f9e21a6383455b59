// SPDX-License-Identifier: Apache-2.0
//! What a pod on a node follows after it has started, and what its containers leave behind when they end.

use std::time::Duration;

use knarr_tests::manifests::{self, SHELL};
use knarr_tests::{Cluster, eventually};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(40);

/// Tells the files of a volume whenever they differ from before.
const TELLS: &str = r#"while true; do
    now=$(cat /info/labels /info/note; readlink /info/..data)
    [ "$now" = "$last" ] || echo "$now"
    last=$now; sleep 0.1
done"#;
/// Sends each caller to another host.
const REDIRECTS: &str = r#"cat > /tmp/answer <<'END'
while read line; do [ "$line" = "$(printf '\r')" ] && break; done
printf 'HTTP/1.1 302 Found\r\nLocation: http://0.0.0.0/\r\nContent-Length: 36\r\n\r\n<a href="http://0.0.0.0/">Found</a>.'
END
nc -ll -p 8080 -e sh /tmp/answer"#;

fn until_ready_is(cluster: &Cluster, wanted: &str) {
    eventually(&format!("Ready is {wanted}"), LIMIT, || {
        let status = cluster.kubectl.json(&["get", "pod", "follows"])["status"].clone();
        let conditions = status["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "Ready");
        match ready {
            Some(ready) if ready["status"] == wanted => Ok(()),
            _ => Err(status.to_string()),
        }
    });
}

fn patch_status(cluster: &Cluster, status: Value) {
    let patch = json!({"status": status}).to_string();
    let kubectl = &cluster.kubectl;
    kubectl.ok(&[
        "patch",
        "pod",
        "follows",
        "--subresource=status",
        "--patch",
        &patch,
    ]);
}

#[test]
fn a_pod_follows_its_metadata_and_what_others_write_into_its_status() {
    let cluster = Cluster::namespace("follows");
    let kubectl = &cluster.kubectl;
    let labels = json!({"level": "s0:c1,c5"});
    let mut pod = manifests::script_pod("follows", "node-1", TELLS);
    // Labels of SELinux mean nothing where the kernel has none.
    pod["spec"]["securityContext"] = json!({"seLinuxOptions": labels});
    pod["spec"]["readinessGates"] = json!([{"conditionType": "example.com/ok"}]);
    pod["spec"]["volumes"] = json!([{"name": "info", "downwardAPI": {"items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "note", "fieldRef": {"fieldPath": "metadata.annotations['example.com/note']"}},
    ]}}]);
    let main = &mut pod["spec"]["containers"][0];
    main["securityContext"] = json!({"seLinuxOptions": labels});
    main["volumeMounts"] = json!([{"name": "info", "mountPath": "/info"}]);
    let redirects = json!({
        "name": "redirects", "image": SHELL, "command": ["sh", "-c", REDIRECTS],
        "livenessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 30},
    });
    pod["spec"]["containers"]
        .as_array_mut()
        .expect("a list")
        .push(redirects);
    kubectl.apply(&pod);

    kubectl.until("pod/follows", "/status/phase", "Running", LIMIT);
    until_ready_is(&cluster, "False");
    let gate = |status: &str| json!({"conditions": [{"type": "example.com/ok", "status": status}]});
    patch_status(&cluster, gate("True"));
    until_ready_is(&cluster, "True");
    patch_status(&cluster, gate("False"));
    until_ready_is(&cluster, "False");
    patch_status(&cluster, gate("True"));
    until_ready_is(&cluster, "True");
    // The node writes its fields again when another client has overwritten them.
    patch_status(
        &cluster,
        json!({"conditions": [{"type": "Ready", "status": "False"}]}),
    );
    until_ready_is(&cluster, "True");

    kubectl.ok(&["label", "pod", "follows", "color=red"]);
    kubectl.ok(&["annotate", "pod", "follows", "example.com/note=changed"]);
    eventually("the volume has the new label and annotation", LIMIT, || {
        let told = kubectl.ok(&["logs", "follows", "--container=main"]);
        if told.contains("color=\"red\"") && told.contains("changed..") {
            Ok(())
        } else {
            Err(told)
        }
    });

    let of_probe = "involvedObject.name=follows,reason=ProbeWarning".to_owned();
    let told = eventually("an event tells where the probe was sent", LIMIT, || {
        let events = kubectl.items(&["get", "events", "--field-selector", &of_probe]);
        let first = events.first().and_then(|event| event["message"].as_str());
        first
            .map(str::to_owned)
            .ok_or_else(|| "no event".to_owned())
    });
    assert_eq!(
        told,
        "Liveness probe warning: Probe terminated redirects, Response body: \
         <a href=\"http://0.0.0.0/\">Found</a>."
    );

    patch_status(
        &cluster,
        json!({"phase": "Failed", "reason": "Taken", "message": "by a test"}),
    );
    eventually(
        "the containers of a pod with the phase Failed are stopped",
        LIMIT,
        || {
            let status = kubectl.json(&["get", "pod", "follows"])["status"].clone();
            let containers = status["containerStatuses"].as_array();
            let ended = |c: &Value| c["state"]["terminated"].is_object();
            if containers.is_some_and(|all| all.iter().all(ended)) && status["phase"] == "Failed" {
                Ok(())
            } else {
                Err(status.to_string())
            }
        },
    );
}

#[test]
fn a_container_sees_its_sysctls_and_its_last_words_are_the_end_of_what_it_said() {
    let cluster = Cluster::namespace("last-words");
    let kubectl = &cluster.kubectl;
    let ports = "net.ipv4.ip_unprivileged_port_start";
    let mut pod = manifests::script_pod(
        "words",
        "node-1",
        "for i in $(seq 1 1000); do echo word $i; done > /dev/termination-log
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
    );
    pod["spec"]["securityContext"] = json!({"sysctls": [
        {"name": ports, "value": "81"}, {"name": "kernel.shm_rmid_forced", "value": "1"},
    ]});
    let logs = json!({
        "name": "logs", "image": SHELL, "terminationMessagePolicy": "FallbackToLogsOnError",
        "command": ["sh", "-c", "for i in $(seq 1 100); do echo line $i; done; exit 1"],
    });
    pod["spec"]["containers"]
        .as_array_mut()
        .expect("a list")
        .push(logs);
    let mut forbidden = manifests::script_pod("forbidden", "node-1", "true");
    forbidden["spec"]["securityContext"] =
        json!({"sysctls": [{"name": "kernel.shmmax", "value": "1"}]});
    kubectl.apply(&manifests::list(vec![pod, forbidden]));

    kubectl.until("pod/words", "/status/phase", "Failed", LIMIT);
    assert_eq!(
        kubectl.ok(&["logs", "words", "--container=main"]),
        "81\n1\n"
    );
    let statuses = kubectl.json(&["get", "pod", "words"])["status"]["containerStatuses"].clone();
    let message = |name: &str| {
        let all = statuses.as_array().into_iter().flatten();
        let status = all.into_iter().find(|status| status["name"] == name);
        let message = status.and_then(|s| s["state"]["terminated"]["message"].as_str());
        message.unwrap_or_default().to_owned()
    };
    let words: String = (1..=1000).map(|n| format!("word {n}\n")).collect();
    assert_eq!(message("main"), words[words.len() - 4096..]);
    let lines: String = (21..=100).map(|n| format!("line {n}\n")).collect();
    assert_eq!(message("logs"), lines);

    kubectl.until("pod/forbidden", "/status/phase", "Failed", LIMIT);
    let status = kubectl.json(&["get", "pod", "forbidden"])["status"].clone();
    assert_eq!(status["reason"], "SysctlForbidden", "{status}");
    assert_eq!(
        status["message"],
        "Pod was rejected: forbidden sysctl: \"kernel.shmmax\" not allowlisted"
    );
}
