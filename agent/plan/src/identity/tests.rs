// SPDX-License-Identifier: Apache-2.0
//! Names and files in /etc.
use serde_json::json;

use super::*;

fn pod(name: &str, spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}))
        .expect("pod")
}

#[test]
fn the_hostname_is_the_pods_name_unless_it_says_otherwise() {
    let base = json!({"containers": []});
    assert_eq!(hostname(&pod("web-1", base.clone()), "node"), "web-1");
    let own = json!({"containers": [], "hostname": "db"});
    assert_eq!(hostname(&pod("web-1", own), "node"), "db");
    let host = json!({"containers": [], "hostNetwork": true});
    assert_eq!(hostname(&pod("web-1", host), "node"), "node");
    let long = format!("{}-x", "a".repeat(62));
    assert_eq!(hostname(&pod(&long, base), "node"), "a".repeat(62));
}

#[test]
fn the_hosts_file_names_the_pod_and_the_aliases() {
    let pod = pod(
        "web",
        json!({"containers": [], "hostname": "web", "subdomain": "svc1",
               "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}),
    );
    let file = hosts_file(&pod, "web", "cluster.local", &["10.1.2.3".into()], "");
    assert!(
        file.contains("10.1.2.3\tweb.svc1.ns.svc.cluster.local\tweb\n"),
        "{file}"
    );
    assert!(file.contains("192.0.2.9\ta\tb\n"), "{file}");
    assert!(file.contains("127.0.0.1\tlocalhost\n"), "{file}");
}

#[test]
fn a_pod_on_the_host_network_sees_the_hosts_own_file() {
    let pod = pod("web", json!({"containers": [], "hostNetwork": true}));
    let file = hosts_file(
        &pod,
        "node",
        "cluster.local",
        &["192.0.2.1".into()],
        "192.0.2.1 node\n",
    );
    assert!(file.contains("192.0.2.1 node\n"));
    assert!(!file.contains("\tnode"));
}

#[test]
fn the_resolver_is_the_nodes_with_the_pods_additions() {
    let node = "nameserver 192.0.2.53\nsearch example.org\noptions ndots:1 rotate\n";
    let plain = pod("web", json!({"containers": []}));
    assert_eq!(
        resolv_conf(&plain, node),
        "nameserver 192.0.2.53\nsearch example.org\noptions ndots:1 rotate\n"
    );
    let config = json!({"nameservers": ["192.0.2.54"], "searches": ["x.org"],
                        "options": [{"name": "ndots", "value": "5"}]});
    let added = pod("web", json!({"containers": [], "dnsConfig": config}));
    assert_eq!(
        resolv_conf(&added, node),
        "nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch example.org x.org\noptions rotate ndots:5\n"
    );
    let none = pod(
        "web",
        json!({"containers": [], "dnsPolicy": "None", "dnsConfig": config}),
    );
    assert_eq!(
        resolv_conf(&none, node),
        "nameserver 192.0.2.54\nsearch x.org\noptions ndots:5\n"
    );
}
