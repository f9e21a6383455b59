// SPDX-License-Identifier: Apache-2.0
//! What people write after `service trace`, against maps as values and a names file as the agent leaves it.

use clap::Parser;
use knarr_datapath::MapContents;
use knarr_datapath::names::FILE_NAME;
use knarr_ebpf_common::{
    BackendEntry, PROTOCOL_TCP, PROTOCOL_UDP, SCOPE_NODE_PORT_EXTERNAL, ServiceEntry, ServiceKey,
    mapped,
};

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    service: ServiceArgs,
}

/// A trace as parsed: Service, `--from`, `--from-outside`.
type Trace = (String, Option<String>, Option<String>);

fn parse(args: &[&str]) -> Result<Trace, clap::Error> {
    let cli = Cli::try_parse_from([&["service"], args].concat())?;
    match cli.service.command {
        ServiceCommand::Trace {
            service,
            from,
            from_outside,
        } => Ok((service, from, from_outside)),
        ServiceCommand::Ls | ServiceCommand::Get { .. } => panic!("no trace"),
    }
}

fn key(vip: [u8; 4], port: u16, protocol: u8, scope: u8) -> ServiceKey {
    ServiceKey {
        vip: mapped(vip),
        port_be: port.to_be(),
        protocol,
        scope,
    }
}

fn entry(service: u32) -> ServiceEntry {
    ServiceEntry {
        set: service,
        service,
        generation: 1,
        count: 1,
        terminating: 0,
        affinity_seconds: 0,
        table_len: 0,
        flags: 0,
        reserved: 0,
    }
}

/// `default/web` with the ports http (80, NodePort 30080) and metrics (9100), `shop/dns` with 53.
fn ports() -> Vec<PortView> {
    let dir = tempfile::tempdir().expect("tempdir");
    let names = concat!(
        r#"{"service":{"id":1,"namespace":"default","name":"web","port":"http"}}"#,
        "\n",
        r#"{"service":{"id":2,"namespace":"default","name":"web","port":"metrics"}}"#,
        "\n",
        r#"{"service":{"id":3,"namespace":"shop","name":"dns","port":""}}"#,
        "\n",
        r#"{"backend":{"id":7,"pod":"default/web-0","node":"node-1"}}"#,
        "\n",
        r#"{"backend":{"id":8,"pod":"shop/dns-0","node":"node-2"}}"#,
        "\n",
        r#"{"backend":{"id":9,"pod":"default/gone","node":"node-2"}}"#,
        "\n",
        r#"{"backendGone":9}"#,
        "\n",
    );
    std::fs::write(dir.path().join(FILE_NAME), names).expect("writes");
    let backend = |service, host| BackendEntry {
        address: mapped([10, 244, 1, host]),
        port_be: 8080_u16.to_be(),
        state: BACKEND_ACTIVE,
        flags: 0,
        service,
    };
    let contents = MapContents {
        services: vec![
            (
                key([10, 96, 0, 7], 80, PROTOCOL_TCP, SCOPE_CLUSTER_IP),
                entry(1),
            ),
            (
                key([0; 4], 30_080, PROTOCOL_TCP, SCOPE_NODE_PORT_EXTERNAL),
                entry(1),
            ),
            (
                key([10, 96, 0, 7], 9_100, PROTOCOL_TCP, SCOPE_CLUSTER_IP),
                entry(2),
            ),
            (
                key([10, 96, 0, 10], 53, PROTOCOL_UDP, SCOPE_CLUSTER_IP),
                entry(3),
            ),
        ],
        backends: vec![(7, backend(1, 2)), (8, backend(3, 3)), (9, backend(1, 4))],
        ..MapContents::default()
    };
    view::ports(&contents, &Names::read(dir.path()).expect("names"))
}

