// SPDX-License-Identifier: Apache-2.0
//! The peers' rules in kube-proxy's shape (v1.37 `pkg/proxy/iptables` and `pkg/proxy/nftables`), as text for
//! `iptables-restore` and `nft -f`. They are loaded in lab hosts only.
//!
//! Both have the chains that a packet for a Service with endpoints passes: of iptables the table `nat`, of nftables the
//! filter chains too, with the maps empty that are for Services without endpoints and for source ranges. NodePorts hold
//! where kube-proxy's defaults have them: iptables on every local address, nftables on the node's primary one.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// A Service of the bench. The kernel programs get the same ones.
pub struct Service {
    /// From 0.
    pub number: u32,
    /// Its ClusterIP.
    pub ip: Ipv4Addr,
    /// Its NodePort, if it has one.
    pub node_port: Option<u16>,
    /// Where it leads.
    pub endpoints: Vec<(Ipv4Addr, u16)>,
}

/// The port of every Service.
pub const PORT: u16 = 80;
/// Endpoints of each Service.
pub const ENDPOINTS: u16 = 3;
/// Sources from here are taken as pods: kube-proxy does not masquerade for them.
const CLUSTER: &str = "198.18.0.0/15";

/// This many Services; the one in the middle leads to the real endpoints and has the NodePort.
pub fn services(count: u32, real: &[(Ipv4Addr, u16)], node_port: u16) -> Vec<Service> {
    let first = u32::from(Ipv4Addr::new(10, 96, 1, 0));
    let elsewhere = u32::from(Ipv4Addr::new(10, 244, 0, 0));
    (0..count)
        .map(|number| {
            let tested = number == count / 2;
            let endpoints = if tested {
                real.to_vec()
            } else {
                (0..ENDPOINTS)
                    .map(|at| {
                        (
                            Ipv4Addr::from(
                                elsewhere
                                    + (number * u32::from(ENDPOINTS) + u32::from(at)) % 65_000
                                    + 1,
                            ),
                            8080,
                        )
                    })
                    .collect()
            };
            Service {
                number,
                ip: Ipv4Addr::from(first + number),
                node_port: tested.then_some(node_port),
                endpoints,
            }
        })
        .collect()
}

/// The Service with the real endpoints.
pub fn tested(services: &[Service]) -> &Service {
    &services[services.len() / 2]
}

/// For `iptables-restore`.
pub fn iptables(services: &[Service]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for Service {
        number,
        ip,
        node_port,
        endpoints,
    } in services
    {
        let comment = format!("-m comment --comment \"bench/svc-{number}:http cluster IP\"");
        let _ = writeln!(chains, ":KUBE-SVC-{number:016X} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {ip}/32 -p tcp {comment} -m tcp --dport {PORT} -j KUBE-SVC-{number:016X}"
        );
        let _ = writeln!(
            rules,
            "-A KUBE-SVC-{number:016X} ! -s {CLUSTER} -d {ip}/32 -p tcp {comment} -m tcp --dport {PORT} -j KUBE-MARK-MASQ"
        );
        if let Some(port) = node_port {
            let _ = writeln!(chains, ":KUBE-EXT-{number:016X} - [0:0]");
            let _ = writeln!(
                rules,
                "-A KUBE-NODEPORTS -p tcp {comment} -m tcp --dport {port} -j KUBE-EXT-{number:016X}"
            );
            let _ = writeln!(
                rules,
                "-A KUBE-EXT-{number:016X} {comment} -j KUBE-MARK-MASQ"
            );
            let _ = writeln!(rules, "-A KUBE-EXT-{number:016X} -j KUBE-SVC-{number:016X}");
        }
        for (at, (address, port)) in endpoints.iter().enumerate() {
            let chain = format!("KUBE-SEP-{number:08X}{at:08X}");
            let left = endpoints.len() - at;
            let chance = if left > 1 {
                format!(
                    "-m statistic --mode random --probability {:.11} ",
                    1.0 / left as f64
                )
            } else {
                String::new()
            };
            let to =
                format!("-m comment --comment \"bench/svc-{number}:http -> {address}:{port}\"");
            let _ = writeln!(chains, ":{chain} - [0:0]");
            let _ = writeln!(rules, "-A KUBE-SVC-{number:016X} {to} {chance}-j {chain}");
            let _ = writeln!(rules, "-A {chain} -s {address}/32 {to} -j KUBE-MARK-MASQ");
            let _ = writeln!(
                rules,
                "-A {chain} -p tcp {to} -m tcp -j DNAT --to-destination {address}:{port}"
            );
        }
    }
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n{rules}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n"
    )
}

