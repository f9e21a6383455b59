// SPDX-License-Identifier: Apache-2.0
//! EndpointSlice: where a Service's traffic may go.

use std::net::{Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::discovery::v1 as api;
use serde_json::Value;

use super::endpoints::validate_ip;
use super::ignored::{self, Ignored, ignored};
use crate::field::FieldErrors;
use crate::registry::meta::address_advice;
use crate::registry::{Column, Generation, Kind, Rules, Scope, Strategy, Validate};
use crate::{table, value};

/// Values that a column shows before it says how many more there are.
const SHOWN_MAX: usize = 3;
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20_000;

pub(super) fn kind() -> Kind {
    Kind {
        generation: Generation::Content,
        columns: vec![
            Column::NAME,
            Column::new(
                "AddressType",
                "string",
                "addressType specifies the type of address carried by this EndpointSlice.",
            ),
            Column::new(
                "Ports",
                "string",
                "ports specifies the list of network ports exposed by each endpoint in this slice.",
            ),
            Column::new(
                "Endpoints",
                "string",
                "endpoints is a list of unique endpoints in this slice.",
            ),
            Column::AGE,
        ],
        ..Kind::new(
            "discovery.k8s.io",
            "v1",
            "EndpointSlice",
            "endpointslices",
            Scope::Namespaced,
            EndpointSlice,
        )
    }
}

struct EndpointSlice;

/// What nodes do not know of an endpoint.
const IGNORED: &[Ignored] = &[
    ignored(
        "endpoints[].deprecatedTopology",
        "has no effect: it is of v1beta1",
    ),
    ignored(
        "endpoints[].hints",
        "has no effect in this version: all ready endpoints are alike",
    ),
];

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in value::items_mut(object, "ports") {
            value::default(port, "name", "");
            value::default(port, "protocol", "TCP");
        }
        if value::at(object, "endpoints").is_none() {
            value::set(object, "endpoints", Value::Array(Vec::new()));
        }
    }

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
    }

    fn advice(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut found = Vec::new();
        if old.is_none() && value::text(new, "addressType") == "FQDN" {
            found.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        for (index, endpoint) in value::items(new, "endpoints").iter().enumerate() {
            for (nth, address) in value::items(endpoint, "addresses").iter().enumerate() {
                let field = format!("endpoints[{index}].addresses[{nth}]");
                found.extend(address_advice(&field, address.as_str().unwrap_or_default()));
            }
        }
        found
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        ignored::warnings(IGNORED, object, "")
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let ports = value::items(object, "ports")
            .iter()
            .map(|p| value::int(p, "port").map_or("*".to_owned(), |n| n.to_string()));
        let addresses = value::items(object, "endpoints")
            .iter()
            .flat_map(|e| value::items(e, "addresses"))
            .map(|a| a.as_str().unwrap_or_default().to_owned());
        vec![
            table::name(object),
            value::text(object, "addressType").into(),
            shown(ports.collect(), "<unset>").into(),
            shown(addresses.collect(), "<unset>").into(),
            table::age(object),
        ]
    }
}

impl Validate for EndpointSlice {
    type Object = api::EndpointSlice;

    fn validate(&self, new: &api::EndpointSlice, errors: &mut FieldErrors) {
        const TYPES: [&str; 3] = ["IPv4", "IPv6", "FQDN"];
        let kind = new.address_type.as_str();
        if kind.is_empty() {
            errors.required("addressType", "");
        } else if !TYPES.contains(&kind) {
            errors.not_supported("addressType", kind, &TYPES);
        }
        let endpoints = new.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > ENDPOINTS_MAX {
            errors.too_many("endpoints", endpoints.len(), ENDPOINTS_MAX);
            return;
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let field = format!("endpoints[{index}]");
            if endpoint.addresses.is_empty() {
                errors.required(
                    &format!("{field}.addresses"),
                    "must contain at least 1 address",
                );
            }
            for (index, address) in endpoint.addresses.iter().enumerate() {
                let field = format!("{field}.addresses[{index}]");
                validate_address(kind, address, &field, errors);
            }
        }
        validate_ports(new.ports.as_deref().unwrap_or_default(), errors);
    }

    fn validate_update(
        &self,
        new: &api::EndpointSlice,
        old: &api::EndpointSlice,
        errors: &mut FieldErrors,
    ) {
        self.validate(new, errors);
        if new.address_type != old.address_type {
            let kind = new.address_type.as_str();
            errors.invalid("addressType", kind, "field is immutable");
        }
    }
}

fn validate_address(kind: &str, address: &str, field: &str, errors: &mut FieldErrors) {
    match kind {
        "IPv4" if address.parse::<Ipv4Addr>().is_err() => {
            errors.invalid(field, address, "must be a valid IPv4 address");
        }
        "IPv6" if address.parse::<Ipv6Addr>().is_err() => {
            errors.invalid(field, address, "must be a valid IPv6 address");
        }
        "IPv4" | "IPv6" => validate_ip(address, field, errors),
        _ => {}
    }
}

fn validate_ports(ports: &[api::EndpointPort], errors: &mut FieldErrors) {
    if ports.len() > PORTS_MAX {
        errors.too_many("ports", ports.len(), PORTS_MAX);
    }
    let name_of = |port: &api::EndpointPort| port.name.clone().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("ports[{index}]");
        let name = name_of(port);
        if ports[..index].iter().any(|p| name_of(p) == name) {
            errors.duplicate(&format!("{field}.name"), name);
        }
        if let Some(number) = port.port
            && !(1..=65535).contains(&number)
        {
            errors.invalid(
                &format!("{field}.port"),
                number,
                "must be between 1 and 65535, inclusive",
            );
        }
    }
}

fn shown(all: Vec<String>, none: &str) -> String {
    if all.is_empty() {
        return none.to_owned();
    }
    let mut text = all
        .iter()
        .take(SHOWN_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    if all.len() > SHOWN_MAX {
        text.push_str(&format!(" + {} more...", all.len() - SHOWN_MAX));
    }
    text
}
