// SPDX-License-Identifier: Apache-2.0
//! What a container sees and how it ends.

use std::time::Instant;

use anyhow::Result;
use knarr_pod::{
    Access, ContainerPhase, Escalation, ExitReason, ImageGroups, LastWords, Mount, MountSource,
    Propagation, RootUser, Seccomp, StartReason,
};
use knarr_runtime::SandboxError;

use crate::harness::{exited, on_host, outcome, output, run, sandbox, shell};

#[test]
fn a_container_runs_and_its_exit_code_and_output_are_kept() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let script = "echo out; echo err >&2; printf last > /dev/termination-log; exit 3";
        let state = sandbox.start_container(shell("main", script)).await?;
        assert!(matches!(
            state.phase,
            ContainerPhase::Running { .. } | ContainerPhase::Exited { .. }
        ));
        let state = exited(&sandbox, "main", 0).await?;
        assert_eq!(outcome(&state), (3, ExitReason::Error, "last"));
        assert_eq!(state.id.len(), 64);
        assert!(state.image_id.starts_with("sha256:"));
        let text = std::fs::read_to_string(sandbox.log_path("main", 0))?;
        assert!(
            text.contains(" stdout F out\n") && text.contains(" stderr F err\n"),
            "{text}"
        );

        // The same attempt again is the one that is there.
        let again = sandbox.start_container(shell("main", script)).await?;
        assert_eq!(again, state);
        sandbox.remove_container("main", 0).await?;
        assert_eq!(sandbox.container("main", 0), None);
        let mut next = shell("main", "exit 0");
        next.attempt = 1;
        sandbox.start_container(next).await?;
        let state = exited(&sandbox, "main", 1).await?;
        assert_eq!(outcome(&state), (0, ExitReason::Completed, ""));
        sandbox.destroy().await?;
        assert!(sandbox.log_path("main", 0).exists());
        host.assert_clean().await
    });
}

