// SPDX-License-Identifier: Apache-2.0
//! What ids stand for, for people: a file of JSON lines that the agent appends to as ids come and go.
//! Traffic never needs it; `knarr-agent service` reads it and shows bare ids without it.
//!
//! ```text
//! {"service":{"id":1,"namespace":"default","name":"web","port":"http"}}
//! {"backend":{"id":7,"pod":"default/web-0","node":"node-1"}}
//! {"serviceGone":1}
//! ```
//!
//! The last line about an id counts. A starting agent writes a new file, as its first plan names
//! everything; a file with more dead lines than live ones is written again. Names that could not be
//! written (a full disk) are kept and written with the next ones.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use knarr_ebpf_common::ops::Named;
use serde::{Deserialize, Serialize};

use crate::error::DatapathError;

/// Names that wait to be written at most, before ends are let go: a name whose end is not in the file stays there and
/// does no harm, because ids are not used again, while a disk may be full for days.
const UNWRITTEN_MAX: usize = 65_536;
/// Dead lines are not worth a rewrite below this number.
const DEAD_LINES_MIN: usize = 4_096;

/// Name of the file in the agent's data directory.
pub const FILE_NAME: &str = "service-names.jsonl";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Service(ServiceName),
    Backend(BackendName),
    ServiceGone(u32),
    BackendGone(u32),
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceName {
    id: u32,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; may be empty.
    pub port: String,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendName {
    id: u32,
    /// "namespace/name" of the pod; may be empty.
    pub pod: String,
    /// The node that it runs on; may be empty.
    pub node: String,
}

/// The file as the agent writes it.
#[derive(Debug)]
pub struct NamesFile {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
    dead: usize,
    /// Not in the file yet, oldest first. Bounded by what the maps hold: a name that is gone before it was
    /// written is forgotten with its end.
    unwritten: Vec<Named>,
    end: End,
}

/// Whether names wait from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Yes,
    No,
}

/// How the file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a whole line.
    Line,
    /// Perhaps in the middle of one: a write was cut off.
    Unknown,
}

impl NamesFile {
    /// A new file in place of an old one, which stays readable until the first names are written.
    pub fn create(data_dir: &Path) -> Self {
        Self {
            path: data_dir.join(FILE_NAME),
            file: None,
            lines: 0,
            dead: 0,
            unwritten: Vec::new(),
            end: End::Line,
        }
    }

    /// Whether names wait for another attempt.
    pub fn is_behind(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Appends what a plan said, and what could not be written before. Nothing is flushed to the disk: after
    /// a crash the next agent writes everything again.
    pub fn append(&mut self, names: &[Named]) -> Result<(), DatapathError> {
        let behind = if self.unwritten.is_empty() {
            Behind::No
        } else {
            Behind::Yes
        };
        for name in names {
            self.remember(name, behind);
        }
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.try_append().map_err(|source| DatapathError::File {
            action: "write",
            path: self.path.clone(),
            source,
        })
    }

    /// Notes a name for writing. One that comes and goes while nothing can be written leaves nothing but
    /// its end, which the file may need.
    fn remember(&mut self, name: &Named, behind: Behind) {
        match name {
            // What is named and gone in one plan are different ids.
            _ if behind == Behind::No => {}
            Named::ServiceGone { id } => {
                let gone = *id;
                self.unwritten
                    .retain(|n| !matches!(n, Named::Service { id, .. } if *id == gone));
            }
            Named::BackendGone { id } => {
                let gone = *id;
                self.unwritten
                    .retain(|n| !matches!(n, Named::Backend { id, .. } if *id == gone));
            }
            Named::Service { .. } | Named::Backend { .. } => {}
        }
        let is_end = matches!(name, Named::ServiceGone { .. } | Named::BackendGone { .. });
        if is_end && self.unwritten.len() >= UNWRITTEN_MAX {
            return;
        }
        self.unwritten.push(name.clone());
    }

    fn try_append(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            self.replace(self.unwritten.iter().map(line).collect())?;
            self.written();
            return Ok(());
        };
        let mut text = Vec::new();
        if self.end == End::Unknown {
            // Ends what was cut off; readers pass over a line that is none.
            text.push(b'\n');
        }
        for name in &self.unwritten {
            write_line(&mut text, &line(name))?;
        }
        self.end = End::Unknown;
        file.write_all(&text)?;
        self.end = End::Line;
        self.written();
        if self.dead > DEAD_LINES_MIN && self.dead * 2 > self.lines {
            let known = read_lines(&self.path)?;
            let live: Vec<Line> = known
                .services
                .into_values()
                .map(Line::Service)
                .chain(known.backends.into_values().map(Line::Backend))
                .collect();
            let lines = live.len();
            self.replace(live)?;
            self.lines = lines;
            self.dead = 0;
        }
        Ok(())
    }

    fn written(&mut self) {
        let gone =
            |name: &&Named| matches!(name, Named::ServiceGone { .. } | Named::BackendGone { .. });
        self.lines += self.unwritten.len();
        self.dead += self.unwritten.iter().filter(gone).count() * 2;
        // Not cleared: the room for a burst is not needed again.
        self.unwritten = Vec::new();
    }

    /// Puts a new file in the place of the old one; before that the old one stays as it is.
    fn replace(&mut self, lines: Vec<Line>) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut writer = BufWriter::new(File::create(&fresh)?);
        for line in &lines {
            write_line(&mut writer, line)?;
        }
        writer.flush()?;
        let file = OpenOptions::new().append(true).open(&fresh)?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = Some(file);
        self.end = End::Line;
        Ok(())
    }
}

fn write_line(writer: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, line)?;
    writer.write_all(b"\n")
}

fn line(name: &Named) -> Line {
    match name {
        Named::Service {
            id,
            namespace,
            name,
            port_name,
        } => Line::Service(ServiceName {
            id: *id,
            namespace: namespace.clone(),
            name: name.clone(),
            port: port_name.clone(),
        }),
        Named::Backend { id, pod, node } => Line::Backend(BackendName {
            id: *id,
            pod: pod.clone(),
            node: node.clone(),
        }),
        Named::ServiceGone { id } => Line::ServiceGone(*id),
        Named::BackendGone { id } => Line::BackendGone(*id),
    }
}

/// The file as people's commands read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// By Service id.
    pub services: HashMap<u32, ServiceName>,
    /// By backend id.
    pub backends: HashMap<u32, BackendName>,
}

impl Names {
    /// Reads the file; no file means no names.
    pub fn read(data_dir: &Path) -> Result<Self, DatapathError> {
        let path = data_dir.join(FILE_NAME);
        match read_lines(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            result => result.map_err(|source| DatapathError::File {
                action: "read",
                path,
                source,
            }),
        }
    }
}

fn read_lines(path: &Path) -> io::Result<Names> {
    let mut names = Names::default();
    for text in BufReader::new(File::open(path)?).lines() {
        // The last line may be half written while it is read.
        let Ok(line) = serde_json::from_str(&text?) else {
            continue;
        };
        match line {
            Line::Service(service) => {
                names.services.insert(service.id, service);
            }
            Line::Backend(backend) => {
                names.backends.insert(backend.id, backend);
            }
            Line::ServiceGone(id) => {
                names.services.remove(&id);
            }
            Line::BackendGone(id) => {
                names.backends.remove(&id);
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
