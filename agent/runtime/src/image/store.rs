// SPDX-License-Identifier: Apache-2.0
//! The images of a node on disk.
//!
//! ```text
//! DATA/images/layers/ID         an unpacked layer, in overlayfs' own terms; ID: 26 digits of its chain id
//! DATA/images/layers/ID.json    its full chain id and size; written before the directory appears
//! DATA/images/records/HEX.json  an image: id, configuration, layers
//! DATA/images/names.json        reference -> id
//! DATA/images/tmp               being made or removed; emptied when nobody is at work
//! DATA/images/lock              held shared while importing and starting, exclusively while removing
//! DATA/pods/UID/containers/*/image   the image id that a container stands on
//! ```
//!
//! Several processes may use the same directory: the agent, and `knarr-agent image`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_pod::ImageConfig;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Image, ImageError, ImageName, is_digest};
use crate::tree::{self, Durability, write_file};

/// Digits of a chain id in a directory name: 127 of them fit into the one page of mount options.
const LAYER_NAME_LEN: usize = 26;

/// See the module's comment. Cheap to clone; several processes may use the same directory.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: Arc<PathBuf>,
    pods: Arc<PathBuf>,
}

/// A layer that is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub chain_id: String,
    pub size_bytes: u64,
}

impl LayerRecord {
    fn name(&self) -> &str {
        layer_name(&self.chain_id)
    }
}

fn layer_name(chain_id: &str) -> &str {
    let hex = chain_id.strip_prefix("sha256:").unwrap_or(chain_id);
    hex.get(..LAYER_NAME_LEN).unwrap_or(hex)
}

/// An image that is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub config: ImageConfig,
    pub layers: Vec<LayerRecord>,
}

/// A state of the store, for telling whether it changed without reading it.
#[derive(Clone, Copy, Debug)]
pub struct ImagesStamp {
    /// Inode and change of names.json, which is replaced with each change of names; none before the first.
    names: Option<(u64, i64, i64)>,
    /// Change of the records' directory, whose entries are replaced.
    records: (i64, i64),
    /// When it was looked at, in seconds.
    seen_s: i64,
}

/// A change within this time after another may carry the same time stamp (a file system's clock is coarse).
const SETTLED_AFTER_S: i64 = 2;

impl ImagesStamp {
    /// Whether a later change must have another stamp.
    fn is_settled(&self) -> bool {
        let changed = self.names.map_or(0, |(_, s, _)| s).max(self.records.0);
        self.seen_s - changed > SETTLED_AFTER_S
    }

    /// Whether the store is as it was then.
    pub fn is_same(&self, then: &ImagesStamp) -> bool {
        (self.names, self.records) == (then.names, then.records) && then.is_settled()
    }
}

type Names = BTreeMap<ImageName, String>;

/// Keeps images from being removed while it lives.
pub(crate) struct InUse {
    _lock: Flock<File>,
}

impl ImageStore {
    /// Opens or makes `data_dir/images` and removes what interrupted imports left.
    pub fn open(data_dir: &Path) -> Result<ImageStore, ImageError> {
        let store = ImageStore {
            root: Arc::new(data_dir.join("images")),
            pods: Arc::new(data_dir.join("pods")),
        };
        for dir in [store.layers_dir(), store.records_dir(), store.tmp_dir()] {
            std::fs::create_dir_all(&dir).map_err(ImageError::io("making", &dir))?;
        }
        // Layers hold other people's set-user-ID programs.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&*store.root, private)
            .map_err(ImageError::io("protecting", &store.root))?;
        match store
            .lock_file()?
            .pipe(|f| Flock::lock(f, FlockArg::LockExclusiveNonblock))
        {
            Ok(_lock) => store.collect_garbage()?,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {}
            Err((_, e)) => return Err(ImageError::io("locking", &store.root)(e.into())),
        }
        Ok(store)
    }

