// SPDX-License-Identifier: Apache-2.0
//! Sandboxes themselves: namespaces, files, many at once.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use knarr_pod::{
    Access, ContainerSpec, IpcMode, Mount, MountSource, NetworkMode, PidMode, Privilege,
    Propagation,
};
use knarr_runtime::RuntimeError;

use crate::harness::{
    exited, mount_restricted, on_host, on_unified_host, outcome, output, run, sandbox, shell,
};

#[test]
fn the_network_namespace_is_new_and_has_loopback_only() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let mut spec = sandbox("a");
        spec.sysctls = vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())];
        let pod = runtime.create_sandbox(spec).await?;
        let inode = |fd: &dyn AsFd| nix::sys::stat::fstat(fd.as_fd()).unwrap().st_ino;
        let own = std::fs::File::open("/proc/self/ns/net")?;
        assert_ne!(inode(&pod.netns()?), inode(&own));
        let script = "ip -o link | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
        let (_, text) = run(&pod, shell("main", script)).await?;
        assert_eq!(text, "1\n0\n");
        pod.destroy().await?;

        let mut spec = sandbox("b");
        spec.network = NetworkMode::Host;
        let pod = runtime.create_sandbox(spec).await?;
        assert_eq!(inode(&pod.netns()?), inode(&own));
        let (_, text) = run(
            &pod,
            shell("main", "ls -l /proc/self/ns/net; ls /sys/class/net"),
        )
        .await?;
        assert!(text.contains(&format!("net:[{}]", inode(&own))), "{text}");
        pod.destroy().await?;

        let mut spec = sandbox("c");
        spec.sysctls = vec![("kernel.panic".into(), "1".into())];
        let refused = runtime.create_sandbox(spec).await.unwrap_err().to_string();
        assert!(refused.contains("kernel.panic"), "{refused}");

        // What a pod shares with the node is not the pod's to set.
        let shmmax = std::fs::read_to_string("/proc/sys/kernel/shmmax")?;
        for name in ["kernel.shmmax", "net.ipv4.ip_unprivileged_port_start"] {
            let mut spec = sandbox("d");
            spec.network = NetworkMode::Host;
            spec.ipc = IpcMode::Host;
            spec.sysctls = vec![(name.into(), "1234567".into())];
            let refused = runtime.create_sandbox(spec).await.unwrap_err().to_string();
            assert!(refused.contains("shares with the node"), "{refused}");
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/shmmax")?, shmmax);
        host.assert_clean().await
    });
}

#[test]
fn a_shared_pid_namespace_is_shared_and_ends_with_the_container() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let mut spec = sandbox("a");
        spec.pid = PidMode::Pod;
        let pod = runtime.create_sandbox(spec).await?;
        pod.start_container(shell("one", "sleep 1001 & sleep 1000"))
            .await?;
        let (_, text) = run(&pod, shell("two", "sleep 0.1; ps")).await?;
        assert!(
            text.contains("/pause") && text.contains("sleep 1000"),
            "{text}"
        );
        pod.signal("one", 0, libc::SIGKILL).await?;
        exited(&pod, "one", 0).await?;
        // The others were sent their signal before the end of the first was told; the kernel takes its time.
        let looks =
            "for n in $(seq 100); do ps | grep -q '[s]leep 100' || break; sleep 0.05; done; ps";
        let (_, text) = run(&pod, shell("three", looks)).await?;
        assert!(!text.contains("sleep 100"), "{text}");
        pod.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn the_hosts_file_can_be_replaced_while_containers_run() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let script = "until grep -q new /etc/hosts; do sleep 0.02; done; cat /etc/hosts";
        pod.start_container(shell("main", script)).await?;
        pod.write_hosts("198.18.0.1\tnew\n").await?;
        exited(&pod, "main", 0).await?;
        assert_eq!(output(&pod, "main", 0)?, "198.18.0.1\tnew\n");
        pod.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn names_that_would_leave_their_place_are_refused() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        for uid in ["", "..", "a/b", "../../etc"] {
            let refused = runtime.create_sandbox(sandbox(uid)).await;
            assert!(matches!(refused, Err(RuntimeError::Refused(_))), "{uid}");
        }
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let twice = runtime.create_sandbox(sandbox("a")).await;
        assert!(matches!(twice, Err(RuntimeError::Refused(_))));
        let refused = pod.start_container(shell("../x", "true")).await;
        assert!(refused.is_err());
        assert!(
            runtime.remove_pod("a").await.is_err(),
            "it still has a sandbox"
        );
        pod.destroy().await?;
        pod.destroy().await?;
        runtime.remove_pod("a").await?;
        assert!(!runtime.pod_dir("a").exists());
        host.assert_clean().await
    });
}

