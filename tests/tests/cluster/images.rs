// SPDX-License-Identifier: Apache-2.0
//! Images that are not there or broken: each says what to do, and nothing is lost.

use std::time::Duration;

use knarr_tests::hosts::{self, CLIENT};
use knarr_tests::manifests::{self, ECHO};
use knarr_tests::{Cluster, eventually};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// Contents of an archive begin at such a boundary.
const TAR_BLOCK_BYTES: usize = 512;
/// How a file that is packed with gzip begins, and where its time of packing is (RFC 1952).
const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const GZIP_TIME_AT: usize = 4;

fn waiting(cluster: &Cluster, pod: &str, reasons: &[&str]) -> String {
    eventually(
        &format!("{pod} waits with one of {reasons:?}"),
        LIMIT,
        || {
            let state = cluster.kubectl.json(&["get", "pod", pod])["status"]["containerStatuses"]
                [0]["state"]["waiting"]
                .clone();
            let reason = state["reason"].as_str().unwrap_or_default();
            if reasons.contains(&reason) {
                Ok(state["message"].as_str().unwrap_or_default().to_owned())
            } else {
                Err(state.to_string())
            }
        },
    )
}

fn pod_with(name: &str, change: impl Fn(&mut Value)) -> Value {
    let mut pod = manifests::script_pod(name, "node-1", "sleep 600");
    change(&mut pod["spec"]["containers"][0]);
    pod
}

#[test]
fn an_image_that_no_node_has_says_how_to_import_it() {
    let cluster = Cluster::namespace("no-image");
    cluster.kubectl.apply(&pod_with("never", |container| {
        container["image"] = json!("localhost/missing:dev");
        container["imagePullPolicy"] = json!("Never");
    }));
    let message = waiting(&cluster, "never", &["ErrImageNeverPull"]);
    assert!(
        message.contains("localhost/missing:dev") && message.contains("knarr-agent image import"),
        "{message}"
    );

    cluster
        .kubectl
        .apply(&pod_with("if-not-present", |container| {
            container["image"] = json!("localhost/missing:dev");
            container["imagePullPolicy"] = json!("IfNotPresent");
        }));
    let message = waiting(
        &cluster,
        "if-not-present",
        &["ImagePullBackOff", "ErrImagePull"],
    );
    assert!(message.contains("knarr-agent image import"), "{message}");
    let shown = cluster
        .kubectl
        .ok(&["get", "pod", "if-not-present", "--no-headers"]);
    assert!(
        shown.contains("ImagePullBackOff") || shown.contains("ErrImagePull"),
        "kubectl shows the reason as the status: {shown}"
    );
    eventually("an event tells of it", LIMIT, || {
        let text = cluster.kubectl.ok(&["describe", "pod", "if-not-present"]);
        if text.contains("Failed") {
            Ok(())
        } else {
            Err(text)
        }
    });
}

#[test]
fn an_image_that_is_imported_later_starts_the_pod_that_waits_for_it() {
    let cluster = Cluster::namespace("late-image");
    let listed = hosts::ok("node-1", &["knarr-agent", "image", "ls"]);
    assert!(listed.contains("knarr-echo"), "{listed}");
    cluster.kubectl.apply(&pod_with("late", |container| {
        container["image"] = json!("localhost/late:dev")
    }));
    waiting(
        &cluster,
        "late",
        &["ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull"],
    );
    // The same layers under another name: only the two texts in the index change, which no digest covers.
    let images = knarr_tests::lab::target_dir().join("images/knarr-shell.tar");
    let dir = tempfile::tempdir_in(knarr_tests::lab::up_dir()).expect("a folder");
    let unpack = std::process::Command::new("tar")
        .arg("-xf")
        .arg(&images)
        .arg("-C")
        .arg(dir.path())
        .status()
        .expect("tar runs");
    assert!(unpack.success());
    let index = dir.path().join("index.json");
    let text = std::fs::read_to_string(&index)
        .expect("an index")
        .replace("localhost/knarr-shell:dev", "localhost/late:dev");
    std::fs::write(&index, text).expect("it is ours");
    hosts::ok(
        "node-1",
        &[
            "knarr-agent",
            "image",
            "import",
            &dir.path().to_string_lossy(),
        ],
    );
    cluster.kubectl.until(
        "pod/late",
        "/status/phase",
        "Running",
        Duration::from_secs(120),
    );
    hosts::ok(
        "node-1",
        &["knarr-agent", "image", "rm", "localhost/late:dev"],
    );
}

