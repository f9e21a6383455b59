// SPDX-License-Identifier: Apache-2.0
//! Programs that cannot start say what is in their way and what to do, and end with 1 instead of trying for ever.

use knarr_tests::hosts::{self, CONTROL};
use knarr_tests::{Kubectl, faults};

/// The last line of a program that has to end by itself with a failure.
fn refusal(host: &str, args: &[&str]) -> String {
    let mut all = vec!["timeout", "30"];
    all.extend_from_slice(args);
    let outcome = hosts::run(host, &all);
    let said = outcome.stdout + &outcome.stderr;
    assert_eq!(outcome.code, Some(1), "{}: {said}", args.join(" "));
    said.trim_end()
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_second_control_plane_is_told_what_is_in_its_way() {
    let taken = format!("{}:6443", hosts::address(CONTROL));
    // Name, content and time of every file of the running one but its store.
    let files = || {
        let script = "cd /var/lib/knarr-control && find . -type f ! -name 'store*' -exec sh -c 'stat -c %n:%Y $1; sha256sum < $1' - {} ';'";
        hosts::ok(CONTROL, &["sh", "-c", script])
    };
    let before = files();
    assert!(before.contains("admin.kubeconfig"), "{before}");
    let port = refusal(
        CONTROL,
        &[
            "knarr-control",
            "serve",
            "--data-dir",
            "/run/knarr/second",
            "--listen",
            &taken,
        ],
    );
    assert_eq!(
        port,
        format!(
            "knarr-control: cannot listen on {taken}: the port is in use by another program; stop it, or choose \
             another port with --listen"
        )
    );
    let data = refusal(
        CONTROL,
        &[
            "knarr-control",
            "serve",
            "--data-dir",
            "/var/lib/knarr-control",
            "--listen",
            "127.0.0.1:7443",
        ],
    );
    assert!(
        data.contains("is in use by another process: stop the other knarr-control, or give this one its own --data-dir"),
        "{data}"
    );
    assert_eq!(
        files(),
        before,
        "a control plane that did not start has changed files of the one that runs"
    );
    // The first one does not notice.
    Kubectl::new("default").ok(&["get", "--raw", "/readyz"]);
    faults::all_ready();
}

#[test]
fn a_second_agent_and_one_without_root_are_told_what_to_do() {
    let server = format!("https://{}:6443", hosts::address(CONTROL));
    let run = [
        "knarr-agent",
        "run",
        "--server",
        &server,
        "--node-name",
        "node-1",
        "--uplink",
        "eth0",
    ];
    let second = refusal("node-1", &run);
    assert!(
        second.trim_end().ends_with("another agent uses /var/lib/knarr; stop it, or give this one its own --data-dir and --run-dir"),
        "{second}"
    );
    // The user nobody may not read a checkout, so the program is put where every user can.
    let shared = "/dev/shm/knarr-agent";
    let copy = format!("install -m 755 \"$(command -v knarr-agent)\" {shared}");
    hosts::ok("node-1", &["sh", "-c", &copy]);
    let mut nobody = vec![
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    nobody.push(shared);
    nobody.extend_from_slice(&run[1..]);
    let root = refusal("node-1", &nobody);
    hosts::ok("node-1", &["rm", shared]);
    assert_eq!(
        root,
        "Error: knarr-agent run needs root: start it with sudo, or as the systemd service knarr-agent"
    );
    faults::all_ready();
}