#[test]
fn pods_start_where_no_file_system_of_the_runtime_allows_programs() {
    on_host(|host| async move {
        // The harness gives each test such a state directory; here the data directory is on one too.
        let data = host.dir.join("data");
        mount_restricted(&data)?;
        let refused = std::process::Command::new("cp")
            .args(["/bin/true", data.to_str().unwrap()])
            .status()
            .and_then(|_| std::process::Command::new(data.join("true")).status());
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EACCES));
        let runtime = host.runtime().await?;
        for (uid, pid) in [("a", PidMode::Container), ("b", PidMode::Pod)] {
            let mut spec = sandbox(uid);
            spec.pid = pid;
            let pod = runtime.create_sandbox(spec).await?;
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", pod.pause_pid()))?;
            assert_eq!(comm, "pause\n");
            // Root file systems and /dev are the containers' own mounts, whatever is below them.
            let script = "mknod /null c 1 3 && echo x > /null && cp /bin/busybox /busybox && /busybox echo ran";
            let (code, text) = run(&pod, shell("main", script)).await?;
            assert_eq!((code, text.as_str()), (0, "ran\n"));
            pod.destroy().await?;
        }
        nix::mount::umount2(&data, nix::mount::MntFlags::MNT_DETACH)?;
        host.assert_clean().await
    });
}

#[test]
fn no_container_can_write_to_the_program_that_made_it() {
    on_host(|host| async move {
        let mut config = host.config();
        let original = std::fs::read(&config.shim_exe)?;
        let exe = host.dir.join("knarr-agent");
        std::fs::write(&exe, &original)?;
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755))?;
        config.shim_exe = exe.clone();
        host.runtime().await?;
        let runtime = knarr_runtime::Runtime::open(config).await?;
        let mut spec = sandbox("a");
        spec.pid = PidMode::Host;
        let pod = runtime.create_sandbox(spec).await?;

        let shim = pod.shim_pid();
        let cmdline = std::fs::read_to_string(format!("/proc/{shim}/cmdline"))?;
        assert!(cmdline.starts_with("knarr-agent\0shim\0"), "{cmdline:?}");
        let comm = std::fs::read_to_string(format!("/proc/{shim}/comm"))?;
        assert_eq!(comm, "knarr-shim\n");
        // What a container gets hold of while the program runs, and keeps until nothing runs it any more. The kernel
        // refuses to write to a program that runs, whatever its mount says.
        let held = std::fs::File::open(format!("/proc/{shim}/exe"))?;
        let write = format!(
            "exec 2>&1; mount -o remount,rw,bind /proc/{shim}/exe; echo x > /proc/{shim}/exe; echo end"
        );
        let mut spec = shell("privileged", &write);
        spec.privilege = Privilege::Privileged;
        let (_, text) = run(&pod, spec).await?;
        assert!(text.contains("mount: "), "{text}");
        assert!(text.contains("/exe: "), "{text}");

        // A container that makes the runtime's process execute itself, and a script that does.
        for (name, args) in [
            ("itself", ["/proc/self/exe"].as_slice()),
            (
                "script",
                [
                    "/bin/sh",
                    "-c",
                    "printf '#!/proc/self/exe\\n' > /s; chmod 755 /s; exec /s",
                ]
                .as_slice(),
            ),
        ] {
            let mut spec = shell(name, "");
            spec.args = args.iter().map(|a| (*a).to_owned()).collect();
            if pod.start_container(spec).await.is_ok() {
                exited(&pod, name, 0).await?;
            }
        }
        assert!(std::fs::read(&exe)? == original, "the program was changed");

        // An upgrade takes the file away; pods start from what the running agent is.
        std::fs::remove_file(&exe)?;
        let other = runtime.create_sandbox(sandbox("b")).await?;
        assert_eq!(run(&other, shell("main", "echo ran")).await?.1, "ran\n");
        other.destroy().await?;
        pod.destroy().await?;
        drop(runtime);
        let held = format!("/proc/self/fd/{}", held.as_raw_fd());
        let opened = std::fs::File::options().write(true).open(&held);
        assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EROFS));
        host.assert_clean().await
    });
}

