// SPDX-License-Identifier: Apache-2.0
//! Importing: both formats, every packing, removals, attacks, damage, a full disk.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Result;
use knarr_runtime::image::Progress;
use knarr_runtime::{ImageError, ImageStore};
use serde_json::json;

use crate::harness::{on_host, run, sandbox, shell};
use crate::image::{self, Entry, Packing, digest, gzip, tar, write_oci};

fn import(store: &ImageStore, path: &Path) -> Result<Vec<String>, ImageError> {
    let names = store.import(path, None, &mut |_| {})?;
    Ok(names.iter().map(ToString::to_string).collect())
}

/// A directory as a tar file.
fn archive(dir: &Path) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", dir)?;
    Ok(builder.into_inner()?)
}

/// Nothing of a failed import is left.
fn assert_no_remains(root: &Path) {
    for dir in ["layers", "records", "tmp"] {
        let left: Vec<_> = std::fs::read_dir(root.join("images").join(dir))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn layouts_and_archives_are_imported_in_every_packing() {
    on_host(|host| async move {
        let store = ImageStore::open(&host.dir.join("data"))?;
        let one = tar(&[Entry::Dir("a/", 0o755), Entry::File("a/one", 0o600, b"1")])?;
        let two = tar(&[Entry::File("a/two", 0o644, b"22")])?;
        let three = tar(&[Entry::File("three", 0o644, b"333")])?;
        let layout = host.dir.join("layout");
        let layers = [
            (one.clone(), Packing::Plain),
            (two, Packing::Gzip),
            (three, Packing::Zstd),
        ];
        write_oci(&layout, "localhost/oci:dev", &layers)?;
        let mut steps = Vec::new();
        store.import(&layout, None, &mut |step| steps.push(step))?;
        assert!(steps.iter().any(|s| matches!(
            s,
            Progress::Layer {
                index: 2,
                count: 3,
                ..
            }
        )));
        let image = store.get("localhost/oci:dev")?.unwrap();
        assert_eq!(image.layers.len(), 3);
        assert_eq!(image.size_bytes, 6);
        assert_eq!(image.config.cmd, ["/bin/sh"]);
        assert_eq!(image.config.user, "web");
        assert_eq!(image.config.exposed_ports, ["8080/tcp"]);
        assert_eq!(store.get(&image.id)?.unwrap(), image);

        // The same as a tar, and as a compressed tar, has nothing new.
        for (name, bytes) in [
            ("l.tar", archive(&layout)?),
            ("l.tgz", gzip(&archive(&layout)?)?),
        ] {
            let path = host.dir.join(name);
            std::fs::write(&path, bytes)?;
            let mut steps = Vec::new();
            store.import(&path, Some("again"), &mut |step| steps.push(step))?;
            assert!(
                !steps.iter().any(|s| matches!(s, Progress::Layer { .. })),
                "{steps:?}"
            );
            assert_eq!(store.get("again")?.unwrap().id, image.id);
        }
        // A docker archive, its second layer a link to the first image's file.
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/e"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&one)]},
        });
        let manifest = json!([{
            "Config": "c.json", "RepoTags": ["docker/x:1", "y"], "Layers": ["b/layer.tar"],
        }]);
        let bytes = tar(&[
            Entry::File("c.json", 0o644, config.to_string().as_bytes()),
            Entry::File("a/layer.tar", 0o644, &one),
            Entry::Symlink("b/layer.tar", "../a/layer.tar"),
            Entry::File("manifest.json", 0o644, manifest.to_string().as_bytes()),
        ])?;
        let path = host.dir.join("docker.tar");
        std::fs::write(&path, bytes)?;
        assert_eq!(
            import(&store, &path)?,
            ["docker.io/docker/x:1", "docker.io/library/y:latest"]
        );
        let docker = store.get("y")?.unwrap();
        assert_eq!(docker.config.entrypoint, ["/e"]);
        assert_eq!(
            docker.layers.first(),
            image.layers.first(),
            "the layer is there once"
        );
        let names: Vec<usize> = store.list()?.iter().map(|i| i.names.len()).collect();
        assert_eq!(names, [2, 2]);

        store.remove("y")?;
        assert!(store.get("y")?.is_none());
        assert!(store.get("docker/x:1")?.is_some());
        store.remove(&image.id)?;
        assert_eq!(store.list()?.len(), 1);
        assert!(image.layers.iter().skip(1).all(|l| !l.exists()));
        store.remove("docker/x:1")?;
        assert!(matches!(
            store.remove("docker/x:1"),
            Err(ImageError::NotFound(_))
        ));
        assert_no_remains(&host.dir.join("data"));
        Ok(())
    });
}

