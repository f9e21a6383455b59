// SPDX-License-Identifier: Apache-2.0
//! What the program says on machines that cannot be a node. Needs root; each start ends before the datapath
//! is opened, has a cgroup of its own, and sees what is missing in a mount namespace of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "support/program.rs"]
mod program;

use program::{AGENT, Ended, run};

/// The cgroup v2 tree of the machine that runs the tests.
fn cgroup_tree() -> PathBuf {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.procs").exists() {
        unified.to_owned()
    } else {
        PathBuf::from("/sys/fs/cgroup")
    }
}

/// Where a start may put things, and what is there afterwards.
struct Place {
    dir: tempfile::TempDir,
    cgroup: PathBuf,
}

impl Place {
    fn new() -> Place {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests need root; `cargo xtask test node` runs them"
        );
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let cgroup = cgroup_tree().join(format!("knarr-bad-{}-{serial}", std::process::id()));
        std::fs::create_dir(&cgroup).expect("a cgroup");
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("bpf")).expect("makes");
        Place { dir, cgroup }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the agent in a mount namespace in which `prepare` was run and `bpf` is a BPF file system.
    /// What is pinned there afterwards is printed. `args` come in the place of the usual ones.
    fn start(&self, prepare: &str, args: &[(&str, &str)]) -> Ended {
        let script = format!(
            "set -e\nmount -t bpf bpf \"$BPF\"\n{prepare}\nset +e\n\"$@\"\ncode=$?\n\
             find \"$BPF\" -mindepth 1 -name 'knarr*'\nexit $code\n"
        );
        let own = |name: &str| self.path(name).display().to_string();
        let mut all: BTreeMap<&str, String> = BTreeMap::from([
            ("--server", "https://127.0.0.1:1".to_owned()),
            ("--node-name", "n1".to_owned()),
            ("--node-ip", "127.0.0.1".to_owned()),
            ("--data-dir", own("data")),
            ("--run-dir", own("run")),
            ("--bpf-root", own("bpf")),
            ("--cgroup-root", self.cgroup.display().to_string()),
            ("--health-listen", "off".to_owned()),
        ]);
        all.extend(
            args.iter()
                .map(|(flag, value)| (*flag, (*value).to_owned())),
        );
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .args(["sh", AGENT, "run"])
            .args(all.iter().flat_map(|(flag, value)| [*flag, value.as_str()]))
            .env("BPF", self.path("bpf"))
            .env("DIR", self.dir.path());
        run(&mut command)
    }

    /// That a start failed with this reason, pinned nothing and made no cgroup.
    fn refused(&self, ended: &Ended, reason: &str) {
        assert_eq!(ended.reason(), reason, "{}", ended.stderr);
        assert_eq!(ended.code, Some(1));
        assert_eq!(ended.stdout, "", "pins were left");
        let below = std::fs::read_dir(&self.cgroup).expect("cgroup");
        let made = below.flatten().filter(|e| e.path().is_dir());
        assert_eq!(made.count(), 0, "cgroups were left");
    }

    /// That nothing at all was made.
    fn untouched(&self) {
        assert!(!self.path("data").exists() && !self.path("run").exists());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that fails says why; this is only tidying.
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// Names below a directory.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).expect("lists");
    let names = entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned());
    names.collect()
}

#[test]
fn a_node_name_that_is_no_dns_name_is_refused() {
    let place = Place::new();
    let ended = place.start("", &[("--node-name", "Node_1")]);
    place.refused(
        &ended,
        "Error: the node name \"Node_1\" cannot be used: a lowercase RFC 1123 subdomain must consist of \
         lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
         character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'); give another with \
         --node-name",
    );
    place.untouched();
}

