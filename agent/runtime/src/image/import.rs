// SPDX-License-Identifier: Apache-2.0
//! Imports the images of one source into the store.
//!
//! Crash-safe by order: a layer is unpacked in `tmp`, synced, renamed; then the image's record; then its
//! names. What an interruption leaves is removed by `store`. Called as `ImageStore::import`.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sha2::{Digest, Sha256};

use super::archive::Files;
use super::layer::{Cause, LayerError, no_space, unpack};
use super::manifest::Configuration;
use super::source::{Blob, Found, Source, check, missing, parse, required};
use super::store::{ImageStore, LayerRecord, Record};
use super::text::{printable, quoted};
use super::{AGAIN, ImageError, ImageName, Progress, is_digest};
use crate::tree;

/// Docker's bound on the layers of an image; the mount options of one page hold as many.
const LAYERS_MAX: usize = 127;

/// Steps of an import that may wait for a slow progress bar.
const PROGRESS_QUEUE: usize = 64;

impl ImageStore {
    /// Imports every image of an OCI layout (directory or tar) or docker archive. Blocking: seconds for a
    /// big image. Images without a name in the archive get `name`, which may also rename a single one.
    pub fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<ImageName>, ImageError> {
        let _lock = self.protect()?;
        // The import mounts overlays in a namespace of its own, so it needs a thread of its own.
        // The caller's thread shows its progress, because a progress bar may not be `Send`.
        let (sender, reports) = std::sync::mpsc::sync_channel(PROGRESS_QUEUE);
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                import(self, path, name, &mut |step| {
                    // The receiver lives until this thread has ended.
                    let _ = sender.send(step);
                })
            });
            for step in reports {
                progress(step);
            }
            worker
                .join()
                .unwrap_or_else(|_| Err(ImageError::invalid(path, "the import panicked")))
        })
    }
}

/// Imports everything in `path`. Has to run in a thread of its own: it leaves its mount namespace.
fn import(
    store: &ImageStore,
    path: &Path,
    name: Option<&str>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<ImageName>, ImageError> {
    // Overlays that are mounted here vanish with the thread, however it ends.
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|e| ImageError::io("leaving the mount namespace for", path)(e.into()))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|e| ImageError::io("making private mounts for", path)(e.into()))?;
    let source = Files::open(path, &store.tmp_dir())?;
    import_from(store, &source, name, progress)
}