    /// Looks an image up by reference (as Kubernetes normalises it) or by id (`sha256:...`).
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let names = self.names()?;
        let id = if is_digest(reference) {
            reference.to_owned()
        } else {
            match names.get(&ImageName::parse(reference)?) {
                Some(id) => id.clone(),
                None => return Ok(None),
            }
        };
        let record = self.record(&id)?;
        Ok(record.map(|record| self.image(&names, record)))
    }

    /// The state of the store. Take it before what is to be compared with it later.
    pub fn stamp(&self) -> Result<ImagesStamp, ImageError> {
        use std::os::unix::fs::MetadataExt;
        let seen = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let names = self.root.join("names.json");
        let names = match std::fs::metadata(&names) {
            Ok(stat) => Some((stat.ino(), stat.ctime(), stat.ctime_nsec())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(ImageError::io("reading", &names)(e)),
        };
        let records = self.records_dir();
        let stat = std::fs::metadata(&records).map_err(ImageError::io("reading", &records))?;
        Ok(ImagesStamp {
            names,
            records: (stat.ctime(), stat.ctime_nsec()),
            seen_s: seen.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX)),
        })
    }

    /// All images, sorted by name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let names = self.names()?;
        let mut images: Vec<Image> = self
            .records()?
            .into_iter()
            .map(|record| self.image(&names, record))
            .collect();
        images.sort_by(|a, b| (&a.names, &a.id).cmp(&(&b.names, &b.id)));
        Ok(images)
    }

    /// Removes a reference, and with the last one the image and the layers that no other image needs.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let mut names = self.names()?;
        let not_found = || ImageError::NotFound(reference.to_owned());
        let (id, given) = if is_digest(reference) {
            (reference.to_owned(), None)
        } else {
            let name = ImageName::parse(reference)?;
            (names.get(&name).cloned().ok_or_else(not_found)?, Some(name))
        };
        if self.record(&id)?.is_none() {
            return Err(not_found());
        }
        let others = names
            .iter()
            .any(|(n, i)| *i == id && Some(n) != given.as_ref());
        if (given.is_none() || !others)
            && let Some(user) = self.users()?.remove(&id)
        {
            return Err(ImageError::InUse {
                reference: reference.to_owned(),
                user,
            });
        }
        names.retain(|name, of| *of != id || (given.is_some() && Some(name) != given.as_ref()));
        self.write_names(&names)?;
        self.collect_garbage()
    }

    /// Holds off removal, for the time between looking an image up and noting that a container uses it.
    pub(crate) fn protect(&self) -> Result<InUse, ImageError> {
        let _lock = self.lock(FlockArg::LockShared)?;
        Ok(InUse { _lock })
    }

    /// The directory that relative layer names of a mount refer to.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn records_dir(&self) -> PathBuf {
        self.root.join("records")
    }

    pub(super) fn tmp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn lock_file(&self) -> Result<File, ImageError> {
        let path = self.root.join("lock");
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ImageError::io("opening", &path))
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>, ImageError> {
        Flock::lock(self.lock_file()?, how)
            .map_err(|(_, e)| ImageError::io("locking", &self.root)(e.into()))
    }

    fn image(&self, names: &Names, record: Record) -> Image {
        let layers = self.layers_dir();
        Image {
            names: names
                .iter()
                .filter(|(_, id)| **id == record.id)
                .map(|(name, _)| name.clone())
                .collect(),
            size_bytes: record.layers.iter().map(|l| l.size_bytes).sum(),
            layers: record
                .layers
                .iter()
                .map(|l| layers.join(l.name()))
                .collect(),
            id: record.id,
            config: record.config,
        }
    }

    /// A layer that is completely there.
    pub(super) fn layer(&self, chain_id: &str) -> Option<LayerRecord> {
        let dir = self.layers_dir().join(layer_name(chain_id));
        let record: LayerRecord = read_json(&dir.with_extension("json")).ok().flatten()?;
        (record.chain_id == chain_id && dir.is_dir()).then_some(record)
    }

    /// Takes an unpacked and synced layer over. Another import may have been faster.
    pub(super) fn keep_layer(&self, fs: &Path, record: &LayerRecord) -> Result<(), ImageError> {
        let dir = self.layers_dir().join(record.name());
        write_json(&dir.with_extension("json"), record)?;
        match std::fs::rename(fs, &dir) {
            Ok(()) => {}
            Err(_) if self.layer(&record.chain_id).is_some() => return Ok(()),
            Err(e) => return Err(ImageError::io("keeping", &dir)(e)),
        }
        let layers = self.layers_dir();
        File::open(&layers)
            .and_then(|d| d.sync_all())
            .map_err(ImageError::io("syncing", &layers))
    }

    /// Makes an image known under its names.
    pub(super) fn add(&self, record: &Record, names: &[ImageName]) -> Result<(), ImageError> {
        write_json(&self.record_path(&record.id), record)?;
        // Imports hold the store's lock shared; the list of names is changed by one at a time.
        let path = self.root.join("names.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(ImageError::io("opening", &path))?;
        let _lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, e)| ImageError::io("locking", &path)(e.into()))?;
        let mut all = self.names()?;
        for name in names {
            all.insert(name.clone(), record.id.clone());
        }
        self.write_names(&all)
    }

    fn record_path(&self, id: &str) -> PathBuf {
        let hex = id.strip_prefix("sha256:").unwrap_or(id);
        self.records_dir().join(format!("{hex}.json"))
    }

    fn record(&self, id: &str) -> Result<Option<Record>, ImageError> {
        read_json(&self.record_path(id))
    }

    fn records(&self) -> Result<Vec<Record>, ImageError> {
        let mut found = Vec::new();
        for name in list(&self.records_dir())? {
            if name.extension().is_some_and(|e| e == "json")
                && let Some(record) = read_json(&self.records_dir().join(&name))?
            {
                found.push(record);
            }
        }
        Ok(found)
    }

    fn names(&self) -> Result<Names, ImageError> {
        Ok(read_json(&self.root.join("names.json"))?.unwrap_or_default())
    }

    fn write_names(&self, names: &Names) -> Result<(), ImageError> {
        write_json(&self.root.join("names.json"), names)
    }

    /// Image ids in use, each with one of its users.
    fn users(&self) -> Result<BTreeMap<String, String>, ImageError> {
        let mut users = BTreeMap::new();
        for uid in list(&self.pods)? {
            let containers = self.pods.join(&uid).join("containers");
            for container in list(&containers)? {
                let file = containers.join(&container).join("image");
                if let Ok(id) = std::fs::read_to_string(file) {
                    let user = format!("{}/{}", uid.display(), container.display());
                    users.insert(id.trim().to_owned(), user);
                }
            }
        }
        Ok(users)
    }

    /// Removes images without a name that nobody uses, layers without an image, and what is in `tmp`.
    /// The store has to be locked exclusively.
    fn collect_garbage(&self) -> Result<(), ImageError> {
        let used = self.users()?;
        let named: BTreeSet<String> = self.names()?.into_values().collect();
        let mut needed = BTreeSet::new();
        for record in self.records()? {
            if named.contains(&record.id) || used.contains_key(&record.id) {
                needed.extend(record.layers.iter().map(|l| l.name().to_owned()));
            } else {
                let path = self.record_path(&record.id);
                std::fs::remove_file(&path).map_err(ImageError::io("removing", &path))?;
            }
        }
        let layers = self.layers_dir();
        for name in list(&layers)? {
            let stem = name.file_stem().map(|s| s.to_string_lossy().into_owned());
            if !stem.is_some_and(|stem| needed.contains(&stem)) {
                let path = layers.join(&name);
                tree::remove_tree(&path).map_err(ImageError::io("removing", &path))?;
            }
        }
        for name in list(&self.tmp_dir())? {
            let path = self.tmp_dir().join(&name);
            tree::remove_tree(&path).map_err(ImageError::io("removing", &path))?;
        }
        Ok(())
    }
}

