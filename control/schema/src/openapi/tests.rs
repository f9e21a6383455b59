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

fn document(json: Vec<u8>) -> Value {
    serde_json::from_slice(&json).unwrap()
}

fn one(method: &'static str, action: &'static str) -> Vec<OpenApiPath> {
    let mut paths = deployments();
    paths[0].operations.truncate(1);
    paths[0].operations[0].method = method;
    paths[0].operations[0].action = action;
    paths
}

#[test]
fn a_list_is_answered_with_the_list_of_the_kind() {
    let document = document(Schemas::builtin().openapi_v3(&one("get", "list")));
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(
        path["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentList"
    );
    let list = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentList"];
    assert_eq!(
        list["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "DeploymentList"}])
    );
    assert_eq!(
        list["properties"]["items"]["items"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.Deployment"
    );
}

#[test]
fn a_deletion_sends_its_options_and_is_answered_with_a_status() {
    let document = document(Schemas::builtin().openapi_v2(&one("delete", "delete")));
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let body = path["delete"]["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["in"] == "body")
        .unwrap();
    assert_eq!(
        body["schema"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
    );
    assert_eq!(
        path["delete"]["responses"]["200"]["schema"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status"
    );
    assert!(
        document["definitions"]
            .get("io.k8s.api.apps.v1.Deployment")
            .is_none()
    );
}

#[test]
fn both_versions_describe_the_same_fields() {
    let v3 = document(Schemas::builtin().openapi_v3(&deployments()));
    let v2 = document(Schemas::builtin().openapi_v2(&deployments()));
    let v3 = v3["components"]["schemas"].as_object().unwrap();
    let v2 = v2["definitions"].as_object().unwrap();
    assert_eq!(v3.len(), v2.len());
    for (name, schema) in v3 {
        assert_eq!(schema["description"], v2[name]["description"], "{name}");
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            let other = &v2[name]["properties"][field];
            assert_eq!(
                property["description"], other["description"],
                "{name}.{field}"
            );
            assert_eq!(property["type"], other["type"], "{name}.{field}");
            assert_eq!(
                property["x-kubernetes-patch-merge-key"], other["x-kubernetes-patch-merge-key"],
                "{name}.{field}"
            );
            if property["allOf"].is_array() {
                assert!(
                    other["$ref"]
                        .as_str()
                        .is_some_and(|r| r.starts_with(DEFINITIONS))
                );
            }
        }
    }
    assert_eq!(
        v2["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"],
        "string"
    );
    let either = json!([{"type": "string"}, {"type": "number"}]);
    assert_eq!(
        v3["io.k8s.apimachinery.pkg.api.resource.Quantity"]["oneOf"],
        either
    );
}

#[test]
fn documents_hold_upstreams_defaults_and_ask_for_no_metadata() {
    let document = document(Schemas::builtin().openapi_v3(&deployments()));
    let schemas = &document["components"]["schemas"];
    let protocol = &schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"];
    assert_eq!(protocol["default"], "TCP");
    let required = &schemas["io.k8s.api.apps.v1.Deployment"]["required"];
    assert!(!required.to_string().contains("metadata"), "{required}");
    assert_eq!(
        schemas["io.k8s.api.core.v1.HTTPGetAction"]["properties"]["httpHeaders"]["x-kubernetes-list-type"],
        "atomic"
    );
}