/// Imports everything that a source holds.
fn import_from(
    store: &ImageStore,
    source: &dyn Source,
    name: Option<&str>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<ImageName>, ImageError> {
    let mut images = source.images()?;
    if let Some(name) = name {
        let name = ImageName::parse(name)?;
        let targets: Vec<&mut Found> = if images.len() == 1 {
            images.iter_mut().collect()
        } else {
            images.iter_mut().filter(|i| i.names.is_empty()).collect()
        };
        match <[&mut Found; 1]>::try_from(targets) {
            Ok([image]) => image.names = vec![name],
            Err(_) => {
                return Err(ImageError::invalid(
                    source.path(),
                    "it holds several images, so one name does not say which is meant; leave --name out",
                ));
            }
        }
    }
    let mut names = Vec::new();
    for image in images {
        if image.names.is_empty() {
            return Err(ImageError::invalid(
                source.path(),
                "the image has no name in it; give one with --name",
            ));
        }
        let record = import_image(store, source, &image, progress)?;
        store.add(&record, &image.names)?;
        for name in image.names {
            progress(Progress::Image(name.clone()));
            names.push(name);
        }
    }
    Ok(names)
}

fn import_image(
    store: &ImageStore,
    source: &dyn Source,
    image: &Found,
    progress: &mut dyn FnMut(Progress),
) -> Result<Record, ImageError> {
    let (file, promised) = &image.config;
    let bytes = required(source, file)?;
    let digest = Sha256::digest(&bytes);
    if let Some(promised) = promised {
        check(source, file, promised, &digest)?;
    }
    let configuration: Configuration = parse(source, file, &bytes)?;
    let diff_ids = &configuration.rootfs.diff_ids;
    // First of all: layers' directories are found by them.
    if let Some(other) = diff_ids.iter().find(|id| !is_digest(id)) {
        return Err(ImageError::invalid(
            source.path(),
            format!(
                "configuration {}: diff_id {} is not a sha256 digest",
                printable(file),
                quoted(other.as_bytes())
            ),
        ));
    }
    if let Some(why) = configuration.misfit() {
        return Err(ImageError::invalid(source.path(), printable(&why)));
    }
    if diff_ids.len() != image.layers.len() || diff_ids.len() > LAYERS_MAX {
        return Err(ImageError::invalid(
            source.path(),
            format!(
                "{} layers and {} diff_ids; both have to be the same number, at most {LAYERS_MAX}",
                image.layers.len(),
                diff_ids.len()
            ),
        ));
    }
    let mut layers: Vec<LayerRecord> = Vec::new();
    for (index, ((file, promised), diff_id)) in image.layers.iter().zip(diff_ids).enumerate() {
        let chain = chain_id(layers.last().map(|l| l.chain_id.as_str()), diff_id);
        let count = diff_ids.len();
        if let Some(present) = store.layer(&chain) {
            progress(Progress::Present { index, count });
            layers.push(present);
            continue;
        }
        let part = Part {
            index,
            count,
            file,
            promised: promised.as_deref(),
            diff_id,
            chain: &chain,
        };
        let size_bytes = import_layer(store, source, &layers, &part, progress)?;
        layers.push(LayerRecord {
            chain_id: chain,
            size_bytes,
        });
    }
    Ok(Record {
        id: format!("sha256:{}", hex::encode(digest)),
        config: configuration.process(),
        layers,
    })
}

/// Identity of a layer on top of others (OCI image spec, "Layer ChainID").
fn chain_id(below: Option<&str>, diff_id: &str) -> String {
    match below {
        None => diff_id.to_owned(),
        Some(below) => {
            let digest = Sha256::digest(format!("{below} {diff_id}").as_bytes());
            format!("sha256:{}", hex::encode(digest))
        }
    }
}

/// One layer to import.
struct Part<'a> {
    index: usize,
    count: usize,
    file: &'a str,
    promised: Option<&'a str>,
    diff_id: &'a str,
    chain: &'a str,
}

