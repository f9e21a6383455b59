// SPDX-License-Identifier: Apache-2.0
//! What is found out about the machine once, at start: name, addresses, uplink, memory, kernel.
//!
//! Not here: what changes while the agent runs (`node`). Refuses to start where something is missing
//! without which no pod could run, and says what to do.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::Path;

use knarr_agent_plan::admission::Allocatable;
use knarr_agent_plan::support::SeLinux;
use knarr_api::quantity::Quantity;
use knarr_runtime::CgroupLayout;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use procfs::Current;

use crate::config::{ConfigError, RunOptions, Server};

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Name of the Node object.
    pub node_name: String,
    /// The host's own name.
    pub hostname: String,
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// Links through which the outside arrives.
    pub uplinks: Vec<String>,
    /// The cgroup trees and this node's place in them.
    pub cgroups: CgroupLayout,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Processors.
    pub cpus: i64,
    /// Kernel release, e.g. `6.1.0-18-amd64`.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// /etc/machine-id.
    pub machine_id: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// Identifies the hardware.
    pub system_uuid: String,
    /// CPU kept from pods, in thousandths.
    pub reserved_cpu_milli: i64,
    /// Memory kept from pods, in bytes.
    pub reserved_memory_bytes: i64,
    /// Whether the kernel enforces labels.
    pub se_linux: SeLinux,
}