#[test]
fn a_hundred_pods_start_at_once() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let began = Instant::now();
        let mut tasks = Vec::new();
        for n in 0..100 {
            let runtime = runtime.clone();
            tasks.push(tokio::spawn(async move {
                let pod = runtime.create_sandbox(sandbox(&format!("p{n}"))).await?;
                pod.start_container(shell("main", "sleep 1000")).await?;
                anyhow::Ok(pod)
            }));
        }
        let mut pods = Vec::new();
        for task in tasks {
            pods.push(task.await??);
        }
        println!("100 pods run after {:?}", began.elapsed());
        let began = Instant::now();
        for pod in &pods {
            assert!(pod.container("main", 0).unwrap().is_live());
            pod.destroy().await?;
        }
        println!("100 pods are gone after {:?}", began.elapsed());
        host.assert_clean().await
    });
}

#[test]
fn a_pure_cgroup_v2_host_confines_devices_and_kills() {
    on_unified_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let script = "cat /proc/self/cgroup; ls /sys/fs/cgroup | grep -c cgroup.procs
                mknod /tmp/disk b 254 0; head -c 1 /tmp/disk 2>&1
                mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg 2>&1
                head -c 1 /dev/zero | wc -c; echo x > /dev/null && echo null; sleep 1000";
        pod.start_container(shell("main", script)).await?;
        while !output(&pod, "main", 0)?.contains("null\n") {
            tokio::task::yield_now().await;
        }
        let text = output(&pod, "main", 0)?;
        assert!(text.contains("0::/\n1\n"), "{text}");
        assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
        assert!(text.contains("1\nnull\n"), "{text}");
        let dir = runtime.config().cgroup.unified_root();
        assert!(dir.join("kubepods/besteffort/poda/main.0").exists());
        pod.kill("main", 0).await?;
        assert_eq!(outcome(&exited(&pod, "main", 0).await?).0, 137);
        let (code, _) = run(&pod, shell("next", "exit 6")).await?;
        assert_eq!(code, 6);
        pod.destroy().await?;
        host.assert_clean().await
    });
}

fn privileged(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        privilege: Privilege::Privileged,
        ..shell(name, script)
    }
}