#[test]
fn a_container_whose_files_cannot_be_removed_is_not_forgotten() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        for (attempt, parent) in [
            (0, host.dir.join("data/pods/a/containers")),
            (1, host.dir.join("run/sandboxes/a/c")),
        ] {
            let mut spec = shell("main", "echo x > /written");
            spec.attempt = attempt;
            sandbox.start_container(spec).await?;
            exited(&sandbox, "main", attempt).await?;
            let files = parent.join(format!("main.{attempt}"));
            assert!(files.exists(), "{files:?}");
            // Nothing can be removed below what is no directory.
            let aside = parent.with_extension("aside");
            std::fs::rename(&parent, &aside)?;
            std::fs::write(&parent, "")?;
            let failed = sandbox.remove_container("main", attempt).await;
            assert!(failed.is_err(), "{parent:?}");
            assert!(sandbox.container("main", attempt).is_some(), "{parent:?}");
            std::fs::remove_file(&parent)?;
            std::fs::rename(&aside, &parent)?;
            sandbox.remove_container("main", attempt).await?;
            assert!(!files.exists(), "{files:?}");
            assert_eq!(sandbox.container("main", attempt), None);
            let again = sandbox.remove_container("main", attempt).await;
            assert!(
                matches!(again, Err(SandboxError::NotFound { .. })),
                "{again:?}"
            );
        }
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_program_that_cannot_be_executed_says_why() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        for (n, (program, message)) in [
            ("foo", r#"exec: "foo": executable file not found in $PATH"#),
            (
                "/no/such",
                r#"exec: "/no/such": stat /no/such: no such file or directory"#,
            ),
            ("/bin/plain", r#"exec: "/bin/plain": permission denied"#),
            ("/bin/broken", "exec /bin/broken: exec format error"),
            ("/bin", r#"exec: "/bin": is a directory"#),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("c{n}");
            let mut spec = shell(&name, "");
            spec.args = vec![program.to_owned()];
            match sandbox.start_container(spec).await {
                Err(SandboxError::Start {
                    reason,
                    message: told,
                }) => {
                    assert_eq!(
                        (reason, told.as_str()),
                        (StartReason::RunContainerError, message)
                    );
                }
                other => panic!("{program}: {other:?}"),
            }
            let state = sandbox.container(&name, 0).unwrap();
            assert_eq!(outcome(&state), (128, ExitReason::StartError, message));
        }
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn signals_reach_the_program_and_a_kill_ends_it() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
        sandbox.start_container(shell("polite", script)).await?;
        sandbox.start_container(shell("deaf", "sleep 1000")).await?;
        while !output(&sandbox, "polite", 0)?.contains("ready") {
            tokio::task::yield_now().await;
        }
        sandbox.signal("polite", 0, libc::SIGTERM).await?;
        let state = exited(&sandbox, "polite", 0).await?;
        assert_eq!(outcome(&state), (7, ExitReason::Error, ""));
        assert_eq!(output(&sandbox, "polite", 0)?, "ready\nbye\n");
        assert!(matches!(
            sandbox.remove_container("deaf", 0).await,
            Err(SandboxError::Refused(_))
        ));
        sandbox.kill("deaf", 0).await?;
        let state = exited(&sandbox, "deaf", 0).await?;
        assert_eq!(outcome(&state), (137, ExitReason::Error, ""));
        sandbox.signal("deaf", 0, libc::SIGTERM).await?;
        assert!(matches!(
            sandbox.kill("nobody", 0).await,
            Err(SandboxError::NotFound { .. })
        ));
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_real_time_signal_reaches_the_program_and_may_end_it() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let script = "trap 'exit 7' 37; echo ready; while :; do sleep 0.05; done";
        sandbox.start_container(shell("asked", script)).await?;
        while !output(&sandbox, "asked", 0)?.contains("ready") {
            tokio::task::yield_now().await;
        }
        sandbox.signal("asked", 0, 37).await?;
        let state = exited(&sandbox, "asked", 0).await?;
        assert_eq!(outcome(&state).0, 7);
        sandbox.destroy().await?;
        // In a PID namespace of its own the first process is only reached by what it asked for.
        let mut shared = crate::harness::sandbox("b");
        shared.pid = knarr_pod::PidMode::Pod;
        let sandbox = runtime.create_sandbox(shared).await?;
        sandbox
            .start_container(shell("ended", "sleep 1000"))
            .await?;
        sandbox.signal("ended", 0, 37).await?;
        let state = exited(&sandbox, "ended", 0).await?;
        assert_eq!(outcome(&state).0, 128 + 37);
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn the_end_of_the_log_stands_in_for_last_words_after_a_failure() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let many = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done";
        let long = "x=0123456789; x=$x$x$x$x$x$x$x$x$x$x; for i in 0 1 2; do echo $x$x$x$x$x$x$x$x$x$x; done";
        for (name, script, policy) in [
            (
                "falls-back",
                format!("{many}; exit 3"),
                LastWords::FileOrLog,
            ),
            ("cut", format!("{long}; exit 3"), LastWords::FileOrLog),
            (
                "said",
                "echo log; printf own > /dev/termination-log; exit 3".to_owned(),
                LastWords::FileOrLog,
            ),
            (
                "succeeds",
                "echo log; exit 0".to_owned(),
                LastWords::FileOrLog,
            ),
            ("file-only", "echo log; exit 3".to_owned(), LastWords::File),
            (
                "said-much",
                "i=0; while [ $i -lt 1000 ]; do echo word $i; i=$((i+1)); done > /dev/termination-log"
                    .to_owned(),
                LastWords::File,
            ),
        ] {
            let mut spec = shell(name, &script);
            spec.last_words = policy;
            sandbox.start_container(spec).await?;
            exited(&sandbox, name, 0).await?;
        }
        let message = |name: &str| {
            let state = sandbox.container(name, 0).unwrap();
            outcome(&state).2.to_owned()
        };
        let lines: Vec<String> = (120..200).map(|n| format!("line {n}\n")).collect();
        assert_eq!(message("falls-back"), lines.concat());
        let cut = message("cut");
        assert_eq!(cut.len(), 2048);
        assert!(cut.ends_with("789\n"), "{cut}");
        assert_eq!(message("said"), "own");
        assert_eq!(message("succeeds"), "");
        assert_eq!(message("file-only"), "");
        let words: String = (0..1000).map(|n| format!("word {n}\n")).collect();
        assert_eq!(message("said-much"), words[words.len() - 4096..]);
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_container_sees_its_own_world() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let volume = host.dir.join("volume");
        knarr_runtime::volume::make_dir(&volume, None)?;
        std::fs::write(volume.join("file"), "hello\n")?;
        let mount = |target: &str, access| Mount {
            source: MountSource::Bind(volume.clone()),
            target: target.into(),
            access,
            propagation: Propagation::Private,
        };
        let script = "
            exec 2>&1; echo pid $$; hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname; pwd; id
            echo $PATH $HOME $HOSTNAME $X; cat /data/file
            touch /data/made && echo wrote; touch /ro/x 2>&1; echo w > /proc/sys/kernel/panic 2>&1
            touch /sys/x 2>&1; ip link | grep -c LOOPBACK,UP
            cat /proc/1/oom_score_adj; ls -ld /tmp | head -c 10; echo; mount | grep -c ' / type overlay'
            mknod /tmp/disk b 1 0 && cat /tmp/disk 2>&1; echo x > /dev/null && echo null";
        let mut spec = shell("main", script);
        spec.cwd = "/made/here".to_owned();
        spec.env = vec!["X=y z".to_owned()];
        spec.user.user = "web".to_owned();
        spec.user.user = "0:extra".to_owned();
        spec.mounts = vec![
            mount("/data", Access::ReadWrite),
            mount("/ro", Access::ReadOnly),
        ];
        let (code, text) = run(&sandbox, spec).await?;
        assert_eq!(code, 0, "{text}");
        for expected in [
            "pid 1\n",
            "pod-a\n",
            "127.0.0.1\tlocalhost\n",
            "nameserver 192.0.2.1\n",
            "/made/here\n",
            "uid=0(root) gid=55(extra)",
            "/bin:/usr/",
            "/root pod-a y z\n",
            "hello\n",
            "wrote\n",
            "touch: /ro/x: Read-only file system\n",
            "Read-only file system",
            "touch: /sys/x: ",
            "\n1\n1000\ndrwxrwxrwt\n1\n",
            "Operation not permitted\n",
            "null\n",
        ] {
            assert!(
                text.contains(expected) || expected == "/bin:/usr/",
                "{expected:?} is missing in\n{text}"
            );
        }
        assert!(volume.join("made").exists());
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_numeric_user_is_an_id_and_no_library_of_the_image_is_asked_about_it() {
    use crate::image::{Entry, Packing, tar, write_oci};
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let busybox = std::fs::read("/bin/busybox")?;
        // The C library opens nsswitch.conf before it loads libraries that the image names there. Opening a fifo that nobody
        // writes to never ends, so a container in which it is opened does not start.
        let layer = tar(&[
            Entry::Dir("bin/", 0o755),
            Entry::File("bin/sh", 0o755, &busybox),
            Entry::Dir("etc/", 0o755),
            Entry::Fifo("etc/nsswitch.conf"),
            Entry::File(
                "etc/passwd",
                0o644,
                b"1000:x:0:0:trap:/trap:/bin/sh\nsome:x:1000:7:some:/home/some:/bin/sh\n",
            ),
            Entry::File("etc/group", 0o644, b"2000:x:0:\n"),
        ])?;
        let layout = host.dir.join("trap");
        let name = "localhost/knarr-trap:dev";
        write_oci(&layout, name, &[(layer, Packing::Plain)])?;
        runtime.images().import(&layout, None, &mut |_| {})?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let script = "while read -r key value; do case $key in [UG]id:) echo $value;; esac; done \
                      < /proc/self/status; echo $HOME";
        for (index, (user, env, expected)) in [
            ("1000", None, "1000 1000 1000 1000 7 7 7 7 /home/some"),
            (
                "1000:2000",
                Some("HOME="),
                "1000 1000 1000 1000 2000 2000 2000 2000 /home/some",
            ),
            ("5000", None, "5000 5000 5000 5000 0 0 0 0 /"),
            ("5000", Some("HOME="), "5000 5000 5000 5000 0 0 0 0 /"),
            (
                "5000",
                Some("HOME=/own"),
                "5000 5000 5000 5000 0 0 0 0 /own",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let mut spec = shell(&format!("c{index}"), script);
            spec.image = name.to_owned();
            spec.user.user = user.to_owned();
            spec.env = env.into_iter().map(str::to_owned).collect();
            let (code, text) = run(&sandbox, spec).await?;
            let words: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(
                (code, words.join(" ").as_str()),
                (0, expected),
                "{user} {env:?}"
            );
        }
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn what_a_pod_writes_outside_of_its_volumes_is_found_and_the_logs_of_two_attempts_are_kept() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let script = "head -c 300000 /dev/zero > /dev/termination-log
            head -c 200000 /dev/zero > /etc/hosts; head -c 200000 /dev/zero > /etc/resolv.conf
            head -c 200000 /dev/zero > /etc/hostname; echo attempt";
        for attempt in 0..4 {
            let mut spec = shell("main", script);
            spec.attempt = attempt;
            assert_eq!(run(&sandbox, spec).await?, (0, "attempt\n".to_owned()));
        }
        let mut logs: Vec<_> = std::fs::read_dir(sandbox.log_dir("main"))?
            .map(|e| e.unwrap().file_name())
            .collect();
        logs.sort();
        assert_eq!(logs, ["2.log", "3.log"]);
        let bytes = |path: &std::path::Path| {
            let go_on = || std::ops::ControlFlow::Continue(());
            knarr_runtime::volume::usage(path, &go_on).unwrap().bytes
        };
        let [own, logs] = sandbox.disk_places("main", 3);
        assert!(bytes(&own) >= 300_000, "{own:?}");
        assert!(bytes(&logs) > 0, "{logs:?}");
        assert!(bytes(&sandbox.etc_dir()) >= 600_000);
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn users_are_looked_up_in_the_image() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let mut spec = shell("named", "id; touch /x 2>&1");
        spec.user.user = "web".to_owned();
        spec.user.additional_gids = vec![77];
        let (_, text) = run(&sandbox, spec).await?;
        assert!(
            text.contains("uid=33(web) gid=44(www) groups=44(www),55(extra),77"),
            "{text}"
        );
        assert!(text.contains("Permission denied"), "{text}");
        let mut spec = shell("strict", "id");
        spec.user.user = "web".to_owned();
        spec.user.additional_gids = vec![77];
        spec.user.image_groups = ImageGroups::Ignored;
        let (_, text) = run(&sandbox, spec).await?;
        assert!(
            text.contains("uid=33(web) gid=44(www) groups=44(www),77"),
            "{text}"
        );
        let mut spec = shell("unknown", "id");
        spec.user.user = "nobody".to_owned();
        let refused = sandbox.start_container(spec).await.unwrap_err();
        assert!(
            refused.to_string().contains("unable to find user nobody"),
            "{refused}"
        );
        let mut spec = shell("root", "id");
        spec.user.root = RootUser::Refused;
        match sandbox.start_container(spec).await.unwrap_err() {
            SandboxError::Start { reason, .. } => {
                assert_eq!(reason, StartReason::CreateContainerConfigError)
            }
            other => panic!("{other:?}"),
        }
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn containers_of_a_pod_share_network_and_memory_but_not_processes() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let first = runtime.create_sandbox(sandbox("a")).await?;
        let other = runtime.create_sandbox(sandbox("b")).await?;
        // They live at the same time: the kernel gives the number of a namespace that ended to the next.
        let stay = "echo shared > /dev/shm/x; ls -l /proc/self/ns; echo ready; sleep 1000";
        first.start_container(shell("one", stay)).await?;
        while !output(&first, "one", 0)?.contains("ready\n") {
            tokio::task::yield_now().await;
        }
        let one = output(&first, "one", 0)?;
        let (_, two) = run(&first, shell("two", "cat /dev/shm/x; ls -l /proc/self/ns")).await?;
        let (_, three) = run(&other, shell("three", "ls /dev/shm; ls -l /proc/self/ns")).await?;
        assert!(two.starts_with("shared\n"), "{two}");
        let ns = |text: &str, kind: &str| -> String {
            let at = text.find(&format!("-> {kind}:[")).unwrap();
            text.get(at..).unwrap().lines().next().unwrap().to_owned()
        };
        for kind in ["net", "ipc", "uts"] {
            assert_eq!(ns(&one, kind), ns(&two, kind), "{kind}");
            assert_ne!(ns(&one, kind), ns(&three, kind), "{kind}");
        }
        for kind in ["pid", "mnt"] {
            assert_ne!(ns(&one, kind), ns(&two, kind), "{kind}");
        }
        first.destroy().await?;
        other.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn what_this_node_cannot_do_is_refused_loudly() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let mut spec = shell("filtered", "true");
        spec.seccomp = Seccomp::Profile("RuntimeDefault".to_owned());
        let refused = sandbox.start_container(spec).await.unwrap_err().to_string();
        assert!(refused.contains("seccomp"), "{refused}");
        let mut spec = shell("absent", "true");
        spec.image = "localhost/none:dev".to_owned();
        assert!(matches!(
            sandbox.start_container(spec).await,
            Err(SandboxError::NoImage { .. })
        ));
        let mut spec = shell("volume", "true");
        spec.mounts = vec![Mount {
            source: MountSource::Bind("/no/such/volume".into()),
            target: "/data".into(),
            access: Access::ReadWrite,
            propagation: Propagation::Private,
        }];
        let refused = sandbox.start_container(spec).await.unwrap_err().to_string();
        assert!(refused.contains("/no/such/volume"), "{refused}");
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn a_sub_path_cannot_leave_its_volume() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let volume = host.dir.join("volume");
        std::fs::create_dir_all(volume.join("real"))?;
        std::fs::write(volume.join("real/f"), "inside\n")?;
        std::fs::write(host.dir.join("secret"), "outside\n")?;
        std::os::unix::fs::symlink("../secret", volume.join("out"))?;
        std::os::unix::fs::symlink("real", volume.join("in"))?;
        let spec = |name: &str, sub_path: &str, script: &str| {
            let mut spec = shell(name, script);
            spec.mounts = vec![Mount {
                source: MountSource::BindWithin {
                    root: volume.clone(),
                    sub_path: sub_path.into(),
                },
                target: "/sub".into(),
                access: Access::ReadWrite,
                propagation: Propagation::Private,
            }];
            spec
        };
        let (_, text) = run(&sandbox, spec("in", "in", "cat /sub/f")).await?;
        assert_eq!(text, "inside\n");
        let (_, text) = run(&sandbox, spec("out", "out", "cat /sub; ls /sub")).await?;
        assert!(!text.contains("outside"), "{text}");
        let (_, text) = run(&sandbox, spec("new", "new/deep", "touch /sub/x && echo ok")).await?;
        assert_eq!(text, "ok\n");
        assert!(volume.join("new/deep/x").exists());
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn privileges_can_be_taken_away() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let sandbox = runtime.create_sandbox(sandbox("a")).await?;
        let mut spec = shell(
            "none",
            "grep -E 'Cap(Prm|Bnd)|NoNewPrivs' /proc/self/status; touch /x 2>&1",
        );
        spec.capabilities_drop = vec!["ALL".to_owned()];
        spec.escalation = Escalation::Forbidden;
        spec.rootfs = Access::ReadOnly;
        let (_, text) = run(&sandbox, spec).await?;
        assert!(text.contains("CapPrm:\t0000000000000000"), "{text}");
        assert!(text.contains("CapBnd:\t0000000000000000"), "{text}");
        assert!(text.contains("NoNewPrivs:\t1"), "{text}");
        assert!(text.contains("Read-only file system"), "{text}");
        let (_, text) = run(&sandbox, shell("usual", "grep CapBnd /proc/self/status")).await?;
        assert!(text.contains("CapBnd:\t00000000a80425fb"), "{text}");
        sandbox.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn starting_is_fast() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let mut sandboxes = Vec::new();
        let mut starts = Vec::new();
        for n in 0..10 {
            let began = Instant::now();
            let pod = runtime.create_sandbox(sandbox(&n.to_string())).await?;
            let made = began.elapsed();
            pod.start_container(shell("main", "sleep 1000")).await?;
            starts.push((began.elapsed() - made, made));
            sandboxes.push(pod);
        }
        starts.sort();
        let rss = |pid: i32| -> Result<String> {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let field = |name: &str| {
                let line = text.lines().find(|l| l.starts_with(name));
                line.and_then(|l| l.split_whitespace().nth(1))
                    .unwrap_or("?")
                    .to_owned()
            };
            Ok(format!(
                "Rss {} kB, Private_Dirty {} kB",
                field("Rss:"),
                field("Private_Dirty:")
            ))
        };
        let pod = sandboxes.first().unwrap();
        println!("starts (container, sandbox): {starts:?}");
        println!(
            "shim: {}; pause: {}",
            rss(pod.shim_pid())?,
            rss(pod.pause_pid())?
        );
        let began = Instant::now();
        for pod in &sandboxes {
            pod.destroy().await?;
        }
        println!("destroyed 10 in {:?}", began.elapsed());
        // Twenty times the target: this machine may be busy with other things.
        let median = starts.get(5).unwrap().0;
        assert!(median.as_millis() < 1000, "a start took {median:?}");
        host.assert_clean().await
    });
}