/// Why this machine cannot be a node.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Not root.
    #[error(
        "knarr-agent run needs root: start it with sudo, or as the systemd service knarr-agent"
    )]
    NotRoot,
    /// No usable cgroup tree.
    #[error("pods need a cgroup tree; name the place in it with --cgroup-root")]
    Cgroup(#[from] knarr_runtime::cgroup::CgroupError),
    /// A kernel feature is missing.
    #[error("this kernel lacks {0}, which pods need; use a kernel that is built with it")]
    KernelFeature(&'static str),
    /// The node name cannot be an object's name.
    #[error("the node name {name:?} cannot be used: {why}; give another with --node-name")]
    NodeName {
        /// The name.
        name: String,
        /// The rule.
        why: String,
    },
    /// The address is on no link.
    #[error("no link of this machine has the address {0}; give one of its own with --node-ip")]
    ForeignAddress(Ipv4Addr),
    /// No address could be chosen.
    #[error(
        "this machine has no IPv4 address from which its control plane is reached; wait for its network, or give the node's address with --node-ip"
    )]
    NoAddress,
    /// An option is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel refuses to say something basic.
    #[error("cannot read {what}")]
    Read {
        /// What.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

impl Machine {
    /// What pods may ask for, all together: what there is without what is reserved.
    pub fn allocatable(&self, max_pods: u32) -> Allocatable {
        Allocatable {
            cpu_milli: (self.cpus * 1000 - self.reserved_cpu_milli).max(0),
            memory_bytes: (self.memory_bytes - self.reserved_memory_bytes).max(0),
            pods: max_pods.into(),
        }
    }

    /// The processor's architecture, as Kubernetes names it.
    pub fn architecture() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    /// The labels that are the node's own to say.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let arch = Self::architecture();
        [
            ("kubernetes.io/hostname", self.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Looks at the machine.
    pub fn examine(options: &RunOptions) -> Result<Machine, MachineError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(MachineError::NotRoot);
        }
        for (path, feature) in [
            ("/proc/self/ns/net", "network namespaces (CONFIG_NET_NS)"),
            ("/proc/self/ns/ipc", "IPC namespaces (CONFIG_IPC_NS)"),
            ("/proc/self/ns/uts", "UTS namespaces (CONFIG_UTS_NS)"),
            ("/proc/self/ns/pid", "PID namespaces (CONFIG_PID_NS)"),
            ("/proc/self/ns/cgroup", "cgroup namespaces (CONFIG_CGROUPS)"),
        ] {
            if !Path::new(path).exists() {
                return Err(MachineError::KernelFeature(feature));
            }
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.split_whitespace().any(|word| word == "overlay") && !loads_overlay() {
            return Err(MachineError::KernelFeature("overlayfs (CONFIG_OVERLAY_FS)"));
        }
        let hostname = nix::unistd::gethostname()
            .map_err(|e| MachineError::Read {
                what: "the host name",
                source: e.into(),
            })?
            .to_string_lossy()
            .into_owned();
        let node_name = match &options.node_name {
            Some(name) => name.clone(),
            None => hostname.to_lowercase(),
        };
        let wrong = knarr_api::names::validate_dns_subdomain(&node_name);
        if !wrong.is_empty() {
            return Err(MachineError::NodeName {
                name: node_name,
                why: wrong.join("; "),
            });
        }
        let (node_ip, uplinks) = addresses(options)?;
        let uname = nix::sys::utsname::uname().map_err(|e| MachineError::Read {
            what: "the kernel's release",
            source: e.into(),
        })?;
        let line = |path: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let machine_id = line("/etc/machine-id");
        let mut system_uuid = line("/sys/class/dmi/id/product_uuid");
        if system_uuid.is_empty() {
            system_uuid.clone_from(&machine_id);
        }
        Ok(Machine {
            node_name,
            hostname,
            node_ip,
            uplinks,
            cgroups: CgroupLayout::detect(
                options.cgroup_root.as_deref().unwrap_or(Path::new("/")),
            )?,
            memory_bytes: memory_bytes()?,
            cpus: std::thread::available_parallelism()
                .map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
            kernel: uname.release().to_string_lossy().into_owned(),
            os_image: os_image(),
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            system_uuid,
            reserved_cpu_milli: quantity("reserved-cpu", &options.reserved_cpu)?.milli_value(),
            reserved_memory_bytes: quantity("reserved-memory", &options.reserved_memory)?.value(),
            se_linux: se_linux(Path::new("/sys/fs/selinux")),
        })
    }
}

/// A kernel has SELinux on where its file system is mounted and has something in it (selinux(8)).
fn se_linux(mount: &Path) -> SeLinux {
    if mount.join("enforce").exists() {
        SeLinux::On
    } else {
        SeLinux::Off
    }
}

/// The address that the machine has now in place of `current`, its node's; none while it still has that one, or has no
/// other.
pub fn moved_address(options: &RunOptions, current: Ipv4Addr) -> Option<Ipv4Addr> {
    let kept = getifaddrs().ok()?.any(|a| {
        let address = a.address.as_ref().and_then(|a| a.as_sockaddr_in());
        address.is_some_and(|address| address.ip() == current)
    });
    match (kept, options.node_ip) {
        (false, None) => match options.server().map(|server| source_towards(&server)) {
            Ok(Source::Address(address)) => Some(address),
            _ => None,
        },
        // Who gave an address by --node-ip means that one and waits for it.
        _ => None,
    }
}

/// Overlayfs may be a module that nothing has asked for yet.
fn loads_overlay() -> bool {
    let loaded = std::process::Command::new("modprobe")
        .arg("overlay")
        .status();
    loaded.is_ok_and(|status| status.success())
}

fn quantity(option: &'static str, text: &Option<String>) -> Result<Quantity, MachineError> {
    let Some(text) = text else {
        return Ok(Quantity::ZERO);
    };
    let wrong = |what: String| ConfigError::Value {
        option,
        value: text.clone(),
        what,
    };
    let quantity: Quantity = text
        .parse()
        .map_err(|e| wrong(format!("is no quantity: {e}")))?;
    if quantity.is_negative() {
        Err(wrong("is below zero".to_owned()).into())
    } else {
        Ok(quantity)
    }
}

/// The memory of this machine.
fn memory_bytes() -> Result<i64, MachineError> {
    let memory = procfs::Meminfo::current().map_err(|error| MachineError::Read {
        what: "/proc/meminfo",
        source: std::io::Error::other(error),
    })?;
    Ok(i64::try_from(memory.mem_total).unwrap_or(i64::MAX))
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

/// A link's name and one of its addresses.
struct LinkAddress {
    link: String,
    address: Ipv4Addr,
    kind: LinkKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkKind {
    Loopback,
    Other,
}

fn addresses(options: &RunOptions) -> Result<(Ipv4Addr, Vec<String>), MachineError> {
    let all: Vec<LinkAddress> = getifaddrs()
        .map_err(|e| MachineError::Read {
            what: "the addresses of the links",
            source: e.into(),
        })?
        .filter_map(|a| {
            let address = a.address.as_ref()?.as_sockaddr_in()?.ip();
            let kind = if a.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                LinkKind::Loopback
            } else {
                LinkKind::Other
            };
            Some(LinkAddress {
                link: a.interface_name,
                address,
                kind,
            })
        })
        .collect();
    let on_uplink =
        |a: &&LinkAddress| options.uplink.is_empty() || options.uplink.contains(&a.link);
    let node_ip = match options.node_ip {
        Some(ip) if all.iter().any(|a| a.address == ip) => ip,
        Some(ip) => return Err(MachineError::ForeignAddress(ip)),
        None => {
            let towards = options.server().map(|server| source_towards(&server));
            let outside = |ip: &Ipv4Addr| {
                all.iter()
                    .any(|a| a.address == *ip && a.kind == LinkKind::Other)
            };
            let chosen = match towards {
                Ok(Source::Address(ip)) if outside(&ip) => Some(ip),
                // The network is not there yet. Another link's address, a bridge's for virtual machines say, would be
                // one at which no other node finds this one.
                Ok(Source::NoRoute) => None,
                _ => {
                    let mut others = all.iter().filter(|a| a.kind == LinkKind::Other);
                    others.find(on_uplink).map(|a| a.address)
                }
            };
            chosen.ok_or(MachineError::NoAddress)?
        }
    };
    let uplinks = if options.uplink.is_empty() {
        let of_node = all
            .iter()
            .filter(|a| a.address == node_ip && a.kind == LinkKind::Other);
        of_node.map(|a| a.link.clone()).collect()
    } else {
        options.uplink.clone()
    };
    Ok((node_ip, uplinks))
}

/// From where the control plane is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// From this address of the machine.
    Address(Ipv4Addr),
    /// No link leads there.
    NoRoute,
    /// Its name has no address, or it is on this machine's loopback: that says nothing.
    Unknown,
}

/// The address this machine would use to reach the control plane. Connecting a UDP socket sends nothing.
fn source_towards(server: &Server) -> Source {
    let target = server.authority().to_socket_addrs();
    let Some(target) = target
        .ok()
        .and_then(|mut all| all.find(SocketAddr::is_ipv4))
    else {
        return Source::Unknown;
    };
    let local = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(target).and_then(|()| socket.local_addr()));
    match local {
        Ok(SocketAddr::V4(v4)) if !v4.ip().is_loopback() => Source::Address(*v4.ip()),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable
            ) =>
        {
            Source::NoRoute
        }
        _ => Source::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn se_linux_is_on_where_its_file_system_says_so() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(se_linux(dir.path()), SeLinux::Off, "an empty mount point");
        std::fs::write(dir.path().join("enforce"), "0").expect("writes");
        assert_eq!(se_linux(dir.path()), SeLinux::On);
    }
}