#[test]
fn a_privileged_container_of_the_host_sees_the_host() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let mut spec = sandbox("a");
        spec.network = NetworkMode::Host;
        spec.pid = PidMode::Host;
        spec.ipc = IpcMode::Host;
        let pod = runtime.create_sandbox(spec).await?;
        let script =
            "grep -q -s -x knarr-shim /proc/[0-9]*/comm && echo host; ls /dev | grep -c -x kmsg
                grep CapEff /proc/self/status; touch /sys/kernel/x 2>&1
                mount -t tmpfs none /tmp && echo mounted";
        let (_, text) = run(&pod, privileged("main", script)).await?;
        let own = std::fs::read_to_string("/proc/self/status")?;
        let effective = own.lines().find(|l| l.starts_with("CapPrm")).unwrap();
        let effective = effective.replace("CapPrm", "CapEff");
        assert!(text.contains(&effective), "{text}");
        assert!(text.contains("host\n1\n"), "{text}");
        assert!(text.contains("mounted\n"), "{text}");
        assert!(!text.contains("Read-only"), "{text}");
        pod.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn host_pid_shows_the_nodes_processes_and_nothing_that_is_mounted_below_its_proc() {
    on_host(|host| async move {
        use nix::mount::{MsFlags, mount};
        // Stand for binfmt_misc and nfsd, which this kernel may lack.
        for below in ["/proc/sys/fs", "/proc/fs"] {
            mount(
                Some("below"),
                below,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )?;
        }
        let runtime = host.runtime().await?;
        let mut spec = sandbox("a");
        spec.pid = PidMode::Host;
        let pod = runtime.create_sandbox(spec).await?;
        let script = "exec 2>&1; grep -q -s -x knarr-shim /proc/[0-9]*/comm && echo shim
            mount | grep -c below; ls -d /proc/sys/fs/file-max
            for file in /proc/sys/fs/new /proc/fs/new /proc/sys/kernel/panic /proc/sysrq-trigger; do
                (: > $file) && echo $file is writable
            done
            head -c 1 /proc/kcore | wc -c; head -c 1 /proc/keys | wc -c";
        let (_, text) = run(&pod, shell("main", script)).await?;
        assert!(
            text.starts_with("shim\n0\n/proc/sys/fs/file-max\n"),
            "{text}"
        );
        assert!(
            text.contains("/proc/sys/kernel/panic: Read-only file system"),
            "{text}"
        );
        assert!(!text.contains("is writable"), "{text}");
        assert!(text.ends_with("\n0\n0\n"), "{text}");
        pod.destroy().await?;
        for below in ["/proc/sys/fs", "/proc/fs"] {
            nix::mount::umount2(below, nix::mount::MntFlags::MNT_DETACH)?;
        }
        host.assert_clean().await
    });
}

#[test]
fn mounts_propagate_as_they_are_asked_to() {
    on_host(|host| async move {
        use nix::mount::{MsFlags, mount};
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let volume = host.dir.join("volume");
        std::fs::create_dir(&volume)?;
        let none = None::<&str>;
        mount(Some("v"), &volume, Some("tmpfs"), MsFlags::empty(), none)?;
        mount(none, &volume, none, MsFlags::MS_SHARED, none)?;
        for name in ["host", "container", "private"] {
            std::fs::create_dir(volume.join(name))?;
        }
        let with = |mut spec: ContainerSpec, propagation| {
            spec.mounts = vec![Mount {
                source: MountSource::Bind(volume.clone()),
                target: "/v".into(),
                access: Access::ReadWrite,
                propagation,
            }];
            spec
        };
        let wait = "until [ -e /v/host/x ]; do sleep 0.02; done; echo seen";
        pod.start_container(with(shell("slave", wait), Propagation::HostToContainer))
            .await?;
        let once = "sleep 0.3; ls /v/host";
        pod.start_container(with(shell("private", once), Propagation::Private))
            .await?;
        let inner = "mount -t tmpfs c /v/container && touch /v/container/y";
        let both = with(privileged("both", inner), Propagation::Bidirectional);
        let (code, text) = run(&pod, both).await?;
        assert_eq!(code, 0, "{text}");
        assert!(volume.join("container/y").exists());
        mount(
            Some("h"),
            &volume.join("host"),
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )?;
        std::fs::write(volume.join("host/x"), "")?;
        exited(&pod, "slave", 0).await?;
        assert_eq!(output(&pod, "slave", 0)?, "seen\n");
        exited(&pod, "private", 0).await?;
        assert_eq!(output(&pod, "private", 0)?, "");
        pod.destroy().await?;
        knarr_runtime::volume::remove(&volume)?;
        host.assert_clean().await
    });
}
