// SPDX-License-Identifier: Apache-2.0
//! Loading: adopts pinned maps, loads this version's programs, and puts them in the place of attached
//! ones without a gap. What was loaded serves on while no agent runs.
//!
//! Attaching is in `attach`, map operations in `apply`. Made once by `knarr-agent`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::programs::{CgroupSock, CgroupSockAddr, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use knarr_ebpf_common::{
    Config, FLOW_LOCAL, MARK_CHUNK, MapContents, MapOp, MarkChunk, Stat, hash, mapped, unmapped,
};
use nix::sys::statfs::{FsType, statfs};

use crate::attach;
use crate::config::{DatapathConfig, MapSizes, ProgramLog};
use crate::contents::{contents, stats};
use crate::error::DatapathError;
use crate::inspect::Inspector;
use crate::map_name::MapName;
use crate::maps::{self, Maps, Places, SharedMaps, Wanted, map_type};
use crate::network::PodNetwork;
use crate::pins::{forget_unfinished, link_dir, pinned_maps};
use crate::sizes::first_size;
use crate::{logs, netns, snat, sys};

/// `BPF_FS_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const BPF_FS: FsType = FsType(0xcafe_4a11);
const CGROUP2_FS: FsType = FsType(0x6367_7270);

/// The loaded, pinned and attached datapath. Blocking calls, each far below a millisecond except `open`.
#[derive(Debug)]
pub struct Datapath {
    pub(crate) maps: SharedMaps,
    pub(crate) cpus: usize,
    pub(crate) ebpf: Ebpf,
    pub(crate) config: DatapathConfig,
    /// Loaded again with larger maps.
    pub(crate) object: Cow<'static, [u8]>,
}

impl Datapath {
    /// Whether `bpf_root` is a BPF file system, which [`Self::open`] needs. Changes nothing, so it can be asked
    /// before anything else is made. (The cgroup root may be made after that.)
    pub fn check_bpf_root(bpf_root: &Path) -> Result<(), DatapathError> {
        if is_on(bpf_root, BPF_FS) {
            return Ok(());
        }
        Err(DatapathError::NoBpfFs {
            path: bpf_root.to_owned(),
            root: bpf_root.to_owned(),
        })
    }