#[test]
fn layers_change_what_is_below_them() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let base = host.dir.join("layout");
        let busybox = std::fs::read("/bin/busybox")?;
        let lower = tar(&[
            Entry::Dir("bin/", 0o755),
            Entry::File("bin/busybox", 0o755, &busybox),
            Entry::Hardlink("bin/sh", "bin/busybox"),
            Entry::Hardlink("bin/ls", "bin/busybox"),
            Entry::Hardlink("bin/cat", "bin/busybox"),
            Entry::Hardlink("bin/stat", "bin/busybox"),
            Entry::Dir("tmp/", 0o1777),
            Entry::Dir("gone/", 0o755),
            Entry::File("gone/x", 0o644, b""),
            Entry::Dir("opaque/", 0o755),
            Entry::File("opaque/old", 0o644, b""),
            Entry::Dir("real/", 0o755),
            Entry::Symlink("link", "real"),
            Entry::File("kept", 0o640, b"kept\n"),
            Entry::File("swap", 0o644, b""),
        ])?;
        let upper = tar(&[
            Entry::File("opaque/new", 0o644, b""),
            Entry::File("opaque/.wh..wh..opq", 0o644, b""),
            Entry::File(".wh.gone", 0o644, b""),
            // Its directory is not in this layer and keeps its mode.
            Entry::File("tmp/new", 0o644, b""),
            // Through a link of the layer below.
            Entry::File("link/through", 0o644, b"through\n"),
            Entry::Hardlink("hard", "kept"),
            Entry::Fifo("fifo"),
            Entry::Char("null", 1, 3),
            Entry::File(".wh.swap", 0o644, b""),
            Entry::Dir("swap/", 0o700),
            Entry::File("swap/in", 0o644, b""),
        ])?;
        let dir = host.dir.join("layered");
        write_oci(
            &dir,
            "localhost/layered:dev",
            &[(lower, Packing::Plain), (upper, Packing::Gzip)],
        )?;
        import(runtime.images(), &dir)?;
        let image = runtime.images().get("localhost/layered:dev")?.unwrap();
        let top = image.layers.last().unwrap();
        let meta = |name: &str| std::fs::symlink_metadata(top.join(name));
        assert!(meta("fifo")?.file_type().is_fifo());
        assert_eq!(meta("null")?.rdev(), nix::sys::stat::makedev(1, 3));
        assert_eq!(meta("tmp")?.mode() & 0o7777, 0o1777);
        assert_eq!(meta("swap")?.mtime(), 1_000_000_000);
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let script = "ls /gone 2>&1; ls /opaque; ls /swap; cat /real/through /hard /kept; stat -c %h /kept; ls -d /link";
        let mut spec = shell("main", script);
        spec.image = "localhost/layered:dev".to_owned();
        let (_, text) = run(&pod, spec).await?;
        assert_eq!(
            text,
            "ls: /gone: No such file or directory\nnew\nin\nthrough\nkept\nkept\n2\n/link\n"
        );
        // A container's image cannot be removed under it.
        let in_use = runtime.images().remove("localhost/layered:dev");
        assert!(
            matches!(in_use, Err(ImageError::InUse { .. })),
            "{in_use:?}"
        );
        pod.remove_container("main", 0).await?;
        runtime.images().remove("localhost/layered:dev")?;
        assert!(!top.exists());
        assert!(base.exists());
        pod.destroy().await?;
        host.assert_clean().await
    });
}

#[test]
fn names_never_leave_the_image() {
    on_host(|host| async move {
        let store = ImageStore::open(&host.dir.join("data"))?;
        let outside = host.dir.join("outside");
        std::fs::create_dir(&outside)?;
        std::fs::write(outside.join("victim"), "untouched")?;
        let target = outside.to_str().unwrap();
        let attempts: Vec<(&str, Vec<Entry<'_>>)> = vec![
            (
                "dotdot",
                vec![Entry::File("../../../../escape", 0o644, b"x")],
            ),
            (
                "link",
                vec![
                    Entry::Symlink("d", target),
                    Entry::File("d/victim", 0o644, b"overwritten"),
                ],
            ),
            (
                "hard",
                vec![
                    Entry::Symlink("d", target),
                    Entry::Hardlink("h", "d/victim"),
                ],
            ),
            (
                "whiteout",
                vec![
                    Entry::Symlink("d", target),
                    Entry::File("d/.wh.victim", 0o644, b""),
                    Entry::File("d/.wh..wh..opq", 0o644, b""),
                ],
            ),
            ("dots", vec![Entry::File(".wh...", 0o644, b"")]),
        ];
        for (name, entries) in attempts {
            let dir = host.dir.join(name);
            write_oci(
                &dir,
                &format!("localhost/{name}:dev"),
                &[(tar(&entries)?, Packing::Plain)],
            )?;
            // Refused or kept inside: both are right, only outside matters.
            let result = import(&store, &dir);
            println!("{name}: {result:?}");
            assert_eq!(std::fs::read(outside.join("victim"))?, b"untouched");
            assert_eq!(std::fs::read_dir(&outside)?.count(), 1);
            assert!(!host.dir.join("escape").exists() && !Path::new("/escape").exists());
        }
        Ok(())
    });
}

