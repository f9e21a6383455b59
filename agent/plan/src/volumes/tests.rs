// SPDX-License-Identifier: Apache-2.0
//! Volumes and mounts as values.
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::*;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}}, "spec": spec}))
    .expect("pod")
}

fn around() -> Surroundings {
    let mut around = Surroundings::default();
    let map: ConfigMap = serde_json::from_value(json!({
        "data": {"a": "1", "b": "2"}, "binaryData": {"c": "AP8="}}))
    .expect("map");
    let secret: Secret =
        serde_json::from_value(json!({"data": {"key": "c2VjcmV0"}})).expect("secret");
    around
        .objects
        .config_maps
        .insert("conf".into(), Arc::new(map));
    around
        .objects
        .secrets
        .insert("keys".into(), Arc::new(secret));
    around
}

fn source(volume: serde_json::Value) -> Result<VolumeSource, VolumeError> {
    let mut volume = volume;
    volume["name"] = json!("v");
    let pod = pod(json!({"containers": [], "volumes": [volume]}));
    volume_plans(&pod, &around()).map(|mut plans| plans.remove(0).source)
}

fn files(volume: serde_json::Value) -> Vec<(String, u32, Vec<u8>)> {
    match source(volume).expect("volume") {
        VolumeSource::Files(files) => files
            .into_iter()
            .map(|f| (f.path, f.mode, f.data))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn empty_dirs_are_on_disk_or_in_memory_with_their_size() {
    assert_eq!(
        source(json!({"emptyDir": {}})),
        Ok(VolumeSource::Directory { size_bytes: None })
    );
    assert_eq!(
        source(json!({"emptyDir": {"sizeLimit": "1Mi"}})),
        Ok(VolumeSource::Directory {
            size_bytes: Some(1 << 20)
        })
    );
    assert_eq!(
        source(json!({"emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}})),
        Ok(VolumeSource::Memory {
            size_bytes: Some(2 << 20)
        })
    );
}

#[test]
fn config_maps_and_secrets_become_files() {
    assert_eq!(
        files(json!({"configMap": {"name": "conf", "defaultMode": 256}})),
        [
            ("a".into(), 0o400, b"1".to_vec()),
            ("b".into(), 0o400, b"2".to_vec()),
            ("c".into(), 0o400, vec![0, 255]),
        ]
    );
    assert_eq!(
        files(json!({"secret": {"secretName": "keys", "items": [
            {"key": "key", "path": "d/k", "mode": 384}]}})),
        [("d/k".into(), 0o600, b"secret".to_vec())]
    );
}

#[test]
fn projected_sources_come_together() {
    let list = files(json!({"projected": {"sources": [
        {"configMap": {"name": "conf", "items": [{"key": "a", "path": "x"}]}},
        {"secret": {"name": "keys"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]}}));
    let names: Vec<&str> = list.iter().map(|(p, ..)| p.as_str()).collect();
    assert_eq!(names, ["key", "labels", "x"]);
    assert_eq!(list[1].2, b"a=\"b\"");
}

#[test]
fn what_is_missing_is_named_unless_optional() {
    let error = source(json!({"configMap": {"name": "no"}})).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "MountVolume.SetUp failed for volume \"v\" : configmap \"no\" not found"
    );
    let error =
        source(json!({"secret": {"secretName": "keys", "items": [{"key": "x", "path": "y"}]}}))
            .expect_err("missing");
    assert!(
        error
            .to_string()
            .ends_with("references non-existent secret key: x"),
        "{error}"
    );
    let optional = json!({"configMap": {"name": "no", "optional": true}});
    assert_eq!(source(optional), Ok(VolumeSource::Files(vec![])));
}

#[test]
fn a_path_that_leaves_the_volume_is_refused() {
    for path in ["../x", "/x", "a/../../b", ""] {
        let volume = json!({"configMap": {"name": "conf", "items": [{"key": "a", "path": path}]}});
        assert!(
            matches!(source(volume), Err(VolumeError::Path { .. })),
            "{path}"
        );
    }
}

#[test]
fn mounts_name_their_volume_and_expand_their_sub_path() {
    let pod = pod(json!({
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "conf"}}],
        "containers": [{"name": "x", "volumeMounts": [
            {"name": "e", "mountPath": "/e", "subPathExpr": "$(N)/x"},
            {"name": "c", "mountPath": "c"}]}]}));
    let container = &pod.spec.as_ref().expect("spec").containers[0];
    let env = [("N".to_owned(), "7".to_owned())];
    let root = |name: &str| PathBuf::from(format!("/volumes/{name}"));
    let mounts_of = |env: &[(String, String)]| mounts(&pod, container, env, &root);
    assert_eq!(
        mounts_of(&env).expect("mounts"),
        [
            Mount {
                source: MountSource::BindWithin {
                    root: "/volumes/e".into(),
                    sub_path: "7/x".into(),
                },
                target: "/e".into(),
                access: Access::ReadWrite,
                propagation: Propagation::Private,
            },
            Mount {
                source: MountSource::Bind("/volumes/c".into()),
                target: "/c".into(),
                access: Access::ReadOnly,
                propagation: Propagation::Private,
            },
        ]
    );
    let env = [("N".to_owned(), "../..".to_owned())];
    assert!(matches!(mounts_of(&env), Err(VolumeError::Path { .. })));
}

#[test]
fn the_contents_of_a_file_are_not_in_a_debug_print() {
    let file = VolumeFile {
        path: "password".into(),
        mode: FILE_MODE_DEFAULT,
        data: b"hunter2".to_vec(),
    };
    let text = format!("{:?}", VolumeSource::Files(vec![file]));
    // As text and as a list of numbers.
    assert!(
        !text.contains("hunter2") && !text.contains("104, 117"),
        "{text}"
    );
    assert!(text.contains("[7 bytes hidden]"), "{text}");
}
