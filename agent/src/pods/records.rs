// SPDX-License-Identifier: Apache-2.0
//! The file of each pod's record (`knarr_agent_plan::record`), on disk so that restart counts and exit
//! codes survive a reboot. Replaced as a whole; a damaged file counts as none. Everything here blocks.

use std::io;
use std::path::{Path, PathBuf};

use knarr_agent_plan::record::PodRecord;

/// The directory of the records.
pub struct Records {
    dir: PathBuf,
}

/// Why a record could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the record {path}")]
pub struct RecordError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Records {
    /// Opens or makes the directory.
    pub fn open(data_dir: &Path) -> Result<Records, RecordError> {
        let dir = data_dir.join("records");
        crate::files::private_dir(&dir).map_err(|source| RecordError {
            action: "make the directory of",
            path: dir.clone(),
            source,
        })?;
        Ok(Records { dir })
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }

    /// A pod's record, if there is one. Contents that are none count as none; a disk that does not answer is an error,
    /// because the record may well be there.
    pub fn load(&self, uid: &str) -> Result<Option<PodRecord>, RecordError> {
        let path = self.path(uid);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(RecordError {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a pod's record is damaged");
                Ok(None)
            }
        }
    }

    /// Keeps a pod's record.
    pub fn save(&self, uid: &str, record: &PodRecord) -> Result<(), RecordError> {
        let path = self.path(uid);
        let bytes = serde_json::to_vec(record).map_err(io::Error::from);
        bytes
            .and_then(|b| crate::files::replace(&path, &b, crate::files::Durability::Process))
            .map_err(|source| RecordError {
                action: "write",
                path,
                source,
            })
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) -> Result<(), RecordError> {
        let path = self.path(uid);
        crate::files::remove(&path).map_err(|source| RecordError {
            action: "remove",
            path,
            source,
        })
    }

    /// Forgets all pods but these.
    pub fn prune(&self, keep: &[String]) -> Result<(), RecordError> {
        let fail = |source| RecordError {
            action: "list",
            path: self.dir.clone(),
            source,
        };
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let name = name.to_string_lossy();
            let uid = name.trim_end_matches(".new").trim_end_matches(".json");
            if !keep.iter().any(|k| k == uid) {
                let path = self.dir.join(&*name);
                crate::files::remove(&path).map_err(|source| RecordError {
                    action: "remove",
                    path,
                    source,
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_broken_one_counts_as_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        let records = Records::open(dir.path()).expect("opens");
        let record = PodRecord {
            sandboxes: 3,
            ..PodRecord::default()
        };
        records.save("u1", &record).expect("saves");
        assert_eq!(records.load("u1").expect("reads"), Some(record));
        std::fs::write(dir.path().join("records/u2.json"), "{").expect("write");
        assert_eq!(records.load("u2").expect("reads"), None);
        std::fs::create_dir(dir.path().join("records/u3.json")).expect("mkdir");
        let error = records.load("u3").expect_err("it is no file");
        assert!(error.to_string().contains("u3.json"), "{error}");
        std::fs::remove_dir(dir.path().join("records/u3.json")).expect("rmdir");
        records.prune(&["u1".to_owned()]).expect("prunes");
        assert!(!dir.path().join("records/u2.json").exists());
        assert!(records.load("u1").expect("reads").is_some());
    }
}
