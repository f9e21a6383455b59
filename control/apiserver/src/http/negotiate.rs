// SPDX-License-Identifier: Apache-2.0
//! Content negotiation: which encoding, and which form of an object a client wants.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::{ApiError, Reason};

/// OpenAPI v2 as protobuf, with dots for every separator.
const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

/// The form of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves.
    Plain,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// Only metadata, `meta.k8s.io` of this version.
    Partial(&'static str),
    /// `apidiscovery.k8s.io` of this version.
    Discovery(&'static str),
}

/// What a client accepts, best first.
#[derive(Debug)]
pub(crate) struct Accept(Vec<(Format, Form)>, Given, OpenApiProtobuf);

/// Whether OpenAPI's own protobuf is the best of what a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenApiProtobuf {
    First,
    NotFirst,
}

#[derive(Debug, PartialEq, Eq)]
enum Given {
    Nothing,
    Something,
}

impl Accept {
    pub(crate) fn parse(headers: &HeaderMap) -> Self {
        let mut wanted = Vec::new();
        let mut given = Given::Nothing;
        let mut protobuf = OpenApiProtobuf::NotFirst;
        for value in headers.get_all(ACCEPT) {
            let Ok(text) = value.to_str() else { continue };
            for range in text.split(',').map(str::trim).filter(|r| !r.is_empty()) {
                // Clients spell the type with `@` and, older ones, with a dot.
                if given == Given::Nothing && range.replace('@', ".") == OPENAPI_V2 {
                    protobuf = OpenApiProtobuf::First;
                }
                given = Given::Something;
                wanted.extend(parse_range(range));
            }
        }
        Self(wanted, given, protobuf)
    }

    /// Whether OpenAPI v2 is wanted as protobuf.
    pub(crate) fn openapi_v2_protobuf(&self) -> OpenApiProtobuf {
        self.2
    }

    /// The best of the forms that can be answered. Nothing asked for is plain JSON.
    pub(crate) fn choose(&self, can: impl Fn(&Form) -> bool) -> Result<(Format, Form), ApiError> {
        if self.1 == Given::Nothing {
            return Ok((Format::Json, Form::Plain));
        }
        self.0
            .iter()
            .find(|(_, form)| *form == Form::Plain || can(form))
            .cloned()
            .ok_or_else(|| {
                ApiError::new(
                    Reason::NotAcceptable,
                    "only the following media types are accepted: application/json, application/yaml",
                )
            })
    }

    /// For answers that have only one form.
    pub(crate) fn plain(&self) -> Result<Format, ApiError> {
        self.choose(|_| false).map(|(format, _)| format)
    }
}

fn parse_range(range: &str) -> Option<(Format, Form)> {
    let mut parts = range.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => return None,
    };
    let (mut form, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => form = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            // Quality values and charsets do not change what can be answered.
            _ => {}
        }
    }
    let meta = match version {
        "v1" | "" => "v1",
        "v1beta1" => "v1beta1",
        _ => "",
    };
    let form = match (form, group) {
        ("", _) => Form::Plain,
        ("Table", "meta.k8s.io") if !meta.is_empty() => Form::Table(meta),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io")
            if !meta.is_empty() =>
        {
            Form::Partial(meta)
        }
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io") => match version {
            "v2" => Form::Discovery("v2"),
            "v2beta1" => Form::Discovery("v2beta1"),
            _ => return None,
        },
        _ => return None,
    };
    Some((format, form))
}