#[test]
fn layers_are_not_found_outside_the_store() {
    on_host(|host| async move {
        let store = ImageStore::open(&host.dir.join("data"))?;
        // A record that makes any directory a layer, if it is looked for there.
        let outside = "sha256:../../../outside";
        std::fs::create_dir(host.dir.join("outside"))?;
        let record = json!({"chain_id": outside, "size_bytes": 0});
        std::fs::write(host.dir.join("outside.json"), record.to_string())?;
        for (diff_id, shown) in [
            (outside, outside),
            ("sha256:\u{1b}[31m", "sha256:\\u{1b}[31m"),
            ("", "\"\""),
        ] {
            let config = json!({
                "architecture": "amd64", "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            });
            let manifest = json!([{
                "Config": "c.json", "RepoTags": ["docker/x:1"], "Layers": ["layer.tar"],
            }]);
            let bytes = tar(&[
                Entry::File("c.json", 0o644, config.to_string().as_bytes()),
                Entry::File("layer.tar", 0o644, &tar(&[])?),
                Entry::File("manifest.json", 0o644, manifest.to_string().as_bytes()),
            ])?;
            let path = host.dir.join("docker.tar");
            std::fs::write(&path, bytes)?;
            let error = import(&store, &path).unwrap_err().to_string();
            assert!(
                error.contains("c.json") && error.contains(shown),
                "{error:?}"
            );
            assert!(!error.contains(char::is_control), "{error:?}");
        }
        assert!(store.list()?.is_empty());
        assert_no_remains(&host.dir.join("data"));
        Ok(())
    });
}

#[test]
fn a_deep_tree_of_a_layer_is_hidden_by_the_next() {
    on_host(|host| async move {
        let store = ImageStore::open(&host.dir.join("data"))?;
        // A name in a header has a hundred bytes; the second half of the way leads through a link.
        let half = "d/".repeat(49);
        let rest = format!("l/{}", "d/".repeat(48));
        let lower = tar(&[
            Entry::Dir(&half, 0o755),
            Entry::Symlink("l", &half),
            Entry::Dir(&rest, 0o755),
        ])?;
        let upper = tar(&[Entry::File(".wh.d", 0o644, b"")])?;
        let dir = host.dir.join("deep");
        let layers = [(lower, Packing::Plain), (upper, Packing::Plain)];
        write_oci(&dir, "localhost/deep:dev", &layers)?;
        import(&store, &dir)?;
        let image = store.get("localhost/deep:dev")?.unwrap();
        let [below, above] = image.layers.as_slice() else {
            panic!("{:?}", image.layers);
        };
        assert!(below.join("d/".repeat(97)).is_dir());
        let whiteout = std::fs::symlink_metadata(above.join("d"))?;
        assert!(whiteout.file_type().is_char_device());
        store.remove("localhost/deep:dev")?;
        assert_no_remains(&host.dir.join("data"));
        Ok(())
    });
}

#[test]
fn damage_is_told_with_its_place_and_leaves_nothing() {
    on_host(|host| async move {
        let data = host.dir.join("data");
        let store = ImageStore::open(&data)?;
        let big = vec![7; 300_000];
        let layer = tar(&[
            Entry::File("first", 0o644, b"1"),
            Entry::File("second", 0o644, &big),
        ])?;
        let fail = |path: &Path| -> String {
            // With its causes, as the agent prints it.
            let error = anyhow::Error::from(import(&store, path).unwrap_err());
            let error = format!("{error:#}");
            assert_no_remains(&data);
            println!("{error}");
            error
        };
        let blob = |dir: &Path, bytes: &[u8]| -> PathBuf {
            let digest = digest(bytes);
            dir.join("blobs/sha256")
                .join(digest.trim_start_matches("sha256:"))
        };
        // A layer that ends early, promised so by its digest.
        let dir = host.dir.join("short");
        let short = layer.get(..100_000).unwrap().to_vec();
        write_oci(&dir, "localhost/x:dev", &[(short, Packing::Plain)])?;
        let error = fail(&dir);
        assert!(
            error.contains("layer 1 of 1") && error.contains("second"),
            "{error}"
        );
        // Contents other than promised.
        let dir = host.dir.join("altered");
        write_oci(&dir, "localhost/x:dev", &[(layer.clone(), Packing::Plain)])?;
        let mut altered = layer.clone();
        *altered.get_mut(512).unwrap() = b'!';
        std::fs::write(blob(&dir, &layer), altered)?;
        assert!(fail(&dir).contains("expected sha256:"));
        // A layer whose damaged header says things to the terminal.
        let dir = host.dir.join("loud");
        let mut loud = tar(&[
            Entry::File("first\u{1b}[2J", 0o644, b"1"),
            Entry::File("second", 0o644, b"2"),
        ])?;
        // The checksum's field of the second header: after a header and a block of contents.
        let sum = loud.get_mut(2 * 512 + 148..).unwrap();
        sum.get_mut(..5).unwrap().copy_from_slice(b"\x1b[31m");
        write_oci(&dir, "localhost/x:dev", &[(loud, Packing::Plain)])?;
        let said = fail(&dir);
        assert!(said.contains("damaged or cut short"), "{said}");
        assert!(said.contains("31m") && said.contains("first"), "{said}");
        assert!(!said.contains(char::is_control), "{said:?}");
        // A compressed layer with a hole.
        let dir = host.dir.join("hole");
        write_oci(&dir, "localhost/x:dev", &[(layer.clone(), Packing::Gzip)])?;
        let packed = gzip(&layer)?;
        std::fs::write(blob(&dir, &packed), packed.get(..packed.len() / 2).unwrap())?;
        assert!(fail(&dir).contains("damaged or cut short"));
        // An archive that ends early, one that is none, one for another machine, none at all.
        let dir = host.dir.join("whole");
        write_oci(&dir, "localhost/x:dev", &[(layer.clone(), Packing::Plain)])?;
        let whole = archive(&dir)?;
        let path = host.dir.join("cut.tar");
        std::fs::write(&path, whole.get(..whole.len() / 2).unwrap())?;
        assert!(fail(&path).contains("ends at byte"));
        std::fs::write(&path, "this is no archive, whatever its name says")?;
        assert!(fail(&path).contains("not a tar archive"));
        // What it holds is not thrown at the terminal.
        let noise: Vec<u8> = (0_u32..4096).map(|n| (n * 37 + n / 7) as u8).collect();
        std::fs::write(&path, noise)?;
        let said = fail(&path);
        assert!(said.contains("not a tar archive"), "{said}");
        assert!(!said.contains(char::is_control), "{said:?}");
        assert!(!said.contains(char::REPLACEMENT_CHARACTER), "{said:?}");
        std::fs::remove_file(blob(&dir, &layer))?;
        assert!(fail(&dir).contains("is missing"));
        assert!(fail(&host.dir.join("nothing")).contains("No such file"));
        assert!(fail(&host.dir.join("data")).contains("neither an OCI layout"));
        Ok(())
    });
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    on_host(|host| async move {
        let data = host.dir.join("data");
        std::fs::create_dir(&data)?;
        let small = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &data, Some("tmpfs"), small, Some("size=4m"))?;
        let store = ImageStore::open(&data)?;
        let big = vec![7; 6 << 20];
        let dir = host.dir.join("big");
        let first = tar(&[Entry::File("small", 0o644, b"1")])?;
        let second = tar(&[Entry::File("big", 0o644, &big)])?;
        write_oci(
            &dir,
            "localhost/big:dev",
            &[(first, Packing::Plain), (second, Packing::Gzip)],
        )?;
        let error = import(&store, &dir).unwrap_err();
        assert!(matches!(error, ImageError::NoSpace { .. }), "{error:?}");
        assert!(error.to_string().contains("layer 2 of 2"), "{error}");
        assert!(store.list()?.is_empty());
        assert_eq!(std::fs::read_dir(data.join("images/tmp"))?.count(), 0);
        // The first layer is sound and waits for a retry, until the store is opened again.
        ImageStore::open(&data)?;
        assert_no_remains(&data);
        Ok(())
    });
}

#[test]
fn imports_at_the_same_time_do_not_disturb_each_other() {
    on_host(|host| async move {
        let store = ImageStore::open(&host.dir.join("data"))?;
        let layout = host.dir.join("layout");
        image::write_layout(&layout)?;
        std::thread::scope(|scope| {
            for n in 0..6 {
                let (store, layout) = (&store, &layout);
                scope.spawn(move || {
                    let name = format!("localhost/copy{n}:dev");
                    store.import(layout, Some(&name), &mut |_| {}).unwrap();
                });
            }
        });
        let images = store.list()?;
        assert_eq!(images.len(), 1);
        assert_eq!(images.first().unwrap().names.len(), 6);
        assert_eq!(
            std::fs::read_dir(host.dir.join("data/images/tmp"))?.count(),
            0
        );
        Ok(())
    });
}