/// For `nft -f`, on the node with this address.
pub fn nftables(services: &[Service], node: Ipv4Addr) -> String {
    let mut chains = String::new();
    let mut ips = Vec::new();
    let mut ports = Vec::new();
    for Service {
        number,
        ip,
        node_port,
        endpoints,
    } in services
    {
        ips.push(format!("{ip} . tcp . {PORT} : goto service-{number}"));
        let mut choice = Vec::new();
        for (at, (address, port)) in endpoints.iter().enumerate() {
            choice.push(format!("{at} : goto endpoint-{number}-{at}"));
            let _ = write!(
                chains,
                "  chain endpoint-{number}-{at} {{\n    ip saddr {address} jump mark-for-masquerade\n    meta l4proto tcp dnat to {address}:{port}\n  }}\n"
            );
        }
        let _ = write!(
            chains,
            "  chain service-{number} {{\n    ip daddr {ip} tcp dport {PORT} ip saddr != {CLUSTER} jump mark-for-masquerade\n    numgen random mod {} vmap {{ {} }}\n  }}\n",
            endpoints.len(),
            choice.join(", ")
        );
        if let Some(port) = node_port {
            ports.push(format!("tcp . {port} : goto external-{number}"));
            let _ = write!(
                chains,
                "  chain external-{number} {{\n    jump mark-for-masquerade\n    goto service-{number}\n  }}\n"
            );
        }
    }
    let cluster_ips: Vec<String> = services.iter().map(|s| s.ip.to_string()).collect();
    let mut text = format!(
        "table ip kube-proxy {{\n\
         \x20 chain mark-for-masquerade {{\n    meta mark set meta mark | 0x4000\n  }}\n{chains}\
         \x20 set cluster-ips {{\n    type ipv4_addr\n    elements = {{ {} }}\n  }}\n\
         \x20 set nodeport-ips {{\n    type ipv4_addr\n    elements = {{ {node} }}\n  }}\n\
         \x20 map service-ips {{\n    type ipv4_addr . inet_proto . inet_service : verdict\n    elements = {{ {} }}\n  }}\n\
         \x20 map service-nodeports {{\n    type inet_proto . inet_service : verdict\n    elements = {{ {} }}\n  }}\n",
        cluster_ips.join(", "),
        ips.join(", "),
        ports.join(", ")
    );
    for (map, key) in [
        (
            "no-endpoint-services",
            "ipv4_addr . inet_proto . inet_service",
        ),
        ("no-endpoint-nodeports", "inet_proto . inet_service"),
        ("firewall-ips", "ipv4_addr . inet_proto . inet_service"),
    ] {
        let _ = write!(text, "  map {map} {{\n    type {key} : verdict\n  }}\n");
    }
    for (chain, rules) in NFTABLES_CHAINS {
        let _ = writeln!(text, "  chain {chain} {{");
        for rule in *rules {
            let _ = writeln!(text, "    {rule}");
        }
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

/// Chains that are the same whatever the Services are, those that others jump to first.
const NFTABLES_CHAINS: &[(&str, &[&str])] = &[
    (
        "services",
        &[
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        ],
    ),
    (
        "masquerading",
        &[
            "meta mark & 0x4000 == 0 return",
            "meta mark set meta mark ^ 0x4000",
            "masquerade fully-random",
        ],
    ),
    (
        "service-endpoints-check",
        &["ip daddr . meta l4proto . th dport vmap @no-endpoint-services"],
    ),
    (
        "nodeport-endpoints-check",
        &["ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"],
    ),
    (
        "firewall-check",
        &["ip daddr . meta l4proto . th dport vmap @firewall-ips"],
    ),
    (
        "cluster-ips-check",
        &[
            "ip daddr @cluster-ips reject",
            "ip daddr { 10.96.0.0/12 } drop",
        ],
    ),
    (
        "filter-prerouting",
        &[
            "type filter hook prerouting priority -110; policy accept;",
            "ct state new jump firewall-check",
        ],
    ),
    (
        "filter-input",
        &[
            "type filter hook input priority -110; policy accept;",
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump service-endpoints-check",
        ],
    ),
    (
        "filter-forward",
        &[
            "type filter hook forward priority -110; policy accept;",
            "ct state new jump service-endpoints-check",
            "ct state new jump cluster-ips-check",
        ],
    ),
    (
        "filter-output",
        &[
            "type filter hook output priority -110; policy accept;",
            "ct state new jump service-endpoints-check",
            "ct state new jump firewall-check",
        ],
    ),
    (
        "filter-output-post-dnat",
        &[
            "type filter hook output priority -90; policy accept;",
            "ct state new jump cluster-ips-check",
        ],
    ),
    (
        "nat-prerouting",
        &[
            "type nat hook prerouting priority dstnat; policy accept;",
            "jump services",
        ],
    ),
    (
        "nat-output",
        &[
            "type nat hook output priority -100; policy accept;",
            "jump services",
        ],
    ),
    (
        "nat-postrouting",
        &[
            "type nat hook postrouting priority srcnat; policy accept;",
            "jump masquerading",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_service_is_the_tested_one_and_addresses_are_distinct() {
        let real = [(Ipv4Addr::new(198, 18, 1, 2), 9000)];
        let made = services(1000, &real, 30080);
        assert_eq!(
            (tested(&made).endpoints.as_slice(), tested(&made).node_port),
            (&real[..], Some(30080))
        );
        assert_eq!(
            made.iter()
                .filter(|service| service.node_port.is_some())
                .count(),
            1
        );
        let mut ips: Vec<Ipv4Addr> = made.iter().map(|service| service.ip).collect();
        ips.dedup();
        assert_eq!(ips.len(), 1000);
    }

    #[test]
    fn every_service_has_a_rule_in_both_shapes() {
        let made = services(5, &[(Ipv4Addr::new(198, 18, 1, 2), 9000)], 30080);
        let rules = iptables(&made);
        assert_eq!(
            rules
                .lines()
                .filter(|line| line.starts_with("-A KUBE-SERVICES -d"))
                .count(),
            5
        );
        assert!(rules.ends_with("COMMIT\n") && rules.contains("--probability 0.33333333333"));
        let node = Ipv4Addr::new(198, 18, 0, 5);
        let rules = nftables(&made, node);
        assert_eq!(rules.matches("numgen random mod").count(), 5);
        // kube-proxy's default (`--nodeport-addresses=primary`) looks for the address in a set.
        assert!(
            rules
                .contains("ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports")
        );
        assert!(rules.contains("elements = { 198.18.0.5 }") && !rules.contains("fib daddr"));
    }
}
