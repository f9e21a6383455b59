// SPDX-License-Identifier: Apache-2.0
//! The kinds of `meta.k8s.io` that k8s-openapi does not have, because no document of Kubernetes names them: objects of
//! which only the metadata is sent. Clients ask for them in JSON and in protobuf.

use serde_json::{Map, Value, json};

use crate::{KIND, REFERENCE};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Names of the definitions. No document has them.
pub const NAMES: [&str; 2] = [
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
];

/// Adds them.
pub fn add(definitions: &mut Map<String, Value>) {
    let [object, list] = NAMES;
    let reference = |name: &str| json!({"$ref": format!("{REFERENCE}{name}")});
    let of_meta = |name: &str| reference(&format!("{META}.{name}"));
    let kind = |kind: &str| {
        ["v1", "v1beta1"].map(|v| json!({"group": "meta.k8s.io", "version": v, "kind": kind}))
    };
    let text = || json!({"type": "string"});
    let mut add = |name: &str, short: &str, own: Vec<(&str, Value)>| {
        let type_meta = [("apiVersion", text()), ("kind", text())];
        let properties: Map<String, Value> = type_meta
            .into_iter()
            .chain(own)
            .map(|(name, schema)| (name.to_owned(), schema))
            .collect();
        let definition = json!({"type": "object", "properties": properties, KIND: kind(short)});
        definitions.insert(name.to_owned(), definition);
    };
    add(
        object,
        "PartialObjectMetadata",
        vec![("metadata", of_meta("ObjectMeta"))],
    );
    add(
        list,
        "PartialObjectMetadataList",
        vec![
            ("metadata", of_meta("ListMeta")),
            (
                "items",
                json!({"type": "array", "items": reference(object)}),
            ),
        ],
    );
}