    /// Loads the programs from an object file's bytes, adopts pinned maps, swaps attached programs in
    /// place. Must be called in the node's network namespace.
    pub fn open(
        config: &DatapathConfig,
        object: impl Into<Cow<'static, [u8]>>,
    ) -> Result<Self, DatapathError> {
        let object = object.into();
        check_places(config)?;
        let map_dir = pinned_maps(&config.bpf_root);
        let link_dir = link_dir(&config.bpf_root);
        for directory in [&map_dir, &link_dir] {
            std::fs::create_dir_all(directory).map_err(|source| DatapathError::File {
                action: "make",
                path: directory.clone(),
                source,
            })?;
        }
        check_shapes(&map_dir, &config.sizes)?;
        let cookie = netns::own_cookie()?;
        forget_unfinished(&config.bpf_root);
        let places = Places {
            maps: &map_dir,
            larger: None,
        };
        let mut ebpf = load_object(config, &object, |map| {
            (map_dir.join(map.name.as_str()), first_size(map, config.log))
        })?;
        let maps = Maps::open(places)?;
        let known = maps.config.get(&0)?.unwrap_or_default();
        let snat_ports = snat::choose(
            (known.snat_port_first, known.snat_port_last),
            snat::local_ports(),
            config.node_ports,
        );
        let node = Config {
            node_netns_cookie: cookie,
            node_ip: mapped(config.node_ip.octets()),
            node_port_first: config.node_ports.0,
            node_port_last: config.node_ports.1,
            snat_port_first: snat_ports.0,
            snat_port_last: snat_ports.1,
            cluster_cidr: config
                .cluster_cidr
                .map_or([0; 4], |cidr| cidr.network().octets()),
            cluster_cidr_len: config
                .cluster_cidr
                .map_or(u32::from(u8::MAX), |cidr| u32::from(cidr.prefix_len())),
        };
        maps.config.insert(&0, &node)?;
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| DatapathError::File {
            action: "read",
            path: path.into(),
            source,
        })?;
        load_all(&mut ebpf)?;
        attach_all(&mut ebpf, config, &link_dir, &maps)?;
        let mut datapath = Self {
            maps: SharedMaps::new(maps),
            cpus,
            ebpf,
            config: config.clone(),
            object,
        };
        datapath.fit_to_known();
        datapath.refresh_node_addresses()?;
        Ok(datapath)
    }

    /// Carries out operations in order. A full map is reported after everything else was done; then call
    /// `ServiceTable::resync` with [`Self::restore`] before the next plan.
    pub fn apply(&mut self, ops: &[MapOp]) -> Result<(), DatapathError> {
        self.apply_with_room(ops)
    }

    /// What the maps hold, for `ServiceTable::restore`.
    pub fn restore(&self) -> Result<MapContents, DatapathError> {
        contents(&self.maps.now())
    }

    /// Changes the NodePort range (from the feed's Welcome).
    pub fn set_node_ports(&mut self, first: u16, last: u16) -> Result<(), DatapathError> {
        let mut config = self.config()?;
        config.node_port_first = first;
        config.node_port_last = last;
        self.maps.now().config.insert(&0, &config)
    }

    fn config(&self) -> Result<Config, DatapathError> {
        Ok(self.maps.now().config.get(&0)?.unwrap_or_default())
    }

    /// Reads the addresses of this network namespace again: NodePorts hold on them.
    pub fn refresh_node_addresses(&mut self) -> Result<(), DatapathError> {
        let addresses = nix::ifaddrs::getifaddrs().map_err(|errno| DatapathError::Network {
            action: "read",
            object: "the node's addresses".to_owned(),
            source: errno.into(),
        })?;
        let mut wanted: BTreeSet<[u8; 16]> = addresses
            .filter_map(|interface| interface.address)
            .filter_map(|address| address.as_sockaddr_in().map(|v4| v4.ip()))
            .filter(|address| !address.is_loopback())
            .map(|address| mapped(address.octets()))
            .collect();
        let node_ip = self.config()?.node_ip;
        wanted.insert(node_ip);
        for old in self.maps.now().node_addrs.keys()? {
            if !wanted.remove(&old) {
                self.maps.now().node_addrs.remove(&old)?;
            }
        }
        for address in &wanted {
            self.maps.now().node_addrs.insert(address, &1)?;
        }
        Ok(())
    }

    /// Tells the socket programs whose sockets those of a network namespace are, and lets only packets with the pod's own
    /// address leave its link. Call it again for each pod that a restarted agent adopts, then [`Self::retain_pods`]. Must
    /// be called in the node's network namespace.
    pub fn set_pod(
        &mut self,
        netns: BorrowedFd<'_>,
        network: &PodNetwork,
    ) -> Result<(), DatapathError> {
        let PodNetwork {
            host_ifname,
            pod_ip,
        } = network;
        let cookie = netns::cookie_of(netns)?;
        let maps = self.maps.now();
        maps.pods.insert(&cookie, &mapped(pod_ip.octets()))?;
        let link = nix::net::if_::if_nametoindex(host_ifname.as_str()).map_err(|errno| {
            DatapathError::Network {
                action: "find",
                object: host_ifname.clone(),
                source: errno.into(),
            }
        })?;
        // Before the program asks for it, for it drops what comes from a link that it does not know.
        maps.veths.insert(&link, &packet_word(*pod_ip))?;
        let program = find(&mut self.ebpf, attach::POD_PROGRAM)?;
        attach::packet(
            program,
            attach::POD_PROGRAM,
            TcAttachType::Ingress,
            host_ifname,
            self.config.tc_hook,
            &attach::pod_pin(&link_dir(&self.config.bpf_root), *pod_ip),
        )
    }

    /// Forgets the pod of an address, whose link is gone. To be called before the address may be another pod's.
    pub fn forget_pod(&mut self, pod_ip: Ipv4Addr) -> Result<(), DatapathError> {
        self.forget_pods(|ip| ip != pod_ip)
    }

    /// Forgets pods whose address is not in the list. The list has to be as new as the call: an address
    /// that was given out meanwhile would be forgotten.
    pub fn retain_pods(&mut self, pod_ips: &[Ipv4Addr]) -> Result<(), DatapathError> {
        let keep: BTreeSet<Ipv4Addr> = pod_ips.iter().copied().collect();
        self.forget_pods(|ip| keep.contains(&ip))
    }

    fn forget_pods(&mut self, is_kept: impl Fn(Ipv4Addr) -> bool) -> Result<(), DatapathError> {
        let maps = self.maps.now();
        for (cookie, ip) in maps.pods.entries()? {
            if !is_kept(unmapped(&ip).into()) {
                maps.pods.remove(&cookie)?;
            }
        }
        for (link, ip) in maps.veths.entries()? {
            if !is_kept(ip.to_ne_bytes().into()) {
                maps.veths.remove(&link)?;
            }
        }
        attach::forget_other_pods(is_kept, &link_dir(&self.config.bpf_root));
        Ok(())
    }

    /// Sums of the programs' statistics, by name.
    pub fn stats(&self) -> Result<Vec<(&'static str, u64)>, DatapathError> {
        stats(&self.maps.now(), self.cpus)
    }

    /// A reader of the same maps, for use beside this value: reading needs no turn.
    pub fn inspector(&self) -> Inspector {
        Inspector::new(self.maps.clone(), self.cpus)
    }

    /// Carries the programs' own log lines into `tracing` until dropped; ends at once when the log is off.
    pub async fn forward_logs(&mut self) -> Result<(), DatapathError> {
        match self.config.log {
            ProgramLog::Off => Ok(()),
            ProgramLog::Warn | ProgramLog::Debug => logs::forward(&mut self.ebpf).await,
        }
    }

    /// A task that carries the programs' own log lines into `tracing`, to be spawned beside this value;
    /// `None` when the log is off.
    pub fn log_task(
        &mut self,
    ) -> Result<Option<impl Future<Output = Result<(), DatapathError>> + use<>>, DatapathError>
    {
        match self.config.log {
            ProgramLog::Off => Ok(None),
            ProgramLog::Warn | ProgramLog::Debug => logs::task(&mut self.ebpf).map(Some),
        }
    }
}

