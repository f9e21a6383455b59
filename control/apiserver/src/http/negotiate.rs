// SPDX-License-Identifier: Apache-2.0
//! Content negotiation: which encoding, and which form of an object a client wants.

use http::header::{ACCEPT, USER_AGENT};
use http::{HeaderMap, HeaderValue};

use super::path::Query;
use crate::codec::{Format, JSON, PROTOBUF, YAML};
use crate::{ApiError, Reason};

/// OpenAPI v2 as protobuf, with dots for every separator.
const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

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
pub(crate) struct Accept {
    wanted: Vec<(Format, Form)>,
    given: Given,
    protobuf: OpenApiProtobuf,
    /// How JSON is written.
    json: Format,
}

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
    pub(crate) fn parse(headers: &HeaderMap, query: &Query) -> Self {
        let mut ranges = Vec::new();
        let mut given = Given::Nothing;
        let mut protobuf = OpenApiProtobuf::NotFirst;
        for value in headers.get_all(ACCEPT) {
            // What cannot be read asks for something that cannot be answered.
            let Ok(text) = value.to_str() else {
                given = Given::Something;
                continue;
            };
            for range in text.split(',').map(str::trim).filter(|r| !r.is_empty()) {
                // Clients spell the type with `@` and, older ones, with a dot.
                if given == Given::Nothing && range.replace('@', ".") == OPENAPI_V2 {
                    protobuf = OpenApiProtobuf::First;
                }
                given = Given::Something;
                ranges.extend(parse_range(range));
            }
        }
        // Equal qualities stay in the order of the header.
        ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
        let wanted = ranges.into_iter().map(|r| (r.format, r.form)).collect();
        let json = json_format(headers, query);
        Self {
            wanted,
            given,
            protobuf,
            json,
        }
    }

    /// Whether OpenAPI v2 is wanted as protobuf.
    pub(crate) fn openapi_v2_protobuf(&self) -> OpenApiProtobuf {
        self.protobuf
    }

    /// The best of the forms that can be answered. Nothing asked for is plain JSON.
    pub(crate) fn choose(&self, can: impl Fn(&Form) -> bool) -> Result<(Format, Form), ApiError> {
        let (format, form) = if self.given == Given::Nothing {
            (Format::Json, Form::Plain)
        } else {
            self.wanted
                .iter()
                .find(|(_, form)| *form == Form::Plain || can(form))
                .cloned()
                .ok_or_else(|| not_acceptable(&[JSON, YAML, PROTOBUF]))?
        };
        let format = match format {
            Format::Json => self.json,
            other => other,
        };
        Ok((format, form))
    }

    /// For answers that have only one form.
    pub(crate) fn plain(&self) -> Result<Format, ApiError> {
        self.choose(|_| false).map(|(format, _)| format)
    }

    /// For answers that are text, and are sent as JSON whichever text is wanted.
    pub(crate) fn text(&self) -> Result<(), ApiError> {
        let mut wanted = self.wanted.iter();
        let is_text =
            |(format, form): &(Format, Form)| *format != Format::Protobuf && *form == Form::Plain;
        if self.given == Given::Nothing || wanted.any(is_text) {
            return Ok(());
        }
        Err(not_acceptable(&[JSON, YAML]))
    }
}

/// 406 naming what can be answered.
pub(crate) fn not_acceptable(accepted: &[&str]) -> ApiError {
    let accepted = accepted.join(", ");
    ApiError::new(
        Reason::NotAcceptable,
        format!("only the following media types are accepted: {accepted}"),
    )
}

/// JSON is indented when the client asks for it with `pretty`, or when a person seems to read it: `isPrettyPrint` of
/// apiserver (v1.37).
fn json_format(headers: &HeaderMap, query: &Query) -> Format {
    /// How the user agents of people's tools begin.
    const PEOPLES: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];
    let pretty = match query.text("pretty") {
        // Unlike other parameters this one is read by `strconv.ParseBool`.
        Some(text) => matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => {
            let agent = headers.get(USER_AGENT).map(HeaderValue::as_bytes);
            let agent = agent.unwrap_or_default();
            PEOPLES
                .iter()
                .any(|name| agent.starts_with(name.as_bytes()))
        }
    };
    if pretty {
        Format::PrettyJson
    } else {
        Format::Json
    }
}

/// One range of an `Accept` header.
struct Range {
    format: Format,
    form: Form,
    quality: f32,
}

fn parse_range(range: &str) -> Option<Range> {
    let mut parts = range.split(';').map(str::trim);
    let mut format = match parts.next()? {
        JSON | "*/*" | "application/*" => Format::Json,
        YAML => Format::Yaml,
        PROTOBUF => Format::Protobuf,
        _ => return None,
    };
    let (mut form, mut group, mut version) = ("", "", "");
    let mut quality = 1.0;
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => form = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            Some(("q", value)) => quality = value.parse().unwrap_or(1.0),
            Some(("pretty", "1")) if format == Format::Json => format = Format::PrettyJson,
            // Charsets and the like do not change what can be answered.
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
    // Tables and the aggregated discovery have no messages here, as in kube-apiserver tables have none.
    if format == Format::Protobuf && !matches!(form, Form::Plain | Form::Partial(_)) {
        return None;
    }
    Some(Range {
        format,
        form,
        quality,
    })
}