fn import_layer(
    store: &ImageStore,
    source: &dyn Source,
    below: &[LayerRecord],
    part: &Part<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ImageError> {
    let Some(blob) = source.blob(part.file)? else {
        return Err(missing(source, part.file));
    };
    let tmp = tempfile::Builder::new()
        .prefix("layer-")
        .tempdir_in(store.tmp_dir())
        .map_err(ImageError::io("making a directory in", &store.tmp_dir()))?;
    let what = format!(
        "layer {} of {} ({})",
        part.index + 1,
        part.count,
        printable(part.file)
    );
    let result = unpack_blob(
        store,
        source,
        below,
        part,
        blob,
        tmp.path(),
        &what,
        progress,
    )
    .and_then(|size| {
        let record = LayerRecord {
            chain_id: part.chain.to_owned(),
            size_bytes: size,
        };
        store.keep_layer(&tmp.path().join("fs"), &record)?;
        Ok(size)
    });
    // What is left is whiteouts, devices and the overlay's own files; nothing of it is followed.
    let path = tmp.keep();
    tree::remove_tree(&path).map_err(ImageError::io("removing", &path))?;
    match result {
        Err(ImageError::Io {
            source: cause,
            path,
            operation,
        }) => Err(
            no_space(&cause, &what, &store.tmp_dir()).unwrap_or(ImageError::Io {
                operation,
                path,
                source: cause,
            }),
        ),
        result => result,
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "one caller; a struct would only rename them"
)]
fn unpack_blob(
    store: &ImageStore,
    source: &dyn Source,
    below: &[LayerRecord],
    part: &Part<'_>,
    blob: Blob,
    tmp: &Path,
    what: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ImageError> {
    let target = prepare(store, below, tmp)?;
    let root = tree::open_dir(&target).map_err(ImageError::io("opening", &target))?;
    let total_bytes = blob.size;
    let damaged = |e: io::Error| {
        let reason = printable(&e.to_string());
        ImageError::invalid(source.path(), format!("{what} is damaged: {reason}{AGAIN}"))
    };
    let packing = blob.file.packing().map_err(damaged)?;
    let mut packed = Hashing::new(blob.file);
    let packed_state = packed.state.clone();
    let reader = packing.reader(&mut packed).map_err(damaged)?;
    let progress = RefCell::new(progress);
    let reporting = Reporting {
        inner: reader,
        report: |done_bytes| {
            (progress.borrow_mut())(Progress::Layer {
                index: part.index,
                count: part.count,
                done_bytes,
                total_bytes,
            });
        },
        consumed: packed_state.bytes.clone(),
        reported: None,
    };
    let plain = Hashing::new(reporting);
    let plain_state = plain.state.clone();
    let mut plain = plain;
    let unpacked = unpack(&mut plain, &root);
    let describe = |e: LayerError| match e.cause {
        Cause::Write(cause) => {
            no_space(&cause, what, &store.tmp_dir()).unwrap_or_else(|| ImageError::Io {
                operation: "unpacking",
                path: PathBuf::from(format!("{}: {what}, {}", source.path().display(), e.place)),
                source: cause,
            })
        }
        Cause::Read(cause) => ImageError::invalid(
            source.path(),
            format!(
                "{what} is damaged or cut short ({}): {}{AGAIN}",
                e.place,
                printable(&cause.to_string())
            ),
        ),
        Cause::Invalid(why) => {
            ImageError::invalid(source.path(), format!("{what}, {}: {why}", e.place))
        }
    };
    let size = unpacked.map_err(describe)?;
    // The archive's end marker may be followed by padding that belongs to the digests.
    io::copy(&mut plain, &mut io::sink()).map_err(damaged)?;
    drop(plain);
    io::copy(&mut packed, &mut io::sink()).map_err(damaged)?;
    if let Some(promised) = part.promised {
        check(source, part.file, promised, &packed_state.digest())?;
    }
    let contents = format!("contents of {}", part.file);
    check(source, &contents, part.diff_id, &plain_state.digest())?;
    let file = std::fs::File::open(&target).map_err(ImageError::io("opening", &target))?;
    nix::unistd::syncfs(&file).map_err(|e| ImageError::io("syncing", &target)(e.into()))?;
    Ok(size)
}

/// Where the layer is written: `fs` itself, or an overlay of it on the layers below.
fn prepare(store: &ImageStore, below: &[LayerRecord], tmp: &Path) -> Result<PathBuf, ImageError> {
    let make = |name: &str| {
        let dir = tmp.join(name);
        std::fs::create_dir(&dir).map_err(ImageError::io("making", &dir))?;
        Ok::<PathBuf, ImageError>(dir)
    };
    let fs = make("fs")?;
    set_mode(&fs, 0o755)?;
    if below.is_empty() {
        return Ok(fs);
    }
    let (work, merged) = (make("work")?, make("merged")?);
    super::store::mount_overlay(store, below.iter().rev(), &fs, &work, &merged, "")
        .map_err(ImageError::io("mounting an overlay on", &merged))?;
    Ok(merged)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(ImageError::io("setting the mode of", path))
}

#[derive(Clone)]
struct HashState {
    hash: Rc<RefCell<Sha256>>,
    bytes: Rc<Cell<u64>>,
}

impl HashState {
    fn digest(&self) -> Vec<u8> {
        self.hash.borrow().clone().finalize().to_vec()
    }
}

/// Computes the digest of what is read through it.
struct Hashing<R> {
    inner: R,
    state: HashState,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Hashing<R> {
        Hashing {
            inner,
            state: HashState {
                hash: Rc::default(),
                bytes: Rc::default(),
            },
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.state
            .hash
            .borrow_mut()
            .update(buf.get(..n).unwrap_or_default());
        self.state.bytes.set(self.state.bytes.get() + n as u64);
        Ok(n)
    }
}

/// Tells how much of the packed layer was consumed, once per step.
struct Reporting<R, F> {
    inner: R,
    report: F,
    consumed: Rc<Cell<u64>>,
    reported: Option<u64>,
}

/// A progress bar needs no finer steps.
const REPORT_STEP_BYTES: u64 = 1 << 20;

impl<R: Read, F: FnMut(u64)> Read for Reporting<R, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let done = self.consumed.get();
        if n == 0 || self.reported.is_none_or(|r| done >= r + REPORT_STEP_BYTES) {
            (self.report)(done);
            self.reported = Some(done);
        }
        Ok(n)
    }
}
