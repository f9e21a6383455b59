// SPDX-License-Identifier: Apache-2.0
//! Endpoints: the older form of what EndpointSlices say.

use std::net::IpAddr;

use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::meta::address_advice;
use crate::registry::{Column, Kind, Scope, Strategy, texts};
use crate::{table, value};

/// Addresses that the column shows before it says how many more there are.
const SHOWN_MAX: usize = 3;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ep"]),
        columns: vec![
            Column::NAME,
            Column::new(
                "Endpoints",
                "string",
                "The set of all endpoints is the union of all subsets.",
            ),
            Column::AGE,
        ],
        ..Kind::new(
            "",
            "v1",
            "Endpoints",
            "endpoints",
            Scope::Namespaced,
            Endpoints,
        )
    }
}

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in value::items_mut(object, "subsets") {
            for port in value::items_mut(subset, "ports") {
                value::default_text(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        for (index, subset) in value::items(object, "subsets").iter().enumerate() {
            let field = format!("subsets[{index}]");
            let ready = value::items(subset, "addresses");
            let not_ready = value::items(subset, "notReadyAddresses");
            if ready.is_empty() && not_ready.is_empty() {
                errors.required(&field, "must specify `addresses` or `notReadyAddresses`");
            }
            for (part, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
                for (index, address) in addresses.iter().enumerate() {
                    let ip = value::text(address, "ip");
                    validate_ip(ip, &format!("{field}.{part}[{index}].ip"), errors);
                }
            }
            let ports = value::items(subset, "ports");
            for (index, port) in ports.iter().enumerate() {
                let field = format!("{field}.ports[{index}]");
                validate_port(port, &field, ports.len() > 1, errors);
            }
        }
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![
            table::name(object),
            shown(object).into(),
            table::age(object),
        ]
    }

    fn advice(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut found = Vec::new();
        for (index, subset) in value::items(new, "subsets").iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (nth, address) in value::items(subset, list).iter().enumerate() {
                    let field = format!("subsets[{index}].{list}[{nth}].ip");
                    found.extend(address_advice(&field, value::text(address, "ip")));
                }
            }
        }
        found
    }

    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }
}

/// An address that endpoints may have.
pub(super) fn validate_ip(text: &str, field: &str, errors: &mut FieldErrors) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        errors.invalid(
            field,
            text,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
        return;
    };
    if ip.is_unspecified() {
        errors.invalid(field, text, "may not be unspecified (0.0.0.0 or ::)");
    }
    if ip.is_loopback() {
        errors.invalid(
            field,
            text,
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
    };
    if link_local {
        errors.invalid(
            field,
            text,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if ip.is_multicast() {
        errors.invalid(
            field,
            text,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

fn validate_port(port: &Value, field: &str, named: bool, errors: &mut FieldErrors) {
    let name = value::text(port, "name");
    if named && name.is_empty() {
        errors.required(&format!("{field}.name"), "");
    } else if !name.is_empty() {
        for message in knarr_api::names::validate_dns_label(name) {
            errors.invalid(&format!("{field}.name"), name, &message);
        }
    }
    let number = value::int(port, "port").unwrap_or(0);
    if !(1..=65535).contains(&number) {
        errors.invalid(
            &format!("{field}.port"),
            number,
            "must be between 1 and 65535, inclusive",
        );
    }
    let protocol = value::text(port, "protocol");
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    if !PROTOCOLS.contains(&protocol) {
        errors.not_supported(&format!("{field}.protocol"), protocol, &PROTOCOLS);
    }
}

/// `10.0.0.1:80,10.0.0.2:80 + 1 more...`
fn shown(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in value::items(endpoints, "subsets") {
        let addresses = value::items(subset, "addresses")
            .iter()
            .map(|a| value::text(a, "ip"));
        let ports = value::items(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses.map(str::to_owned));
            continue;
        }
        let addresses: Vec<&str> = addresses.collect();
        for port in ports {
            let number = value::int(port, "port").unwrap_or(0);
            all.extend(addresses.iter().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{number}"),
                false => format!("{ip}:{number}"),
            }));
        }
    }
    if all.is_empty() {
        return "<none>".to_owned();
    }
    let more = all.len().saturating_sub(SHOWN_MAX);
    all.truncate(SHOWN_MAX);
    let mut text = all.join(",");
    if more > 0 {
        text.push_str(&format!(" + {more} more..."));
    }
    text
}
