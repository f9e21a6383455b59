// SPDX-License-Identifier: Apache-2.0
//! Tests of the OpenAPI documents.

use super::*;

fn deployments() -> Vec<OpenApiPath> {
    let operation = |method, action| OpenApiOperation {
        method,
        action,
        group: "apps".to_owned(),
        version: "v1".to_owned(),
        kind: "Deployment".to_owned(),
    };
    vec![OpenApiPath {
        path: "/apis/apps/v1/namespaces/{namespace}/deployments/{name}".to_owned(),
        operations: vec![operation("get", "get"), operation("patch", "patch")],
    }]
}

#[test]
fn every_reference_of_a_document_leads_somewhere() {
    let document: Value =
        serde_json::from_slice(&Schemas::builtin().openapi_v3(&deployments())).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for name in found {
        assert!(schemas.contains_key(&name), "{name}");
    }
}

fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
                let name = name
                    .strip_prefix(REFERENCE)
                    .or(name.strip_prefix(DEFINITIONS));
                found.push(name.expect("a reference into the document").to_owned());
            }
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn v3_says_what_kubectl_looks_for() {
    let document: Value =
        serde_json::from_slice(&Schemas::builtin().openapi_v3(&deployments())).unwrap();
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"]["kind"],
        "Deployment"
    );
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    assert!(
        names.contains(&"fieldValidation") && names.contains(&"dryRun"),
        "{names:?}"
    );
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"][0]["group"],
        "apps"
    );
    let spec = &deployment["properties"]["spec"];
    assert_eq!(
        spec["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    assert!(
        spec["description"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
}

#[test]
fn v2_has_definitions_and_no_trace_of_v3() {
    let text = String::from_utf8(Schemas::builtin().openapi_v2(&deployments())).unwrap();
    assert!(!text.contains("#/components/"));
    assert!(!text.contains("allOf"));
    let document: Value = serde_json::from_str(&text).unwrap();
    let surge = &document["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!(surge["format"], "int-or-string");
}