/// An address as it stands in packets.
fn packet_word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn is_on(path: &Path, wanted: FsType) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type().0 as u32 == wanted.0 as u32)
}

fn check_places(config: &DatapathConfig) -> Result<(), DatapathError> {
    Datapath::check_bpf_root(&config.bpf_root)?;
    if !is_on(&config.cgroup_root, CGROUP2_FS) {
        return Err(DatapathError::NoCgroup2 {
            path: config.cgroup_root.clone(),
        });
    }
    Ok(())
}

/// Refuses pinned maps of another shape; a size above the asked one is kept and said. Smaller ones grow.
fn check_shapes(map_dir: &Path, sizes: &MapSizes) -> Result<(), DatapathError> {
    for wanted in maps::all(sizes) {
        let path = map_dir.join(wanted.name.as_str());
        let Ok(fd) = sys::object_get(&path) else {
            continue;
        };
        let shape = sys::map_shape(fd.as_fd()).map_err(|source| DatapathError::Map {
            action: "describe",
            map: wanted.name.as_str(),
            source,
        })?;
        let found = (
            shape.map_type,
            shape.key_size as usize,
            shape.value_size as usize,
        );
        let asked = (wanted.map_type, wanted.key_size, wanted.value_size);
        if found != asked {
            let say = |(kind, key, value): (u32, usize, usize)| {
                format!("of type {kind} with keys of {key} and values of {value} bytes")
            };
            return Err(DatapathError::MapShape {
                name: wanted.name.to_string(),
                found: say(found),
                wanted: say(asked),
                path,
            });
        }
        if wanted.name == MapName::Stats && shape.max_entries < Stat::COUNT {
            // An earlier version counted less. What it counted is lost; what it carries goes on.
            attach::drop_pin(&path);
        }
        if let Some(max_entries) = wanted.max_entries
            && wanted.map_type != map_type::LRU_HASH
            && max_entries < shape.max_entries
        {
            tracing::warn!(
                map = wanted.name.as_str(),
                size = shape.max_entries,
                asked = max_entries,
                "the pinned map keeps its size until its pin is removed"
            );
        }
    }
    Ok(())
}

/// Loads maps and programs. `place` says where a map is pinned, and how large it is made where it is not there yet.
pub(crate) fn load_object(
    config: &DatapathConfig,
    object: &[u8],
    place: impl Fn(&Wanted) -> (PathBuf, Option<u32>),
) -> Result<Ebpf, DatapathError> {
    let log_level: u8 = match config.log {
        ProgramLog::Off => 0,
        ProgramLog::Warn => 2,
        ProgramLog::Debug => 4,
    };
    let set_retval = u8::from(attach::kernel_at_least(5, 18));
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", &log_level, true);
    loader.override_global("HAS_SET_RETVAL", &set_retval, true);
    let wanted = maps::all(&config.sizes);
    for map in &wanted {
        let (path, max_entries) = place(map);
        loader.map_pin_path(map.name.as_str(), path);
        if let Some(max_entries) = max_entries {
            loader.map_max_entries(map.name.as_str(), max_entries);
        }
    }
    // A copy of our own is aligned, whatever the caller's bytes are.
    let object = object.to_vec();
    loader
        .load(&object)
        .map_err(|error| match os_error(&error) {
            Some(libc::EPERM) => DatapathError::NotPermitted {
                what: "loading eBPF maps",
                source: std::io::Error::from_raw_os_error(libc::EPERM),
            },
            _ => DatapathError::Object(Box::new(error)),
        })
}

