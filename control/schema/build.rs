// SPDX-License-Identifier: Apache-2.0
//! Makes the built-in schemas from two dependencies, so that none is written by hand.
//!
//! `k8s-openapi` gives names, types, required fields and descriptions; `k8s-pb` gives protobuf numbers, and its comments
//! carry upstream's markers for lists, patches, defaults and minimums. Two blobs result: types for every request, and whole OpenAPI
//! components, written out as text, that are inflated only when somebody asks for a document.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use k8s_openapi::Resource;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

#[path = "build/documents.rs"]
mod documents;
#[path = "build/later.rs"]
mod later;
#[path = "build/markers.rs"]
mod markers;
#[path = "build/messages.rs"]
mod messages;
#[path = "build/partial.rs"]
mod partial;
#[path = "build/source.rs"]
mod source;
#[path = "build/zeros.rs"]
mod zeros;

use documents::Documents;
use markers::Markers;
use messages::Messages;

/// Where k8s-openapi's definitions refer to each other.
const REFERENCE: &str = "#/definitions/";
/// The extension that says which kind a definition is.
const KIND: &str = "x-kubernetes-group-version-kind";

struct Roots {
    generator: SchemaGenerator,
    /// Group, version and kind by definition name.
    kinds: BTreeMap<String, (String, String, String)>,
}

impl Roots {
    fn kind<K: Resource + JsonSchema>(&mut self) {
        self.generator.subschema_for::<K>();
        let kind = (
            K::GROUP.to_owned(),
            K::VERSION.to_owned(),
            K::KIND.to_owned(),
        );
        self.kinds.insert(K::schema_name().into_owned(), kind);
    }

    /// A type that is sent by itself but is no kind of one group.
    fn named<K: JsonSchema>(&mut self, group: &str, version: &str, kind: &str) {
        self.generator.subschema_for::<K>();
        let names = (group.to_owned(), version.to_owned(), kind.to_owned());
        self.kinds.insert(K::schema_name().into_owned(), names);
    }
}

fn roots() -> Roots {
    use k8s_openapi::api::{
        apps, authentication, authorization, autoscaling, coordination, core, discovery, events,
        policy,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta;
    let settings = SchemaSettings::draft07();
    let mut roots = Roots {
        generator: SchemaGenerator::new(settings),
        kinds: BTreeMap::new(),
    };
    roots.kind::<core::v1::Binding>();
    roots.kind::<core::v1::ConfigMap>();
    roots.kind::<core::v1::Endpoints>();
    roots.kind::<core::v1::Event>();
    roots.kind::<core::v1::Namespace>();
    roots.kind::<core::v1::Node>();
    roots.kind::<core::v1::Pod>();
    roots.kind::<core::v1::Secret>();
    roots.kind::<core::v1::Service>();
    roots.kind::<core::v1::ServiceAccount>();
    roots.kind::<apps::v1::Deployment>();
    roots.kind::<apps::v1::ReplicaSet>();
    roots.kind::<authentication::v1::SelfSubjectReview>();
    roots.kind::<authorization::v1::SelfSubjectAccessReview>();
    roots.kind::<authorization::v1::SelfSubjectRulesReview>();
    roots.kind::<authorization::v1::SubjectAccessReview>();
    roots.kind::<autoscaling::v1::Scale>();
    roots.kind::<coordination::v1::Lease>();
    roots.kind::<discovery::v1::EndpointSlice>();
    roots.kind::<events::v1::Event>();
    roots.kind::<policy::v1::Eviction>();
    roots.kind::<meta::v1::APIGroup>();
    roots.kind::<meta::v1::APIGroupList>();
    roots.kind::<meta::v1::APIResourceList>();
    roots.kind::<meta::v1::APIVersions>();
    roots.kind::<meta::v1::Status>();
    roots.named::<meta::v1::DeleteOptions>("", "v1", "DeleteOptions");
    roots
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let messages = Messages::below(source::package_source("k8s-pb")?);
    let mut roots = roots();
    let mut definitions = roots.generator.take_definitions(true);
    partial::add(&mut definitions);
    let markers = Markers {
        messages: &messages,
        definitions: &definitions,
    };
    let mut types = Map::new();
    let mut documents = Documents::default();
    for name in definitions.keys() {
        let mut definition = markers.marked(name)?;
        markers.check_list(name)?;
        rename_references(&mut definition);
        if let Some((group, version, kind)) = roots.kinds.get(name) {
            definition[KIND] = json!([{"group": group, "version": version, "kind": kind}]);
        }
        let mut bare = definition.clone();
        drop_descriptions(&mut bare);
        types.insert(name.clone(), bare);
        if !partial::NAMES.contains(&&**name) {
            documents.add(name, definition);
        }
    }
    zeros::mark(&mut types)?;
    // A marker that is read wrongly would silently turn merges into replacements.
    for (definition, field, key) in [
        ("io.k8s.api.core.v1.PodSpec", "containers", "name"),
        ("io.k8s.api.core.v1.Container", "ports", "containerPort"),
        ("io.k8s.api.core.v1.ServiceSpec", "ports", "port"),
        ("io.k8s.api.core.v1.PodStatus", "conditions", "type"),
        ("io.k8s.api.core.v1.ServiceStatus", "conditions", "type"),
        (
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
            "ownerReferences",
            "uid",
        ),
    ] {
        let found = &types[definition]["properties"][field]["x-kubernetes-patch-merge-key"];
        assert_eq!(found, key, "patch merge key of {definition}.{field}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let lines: String = types
        .iter()
        .map(|(name, definition)| format!("{name}\t{definition}\n"))
        .collect();
    write_compressed(&out.join("types.deflate"), lines.as_bytes())?;
    write_compressed(&out.join("components.deflate"), documents.text.as_bytes())?;
    Ok(())
}

/// From schemars' place of definitions to OpenAPI's.
fn rename_references(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref")
                && let Some(name) = target.strip_prefix(REFERENCE)
            {
                *target = format!("#/components/schemas/{name}");
                // OpenAPI v3 ignores whatever stands beside a reference.
                if fields.len() > 1
                    && let Some(reference) = fields.remove("$ref")
                {
                    fields.insert("allOf".to_owned(), json!([{"$ref": reference}]));
                }
            }
            fields.values_mut().for_each(rename_references);
        }
        Value::Array(items) => items.iter_mut().for_each(rename_references),
        _ => {}
    }
}

fn drop_descriptions(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    fields.remove("description");
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(drop_descriptions);
            }
            ("items" | "additionalProperties", value) => drop_descriptions(value),
            ("allOf", Value::Array(parts)) => parts.iter_mut().for_each(drop_descriptions),
            _ => {}
        }
    }
}

fn write_compressed(path: &Path, text: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text)?;
    fs::write(path, encoder.finish()?)?;
    Ok(())
}