/// Before the network is up a machine may well have the address of a bridge for virtual machines.
#[test]
fn an_address_from_which_the_control_plane_is_not_reached_is_not_the_nodes() {
    let place = Place::new();
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c"])
        .arg(
            "ip link add docker0 type bridge && ip address add 198.18.70.1/24 dev docker0 && \
             ip link set docker0 up && exec \"$@\"",
        )
        .args(["sh", AGENT, "run", "--node-name", "n1"])
        .args(["--server", "https://198.18.80.1:6443", "--health-listen"])
        .args(["off", "--cgroup-root"])
        .arg(&place.cgroup);
    for (flag, name) in [
        ("--data-dir", "data"),
        ("--run-dir", "run"),
        ("--bpf-root", "bpf"),
    ] {
        command.arg(flag).arg(place.path(name));
    }
    let ended = run(&mut command);
    place.refused(
        &ended,
        "Error: this machine has no IPv4 address from which its control plane is reached; wait for its network, or \
         give the node's address with --node-ip",
    );
    place.untouched();
}

#[test]
fn an_address_of_another_machine_is_refused() {
    let place = Place::new();
    let ended = place.start("", &[("--node-ip", "192.0.2.77")]);
    place.refused(
        &ended,
        "Error: no link of this machine has the address 192.0.2.77; give one of its own with --node-ip",
    );
    place.untouched();
}

#[test]
fn a_kernel_without_overlayfs_is_named() {
    let place = Place::new();
    // Nor does anything load it as a module.
    let hide = ": > \"$DIR/filesystems\"\nmount --bind \"$DIR/filesystems\" /proc/filesystems\n\
                mkdir \"$DIR/empty\"\nfor dir in /sbin /usr/sbin; do\n  \
                if [ ! -L $dir ]; then mount --bind \"$DIR/empty\" $dir; fi\ndone";
    let ended = place.start(hide, &[]);
    place.refused(
        &ended,
        "Error: this kernel lacks overlayfs (CONFIG_OVERLAY_FS), which pods need; use a kernel that is \
         built with it",
    );
    place.untouched();
}

#[test]
fn a_machine_without_cgroup_v2_is_told_what_to_mount() {
    let place = Place::new();
    let ended = place.start("mount -t tmpfs none /sys/fs/cgroup", &[]);
    place.refused(
        &ended,
        "Error: pods need a cgroup tree; name the place in it with --cgroup-root: no cgroup v2 tree is \
         mounted at \"/sys/fs/cgroup\" or \"/sys/fs/cgroup\"/unified; Services need one (mount -t \
         cgroup2)",
    );
    place.untouched();
}

#[test]
fn a_missing_bpf_file_system_is_told_before_anything_is_made_or_joined() {
    let place = Place::new();
    let plain = place.path("plain");
    std::fs::create_dir(&plain).expect("makes");
    let plain = plain.display().to_string();
    let ended = place.start("", &[("--bpf-root", &plain)]);
    place.refused(
        &ended,
        &format!("Error: {plain} is not on a BPF file system; mount one: mount -t bpf bpf {plain}"),
    );
    place.untouched();
    assert!(names(Path::new(&plain)).is_empty());
}

#[test]
fn a_health_port_in_use_is_named_with_what_to_do() {
    let place = Place::new();
    let holder = TcpListener::bind("127.0.0.1:0").expect("binds");
    let at = holder.local_addr().expect("address").to_string();
    let ended = place.start("", &[("--health-listen", &at)]);
    place.refused(
        &ended,
        &format!(
            "Error: cannot listen on {at} for /healthz and /metrics; choose another place with \
             --health-listen, or `off`: Address already in use (os error 98)"
        ),
    );
    // Its directories are there, private, and hold nothing but the lock.
    assert_eq!(names(&place.path("data")), ["lock".to_owned()].into());
    assert!(names(&place.path("run")).is_empty());
    let mode = std::fs::metadata(place.path("data"))
        .expect("stat")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o700);
}

#[test]
fn a_full_disk_ends_the_start_with_the_file_and_the_reason() {
    let place = Place::new();
    let data = place.path("data");
    std::fs::create_dir(&data).expect("makes");
    let fill = "mount -t tmpfs -o size=2m none \"$DIR/data\"\n\
                head -c 4m /dev/zero > \"$DIR/data/filler\" 2>/dev/null || true";
    let ended = place.start(fill, &[]);
    place.refused(
        &ended,
        &format!(
            "Error: cannot write the stored state {}: No space left on device (os error 28)",
            data.join("desired/state").display()
        ),
    );
    // The tmpfs went with the namespace.
    assert!(names(&data).is_empty());
}