/// The operating system's error number at the root of an error, where there is one.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    knarr_base::error::io_error(error)?.raw_os_error()
}

/// Marks the endpoints that flows lead to already: the programs before these may not have known marks.
fn mark_known(maps: &Maps) -> Result<(), DatapathError> {
    for (_, flow) in maps.nat.entries()? {
        if flow.flags & FLOW_LOCAL == 0 {
            continue;
        }
        let address = u32::from_ne_bytes(unmapped(&flow.backend));
        let (key, index) = hash::mark(address, flow.backend_port_be);
        let mut chunk = maps.marks.get(&key)?.unwrap_or(MarkChunk {
            marks: [0; MARK_CHUNK],
        });
        if chunk.marks[index] == 0 {
            chunk.marks[index] = 1;
            maps.marks.insert(&key, &chunk)?;
        }
    }
    Ok(())
}

/// Gives all programs to the kernel, before any of them takes the place of an attached one.
pub(crate) fn load_all(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let name = attach::RELEASE_PROGRAM;
    let program: &mut CgroupSock = find(ebpf, name)?;
    program.load().map_err(|source| load_error(name, source))?;
    for name in attach::SOCKET_PROGRAMS {
        let program: &mut CgroupSockAddr = find(ebpf, name)?;
        program.load().map_err(|source| load_error(name, source))?;
    }
    let of_uplinks = attach::PACKET_PROGRAMS.map(|(name, _)| name);
    // The last one is attached with each pod.
    for name in of_uplinks.into_iter().chain([attach::POD_PROGRAM]) {
        let program: &mut SchedClassifier = find(ebpf, name)?;
        program.load().map_err(|source| load_error(name, source))?;
    }
    Ok(())
}

/// Attaches loaded programs, in the place of those that are attached.
pub(crate) fn attach_all(
    ebpf: &mut Ebpf,
    config: &DatapathConfig,
    link_dir: &Path,
    maps: &Maps,
) -> Result<(), DatapathError> {
    let cgroup =
        std::fs::File::open(&config.cgroup_root).map_err(|source| DatapathError::File {
            action: "open",
            path: config.cgroup_root.clone(),
            source,
        })?;
    // What a connect writes down is taken out at the socket's end, so whoever does that comes first.
    let name = attach::RELEASE_PROGRAM;
    let program: &mut CgroupSock = find(ebpf, name)?;
    attach::socket(program, name, &cgroup, &config.cgroup_root, link_dir)?;
    for name in attach::SOCKET_PROGRAMS {
        let program: &mut CgroupSockAddr = find(ebpf, name)?;
        attach::socket(program, name, &cgroup, &config.cgroup_root, link_dir)?;
    }
    for (name, direction) in attach::PACKET_PROGRAMS {
        // Whoever enters a flow marks its endpoint by now; whoever answers does not ask yet.
        if direction == TcAttachType::Egress {
            mark_known(maps)?;
        }
        let program: &mut SchedClassifier = find(ebpf, name)?;
        for uplink in &config.uplinks {
            let pin = attach::uplink_pin(link_dir, name, uplink);
            attach::packet(program, name, direction, uplink, config.tc_hook, &pin)?;
        }
    }
    attach::forget_other_uplinks(&config.uplinks, link_dir);
    Ok(())
}

fn find<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| DatapathError::Attach {
            action: "find",
            program: name,
            source: std::io::ErrorKind::NotFound.into(),
        })?
        .try_into()
        .map_err(|source| load_error(name, source))
}

fn load_error(program: &'static str, source: aya::programs::ProgramError) -> DatapathError {
    match os_error(&source) {
        Some(libc::EPERM) => DatapathError::NotPermitted {
            what: "loading eBPF programs",
            source: std::io::Error::from_raw_os_error(libc::EPERM),
        },
        Some(errno) if attach::lacks_hooks(errno, KernelVersion::current().ok()) => {
            attach::hooks_missing(std::io::Error::from_raw_os_error(errno))
        }
        _ => DatapathError::Load {
            program,
            source: Box::new(source),
        },
    }
}