/// Names in a directory; none if it does not exist.
fn list(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(ImageError::io("listing", dir)(e)),
    };
    entries
        .map(|entry| entry.map(|e| PathBuf::from(e.file_name())))
        .collect::<Result<_, _>>()
        .map_err(ImageError::io("listing", dir))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImageError::io("reading", path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| ImageError::invalid(path, e.to_string()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
    let bytes = serde_json::to_vec(value).map_err(|e| ImageError::invalid(path, e.to_string()))?;
    write_file(path, &bytes, Durability::Synced).map_err(|e| {
        super::layer::no_space(&e, "a record", path)
            .unwrap_or_else(|| ImageError::io("writing", path)(e))
    })
}

/// Calls a function with a value, in the order one reads.
trait Pipe: Sized {
    fn pipe<T>(self, f: impl FnOnce(Self) -> T) -> T {
        f(self)
    }
}

impl Pipe for File {}

/// Mounts an overlay whose lower layers are named relative to the layers' directory, topmost first: full
/// paths of many layers would not fit into the kernel's one page of options. Changes the caller's working
/// directory, so the caller must not share it with other threads.
pub(super) fn mount_overlay<'a>(
    store: &ImageStore,
    lower: impl Iterator<Item = &'a LayerRecord>,
    upper: &Path,
    work: &Path,
    target: &Path,
    options: &str,
) -> io::Result<()> {
    let names: Vec<&str> = lower.map(LayerRecord::name).collect();
    overlay(
        &store.layers_dir(),
        &names.join(":"),
        upper,
        work,
        target,
        options,
    )
}