fn text<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn a_trace_has_one_caller_at_most() {
    let own = |text: &str| Some(text.to_owned());
    assert_eq!(
        parse(&["trace", "default/web:80", "--from", "web-0"]).expect("parses"),
        ("default/web:80".to_owned(), own("web-0"), None)
    );
    assert_eq!(
        parse(&["trace", "default/web", "--from-outside", "192.0.2.9:4000"]).expect("parses"),
        ("default/web".to_owned(), None, own("192.0.2.9:4000"))
    );
    let both = [
        "trace",
        "default/web",
        "--from",
        "a",
        "--from-outside",
        "192.0.2.9",
    ];
    let error = parse(&both).expect_err("two callers");
    assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
    let error = parse(&["trace"]).expect_err("no Service");
    assert_eq!(
        error.kind(),
        clap::error::ErrorKind::MissingRequiredArgument
    );
}

#[test]
fn a_port_is_found_by_number_name_and_node_port_and_has_to_be_named_among_several() {
    let ports = ports();
    let id = |service: &str| one_port(&ports, service).map(|port| port.id);
    for (service, expect) in [
        ("default/web:80", 1),
        ("default/web:http", 1),
        ("default/web:30080", 1),
        ("default/web:metrics", 2),
        ("shop/dns", 3),
        ("shop/dns:53", 3),
    ] {
        assert_eq!(id(service).expect("found"), expect, "{service}");
    }
    assert_eq!(
        text(id("default/web")),
        "Service default/web has several ports, name one: 80 (http), 9100 (metrics)"
    );
    assert_eq!(
        text(id("default/web:81")),
        "Service default/web has no port 81, but 80 (http), 9100 (metrics)"
    );
    assert_eq!(
        text(id("default/wbe")),
        "this node carries no Service default/wbe; `knarr-agent service ls` shows those it does"
    );
}

#[test]
fn a_pod_is_found_on_this_node_first_then_among_the_backends() {
    let ports = ports();
    let veths = [
        ("default/client".to_owned(), Ipv4Addr::new(10, 244, 0, 9)),
        // On this node it has moved on; the names file may be a moment behind.
        ("default/web-0".to_owned(), Ipv4Addr::new(10, 244, 0, 5)),
    ];
    let find = |pod: &str| find_pod(&veths, &ports, pod);
    for (pod, address) in [
        ("client", [10, 244, 0, 9]),
        ("default/client", [10, 244, 0, 9]),
        ("web-0", [10, 244, 0, 5]),
        ("shop/dns-0", [10, 244, 1, 3]),
    ] {
        assert_eq!(find(pod).expect("found"), Ipv4Addr::from(address), "{pod}");
    }
    assert_eq!(
        find_pod(&[], &ports, "web-0").expect("a backend"),
        Ipv4Addr::new(10, 244, 1, 2)
    );
    for pod in ["dns-0", "gone", "shop/client"] {
        let wanted = if pod.contains('/') {
            pod.to_owned()
        } else {
            format!("default/{pod}")
        };
        assert_eq!(
            text(find(pod)),
            format!(
                "no pod {wanted} is known on this node; give its address instead: --from 10.244.1.2"
            )
        );
    }
}

#[test]
fn callers_are_the_node_a_pod_or_an_address_outside() {
    let ports = ports();
    let outside = |text: &str| caller(&ports, None, Some(text));
    assert_eq!(caller(&ports, None, None).expect("the node"), Caller::Node);
    let address = Ipv4Addr::new(10, 244, 1, 2);
    assert_eq!(
        caller(&ports, Some("10.244.1.2"), None).expect("a pod"),
        Caller::Pod(address)
    );
    let host = Ipv4Addr::new(192, 0, 2, 9);
    assert_eq!(
        outside("192.0.2.9").expect("a host"),
        Caller::Outside(host, None)
    );
    assert_eq!(
        outside("192.0.2.9:4000").expect("a flow"),
        Caller::Outside(host, Some(4000))
    );
    assert_eq!(text(outside("here")), "\"here\" is no IPv4 address");
    assert_eq!(text(outside("192.0.2.9:x")), "\"x\" is no port");
}