#[test]
fn a_broken_archive_is_refused_and_leaves_the_store_as_it_was() {
    // A store of its own, which knows none of the blobs, on the host that is no node.
    let image = |args: &[&str]| {
        let mut all = vec![
            "knarr-agent",
            "image",
            "--data-dir",
            "/run/knarr/image-test",
        ];
        all.extend_from_slice(args);
        hosts::run(CLIENT, &all)
    };
    let before = image(&["ls"]).stdout;
    let dir = tempfile::tempdir_in(knarr_tests::lab::up_dir()).expect("a folder");
    let good = knarr_tests::lab::target_dir().join("images/knarr-echo.tar");
    let whole = std::fs::read(&good).expect("the image is packed");
    let mut flipped = whole.clone();
    // The layer is nearly all of the archive, so its middle is in there.
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    // The layer's time of packing (RFC 1952, MTIME): it unpacks as before, and only its digest tells.
    let mut altered = whole.clone();
    let gzip = (0..altered.len())
        .step_by(TAR_BLOCK_BYTES)
        .find(|at| altered[*at..].starts_with(&GZIP_MAGIC))
        .expect("a layer packed with gzip");
    altered[gzip + GZIP_TIME_AT] ^= 0xff;
    let middle_of = format!(
        "the archive ends at byte {}, in the middle of entry \"blobs/sha256/",
        whole.len() / 2
    );
    for (name, bytes, wanted) in [
        (
            "text.tar",
            b"this is no archive".to_vec(),
            &["not a tar archive, or damaged after its start"][..],
        ),
        (
            "cut.tar",
            whole[..whole.len() / 2].to_vec(),
            &[middle_of.as_str()][..],
        ),
        // What the unpacker stumbles over depends on the bytes; which layer it is does not.
        (
            "flipped.tar",
            flipped,
            &["layer 1 of 1 (blobs/sha256/", ") is damaged"][..],
        ),
        (
            "altered.tar",
            altered,
            &["blobs/sha256/", " has digest sha256:", ", expected sha256:"][..],
        ),
        ("empty.tar", Vec::new(), &["it is an empty archive"][..]),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("it is ours");
        let outcome = image(&["import", &path.to_string_lossy()]);
        assert!(!outcome.success, "{name} was imported: {}", outcome.stdout);
        assert_eq!(outcome.code, Some(1), "{name}: {}", outcome.stderr);
        let begins = format!("Error: {path:?}: ");
        assert!(
            outcome.stderr.contains(&begins),
            "{name}: `{begins}` is not in: {}",
            outcome.stderr
        );
        for part in wanted.iter().chain(&["; save or copy it again"]) {
            assert!(
                outcome.stderr.contains(part),
                "{name}: `{part}` is not in: {}",
                outcome.stderr
            );
        }
        assert_eq!(image(&["ls"]).stdout, before, "after {name}");
    }
    let missing = image(&["import", "/no/such/file.tar"]);
    assert!(
        !missing.success
            && missing
                .stderr
                .contains("reading \"/no/such/file.tar\": No such file or directory"),
        "{}",
        missing.stderr
    );
    assert_eq!(image(&["ls"]).stdout, before);
    // What was refused does not stand in the way of the whole one.
    let outcome = image(&["import", &good.to_string_lossy()]);
    assert!(outcome.success, "{}", outcome.stderr);
    assert!(image(&["ls"]).stdout.contains("knarr-echo"));
    hosts::ok(CLIENT, &["rm", "-rf", "/run/knarr/image-test"]);
}

#[test]
fn a_command_that_does_not_exist_is_named() {
    let cluster = Cluster::namespace("no-command");
    cluster.kubectl.apply(&pod_with("no-command", |container| {
        container["command"] = json!(["/no/such/program"])
    }));
    let end = "/status/containerStatuses/0/state/terminated";
    cluster.kubectl.until(
        "pod/no-command",
        &format!("{end}/reason"),
        "StartError",
        LIMIT,
    );
    let pod = cluster.kubectl.json(&["get", "pod", "no-command"]);
    let ended = pod.pointer(end).expect("it has just been there");
    assert_eq!(ended["exitCode"], 128, "{ended}");
    let message = ended["message"].as_str().unwrap_or_default();
    assert!(message.contains("/no/such/program"), "{ended}");
    let told = eventually("the events are there", LIMIT, || {
        let events = cluster.kubectl.items(&[
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=no-command",
            "--sort-by",
            "{.metadata.resourceVersion}",
        ]);
        let reasons: Vec<String> = events
            .iter()
            .filter_map(|event| event["reason"].as_str().map(str::to_owned))
            .collect();
        if reasons.iter().any(|reason| reason == "Failed") {
            Ok(reasons)
        } else {
            Err(format!("{reasons:?}"))
        }
    });
    let at = |wanted: &str| told.iter().position(|reason| reason == wanted);
    assert!(
        at("Created").is_some() && at("Created") < at("Failed"),
        "{told:?}"
    );
    assert_eq!(at("Started"), None, "{told:?}");
    // A working pod beside it is not bothered.
    cluster.kubectl.apply(&pod_with("fine", |container| {
        container["image"] = json!(ECHO);
        container
            .as_object_mut()
            .expect("a container")
            .remove("command");
    }));
    cluster
        .kubectl
        .until("pod/fine", "/status/phase", "Running", LIMIT);
}
