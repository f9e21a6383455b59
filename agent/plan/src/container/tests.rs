// SPDX-License-Identifier: Apache-2.0
//! Containers over images.
use serde_json::json;

use super::*;

fn plan(pod_spec: serde_json::Value, image: &ImageConfig) -> Result<ContainerSpec, ConfigError> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": pod_spec}))
    .expect("pod");
    let container = &pod.spec.as_ref().expect("spec").containers[0];
    container_spec(&ContainerInputs {
        pod: &pod,
        container,
        attempt: 0,
        image,
        around: &Surroundings::default(),
        hostname: "p",
        node_memory_bytes: 1 << 30,
        volume_root: &|name| PathBuf::from(format!("/volumes/{name}")),
    })
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["default".into()],
        env: vec!["PATH=/own".into(), "A=image".into()],
        working_dir: "/work".into(),
        user: "1000:2000".into(),
        ..ImageConfig::default()
    }
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd_as_kubernetes_says() {
    for (own, expect) in [
        (json!({}), vec!["/entry", "default"]),
        (json!({"command": ["/c"]}), vec!["/c"]),
        (json!({"args": ["a"]}), vec!["/entry", "a"]),
        (json!({"command": ["/c"], "args": ["a"]}), vec!["/c", "a"]),
    ] {
        let mut container = json!({"name": "c", "image": "i"});
        for (key, value) in own.as_object().expect("object") {
            container[key] = value.clone();
        }
        let plan = plan(json!({"containers": [container]}), &image()).expect("plan");
        assert_eq!(plan.args, expect, "{own}");
    }
    let error = plan(
        json!({"containers": [{"name": "c"}]}),
        &ImageConfig::default(),
    );
    assert_eq!(error, Err(ConfigError::NoCommand));
}

#[test]
fn variables_stand_in_arguments() {
    let plan = plan(
        json!({"containers": [{"name": "c", "env": [{"name": "N", "value": "7"}],
            "args": ["$(N)", "$(NONE)", "$$(N)"]}]}),
        &image(),
    )
    .expect("plan");
    assert_eq!(plan.args, ["/entry", "7", "$(NONE)", "$(N)"]);
}

#[test]
fn the_image_gives_what_the_container_leaves_open() {
    let own = plan(
        json!({"containers": [{"name": "c", "env": [{"name": "A", "value": "pod"}]}]}),
        &image(),
    )
    .expect("plan");
    assert_eq!(own.env, ["HOSTNAME=p", "PATH=/own", "A=pod"]);
    assert_eq!(
        (own.cwd.as_str(), own.user.user.as_str()),
        ("/work", "1000:2000")
    );
    let bare = ImageConfig {
        entrypoint: vec!["/x".into()],
        ..ImageConfig::default()
    };
    let bare = plan(json!({"containers": [{"name": "c"}]}), &bare).expect("plan");
    assert_eq!(bare.env[0], PATH_DEFAULT);
    assert_eq!(bare.cwd, "/");
}

#[test]
fn a_machine_that_goes_down_stops_a_container_as_its_deletion_would() {
    for (grace, own, of_image, expect) in [
        (json!(null), json!({}), None, (15, 30)),
        (json!(5), json!({}), Some("SIGQUIT"), (3, 5)),
        (
            json!(0),
            json!({"lifecycle": {"stopSignal": "SIGRTMIN+1"}}),
            Some("SIGQUIT"),
            (35, 0),
        ),
        (json!(-1), json!({}), Some("SIGNONSENSE"), (15, 0)),
    ] {
        let mut container = json!({"name": "c"});
        if let Some(lifecycle) = own.get("lifecycle") {
            container["lifecycle"] = lifecycle.clone();
        }
        let image = ImageConfig {
            stop_signal: of_image.map(str::to_owned),
            ..image()
        };
        let spec = json!({"containers": [container], "terminationGracePeriodSeconds": grace});
        let plan = plan(spec, &image).expect("plan");
        let (signal, grace_seconds) = expect;
        let expect = Shutdown {
            signal,
            grace_seconds,
        };
        assert_eq!(plan.shutdown, expect, "{grace} {own} {of_image:?}");
    }
}

#[test]
fn the_user_comes_from_the_container_then_the_pod_then_the_image() {
    for (pod_sc, sc, expect) in [
        (json!({}), json!({}), "1000:2000"),
        (json!({"runAsUser": 5}), json!({}), "5"),
        (
            json!({"runAsUser": 5, "runAsGroup": 6}),
            json!({"runAsUser": 7}),
            "7:6",
        ),
        (json!({"runAsGroup": 6}), json!({}), "1000:6"),
    ] {
        let plan = plan(
            json!({"securityContext": pod_sc, "containers": [{"name": "c", "securityContext": sc}]}),
            &image(),
        )
        .expect("plan");
        assert_eq!(plan.user.user, expect);
    }
}

#[test]
fn run_as_non_root_is_enforced_before_the_start() {
    let spec = json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c"}]});
    let allowed = plan(spec.clone(), &image()).expect("a number that is not 0");
    // The runtime looks again, because a name in the image may stand for 0.
    assert_eq!(allowed.user.root, RootUser::Refused);
    let with_user = |user: &str| ImageConfig {
        user: user.into(),
        ..image()
    };
    let root = plan(spec.clone(), &with_user("")).expect_err("root");
    assert!(
        root.to_string()
            .contains("image will run as root (pod: \"p_ns(u)\""),
        "{root}"
    );
    let named = plan(spec, &with_user("web")).expect_err("named");
    assert!(
        named.to_string().contains("non-numeric user (web)"),
        "{named}"
    );
}

#[test]
fn groups_of_volumes_and_supplements_are_joined() {
    let plan = plan(
        json!({"securityContext": {"fsGroup": 9, "supplementalGroups": [4, 9]},
               "containers": [{"name": "c"}]}),
        &image(),
    )
    .expect("plan");
    assert_eq!(plan.user.additional_gids, [4, 9]);
}

#[test]
fn security_settings_reach_the_plan() {
    let plan = plan(
        json!({"containers": [{"name": "c", "terminationMessagePath": "/x", "securityContext": {
            "privileged": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["cap_net_admin"], "drop": ["ALL"]}}}]}),
        &image(),
    )
    .expect("plan");
    assert_eq!(plan.privilege, Privilege::Privileged);
    assert_eq!(plan.rootfs, Access::ReadOnly);
    assert_eq!(plan.escalation, Escalation::Forbidden);
    assert_eq!(plan.capabilities_add, ["NET_ADMIN"]);
    assert_eq!(plan.capabilities_drop, ["ALL"]);
    assert_eq!(plan.termination_message_path.as_deref(), Some("/x"));
}
