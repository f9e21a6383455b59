// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with programs, maps and links, with what the operator can do about it.

use std::io;
use std::path::PathBuf;

/// An error of the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel cannot do what is needed.
    #[error("this kernel has no {feature}; Knarr needs Linux {since} or newer for it")]
    KernelFeature {
        /// What is missing.
        feature: &'static str,
        /// First version that has it.
        since: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Not root, or a container without the capabilities.
    #[error("{what}: not permitted; the agent needs root (CAP_BPF, CAP_NET_ADMIN)")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The pin directory is not on a bpffs.
    #[error("{path} is not on a BPF file system; mount one: mount -t bpf bpf {root}")]
    NoBpfFs {
        /// The directory.
        path: PathBuf,
        /// The root to mount.
        root: PathBuf,
    },
    /// The cgroup root is not a cgroup v2 directory.
    #[error("{path} is not a cgroup v2 directory; name one with --cgroup-root")]
    NoCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// No uplink of this name.
    #[error("there is no link \"{name}\" in this network namespace; name the uplink with --uplink")]
    NoUplink {
        /// Its name.
        name: String,
    },
    /// A pinned map has another shape than this program's.
    #[error(
        "the pinned map {name} is {found}, this version needs {wanted}; stop the agent, remove {path} and start it again"
    )]
    MapShape {
        /// Map name.
        name: String,
        /// Shape found.
        found: String,
        /// Shape wanted.
        wanted: String,
        /// The pin.
        path: PathBuf,
    },
    /// A map is full.
    #[error("the map {map} is full at {max_entries} entries; {flag} makes it larger")]
    MapFull {
        /// Map name.
        map: &'static str,
        /// Its size.
        max_entries: u32,
        /// The agent's flag that sets the size.
        flag: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot {action} the map {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// Map name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The datapath was never set up here.
    #[error("there is no datapath under {path}: the agent has not run on this node")]
    NotPinned {
        /// Where pins would be.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A program could not be loaded.
    #[error("cannot load the program {program}")]
    Load {
        /// Program name.
        program: &'static str,
        /// What aya said, with the verifier's log.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object file could not be loaded.
    #[error("cannot load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// A program could not be attached, pinned or replaced.
    #[error("cannot {action} the program {program}")]
    Attach {
        /// What was tried.
        action: &'static str,
        /// Program name.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file or directory.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Network set-up over netlink.
    #[error("cannot {action} {object}")]
    Network {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The names file is broken.
    #[error("cannot read {path}")]
    Names {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}