/// See [`mount_overlay`]; `lower` is joined by colons.
pub(crate) fn overlay(
    layers_dir: &Path,
    lower: &str,
    upper: &Path,
    work: &Path,
    target: &Path,
    options: &str,
) -> io::Result<()> {
    let upper_fd = tree::open_dir(upper)?;
    let work_fd = tree::open_dir(work)?;
    nix::unistd::chdir(layers_dir)?;
    let data = format!(
        "lowerdir={lower},upperdir={},workdir={},redirect_dir=off,index=off,metacopy=off{options}",
        tree::fd_path(&upper_fd).display(),
        tree::fd_path(&work_fd).display(),
    );
    mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(data.as_str()),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(names: Option<(u64, i64, i64)>, records: (i64, i64), seen_s: i64) -> ImagesStamp {
        ImagesStamp {
            names,
            records,
            seen_s,
        }
    }

    #[test]
    fn a_store_is_the_same_only_where_a_change_would_have_shown() {
        let then = stamp(Some((1, 100, 5)), (100, 7), 110);
        assert!(stamp(Some((1, 100, 5)), (100, 7), 120).is_same(&then));
        assert!(!stamp(Some((2, 100, 5)), (100, 7), 120).is_same(&then));
        assert!(!stamp(Some((1, 100, 5)), (100, 8), 120).is_same(&then));
        // Looked at right after a change: another change may bear the same time.
        let fresh = stamp(Some((1, 100, 5)), (100, 7), 101);
        assert!(!stamp(Some((1, 100, 5)), (100, 7), 120).is_same(&fresh));
    }

    #[test]
    fn a_new_list_of_names_shows_in_the_stamp() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = ImageStore::open(dir.path()).expect("opens");
        let mut before = store.stamp().expect("stamp");
        // As if it had been looked at long after.
        before.seen_s += 60;
        assert!(store.stamp().expect("stamp").is_same(&before));
        store.write_names(&Names::new()).expect("writes");
        assert!(!store.stamp().expect("stamp").is_same(&before));
    }
}
