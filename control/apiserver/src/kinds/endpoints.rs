// SPDX-License-Identifier: Apache-2.0
//! Endpoints: the older form of what EndpointSlices say.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::meta::address_advice;
use crate::registry::{Column, Kind, Rules, Scope, Strategy, Validate, texts};
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

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
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

impl Validate for Endpoints {
    type Object = api::Endpoints;

    fn validate(&self, new: &api::Endpoints, errors: &mut FieldErrors) {
        for (index, subset) in new.subsets.iter().flatten().enumerate() {
            let field = format!("subsets[{index}]");
            let ready = subset.addresses.as_deref().unwrap_or_default();
            let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
            if ready.is_empty() && not_ready.is_empty() {
                errors.required(&field, "must specify `addresses` or `notReadyAddresses`");
            }
            for (part, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
                for (index, address) in addresses.iter().enumerate() {
                    validate_ip(&address.ip, &format!("{field}.{part}[{index}].ip"), errors);
                }
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            for (index, port) in ports.iter().enumerate() {
                let field = format!("{field}.ports[{index}]");
                let name = match ports.len() {
                    1 => PortName::MayBeEmpty,
                    _ => PortName::Required,
                };
                validate_port(port, &field, name, errors);
            }
        }
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

/// Whether a port has to have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortName {
    MayBeEmpty,
    Required,
}

fn validate_port(port: &api::EndpointPort, field: &str, rule: PortName, errors: &mut FieldErrors) {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let name = port.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        if rule == PortName::Required {
            errors.required(&format!("{field}.name"), "");
        }
    } else {
        for message in knarr_api::names::validate_dns_label(name) {
            errors.invalid(&format!("{field}.name"), name, &message);
        }
    }
    if !(1..=65535).contains(&port.port) {
        errors.invalid(
            &format!("{field}.port"),
            port.port,
            "must be between 1 and 65535, inclusive",
        );
    }
    let protocol = port.protocol.as_deref().unwrap_or_default();
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
            all.extend(addresses.iter().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{number}")
                } else {
                    format!("{ip}:{number}")
                }
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
