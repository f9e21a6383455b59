// SPDX-License-Identifier: Apache-2.0
//! Two nodes with pods and a client outside, made of network namespaces around a switch.
//!
//! ```text
//! client 198.18.0.9 --- switch --- node-1 198.18.0.1 (pods 10.244.1.x)
//!                          \------ node-2 198.18.0.2 (pods 10.244.2.x)
//! ```
//!
//! One lab at a time: the process itself moves into a node's cgroup, which is what socket programs see.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use knarr_datapath::{
    Datapath, DatapathConfig, MapOp, MapSizes, Network, NodeRoute, PodNetwork, ProgramLog,
    Strangers, TcHook,
};
use knarr_services::{
    DesiredEndpoint, DesiredPort, DesiredService, ServiceName, ServiceProtocol, ServiceTable,
    TrafficPolicy,
};
use nix::sched::{CloneFlags, setns};
use parking_lot::{Mutex, MutexGuard};

/// Nothing in a lab takes longer than this unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(3);

pub const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const NODE_PORT: u16 = 30_080;

static ONE_LAB: Mutex<()> = Mutex::new(());
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Runs a command and wants it to succeed.
pub fn run(words: &[&str]) -> Result<String> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .with_context(|| format!("cannot run {words:?}"))?;
    ensure!(
        output.status.success(),
        "{words:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `work` on a thread of its own in a network namespace.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = std::fs::File::open(format!("/run/netns/{netns}"))
        .with_context(|| format!("no namespace {netns}"))?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                work()
            })
            .join()
            .unwrap_or_else(|_| bail!("the thread in {netns} panicked"))
    })
}

/// The built programs.
pub fn object() -> Result<Vec<u8>> {
    let path = match std::env::var_os("KNARR_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").context("cargo runs the tests")?)
            .join("../../target/ebpf/knarr-ebpf"),
    };
    std::fs::read(&path).with_context(|| {
        format!(
            "{} is missing: run `cargo xtask build-ebpf` first",
            path.display()
        )
    })
}

/// One node: its namespace, cgroup, pins, datapath and Services.
pub struct Node {
    pub name: String,
    pub netns: String,
    pub ip: Ipv4Addr,
    pub bpf_root: PathBuf,
    pub cgroup: PathBuf,
    pub datapath: Option<Datapath>,
    pub table: ServiceTable,
    pub sizes: MapSizes,
    pub log: ProgramLog,
    pub hook: TcHook,
    clock: Duration,
    pod_netns: Vec<(Ipv4Addr, String)>,
}

impl Node {
    fn new(prefix: &str, number: u8, bpf: &Path, cgroup: &Path) -> Self {
        let name = format!("node-{number}");
        Self {
            netns: format!("{prefix}-n{number}"),
            ip: Ipv4Addr::new(198, 18, 0, number),
            bpf_root: bpf.join(&name),
            cgroup: cgroup.join(&name),
            datapath: None,
            table: ServiceTable::restore(&name, &knarr_datapath::MapContents::default()),
            sizes: MapSizes {
                services: 4_096,
                backends: 4_096,
                tables: 16_384,
                affinity: 4_096,
                flows: 4_096,
                sockets: 4_096,
            },
            log: ProgramLog::Off,
            hook: TcHook::Auto,
            clock: Duration::ZERO,
            pod_netns: Vec::new(),
            name,
        }
    }

    fn config(&self) -> DatapathConfig {
        DatapathConfig {
            bpf_root: self.bpf_root.clone(),
            cgroup_root: self.cgroup.clone(),
            uplinks: vec!["eth0".to_owned()],
            node_ip: self.ip,
            cluster_cidr: Some("10.244.0.0/16".parse().expect("a range")),
            node_ports: (30_000, 32_767),
            sizes: self.sizes,
            log: self.log,
            tc_hook: self.hook,
        }
    }

    /// Starts the datapath, as a started agent does.
    pub fn open(&mut self) -> Result<()> {
        let object = object()?;
        let config = self.config();
        let datapath = inside(&self.netns, || {
            Datapath::open(&config, object)
                .map_err(|error| anyhow::anyhow!(knarr_base::chain(&error)))
        })?;
        self.table = ServiceTable::restore(&self.name, &datapath.restore()?);
        self.datapath = Some(datapath);
        Ok(())
    }

    pub fn datapath(&mut self) -> &mut Datapath {
        self.datapath.as_mut().expect("the datapath is open")
    }

    /// Plans and applies what changed; how many operations that were.
    pub fn sync(&mut self) -> Result<usize> {
        self.clock += Duration::from_millis(1);
        let plan = self.table.plan(self.clock);
        self.apply(&plan.ops)?;
        Ok(plan.ops.len())
    }

    /// Carries out operations in the node's namespace, as the agent does.
    pub fn apply(&mut self, ops: &[MapOp]) -> Result<()> {
        let netns = self.netns.clone();
        let datapath = self.datapath();
        inside(&netns, || Ok(datapath.apply(ops)?))
    }

    /// Lets the grace time of old generations pass.
    pub fn later(&mut self) -> Result<()> {
        self.clock += Duration::from_secs(10);
        self.sync()?;
        Ok(())
    }

    /// Makes a pod's namespace and network.
    pub fn add_pod(&mut self, ip: Ipv4Addr) -> Result<String> {
        let netns = format!("{}-p{}", self.netns, ip.octets()[3]);
        run(&["ip", "netns", "add", &netns])?;
        self.pod_netns.push((ip, netns.clone()));
        let file = std::fs::File::open(format!("/run/netns/{netns}"))?;
        let network = PodNetwork {
            host_ifname: PodNetwork::host_ifname(&format!("{:012x}", u32::from(ip))),
            pod_ip: ip,
        };
        self.with_network(async |handle| {
            handle
                .pod_network_add(file.as_fd(), &network)
                .await
                .map_err(|error| anyhow::anyhow!(knarr_base::chain(&error)))
        })?;
        self.know_pod(&network)?;
        Ok(netns)
    }

    /// Registers a pod with the datapath, as an agent does when it starts or adopts one.
    pub fn know_pod(&mut self, network: &PodNetwork) -> Result<()> {
        let pod = std::fs::File::open(format!("/run/netns/{}", self.pod(network.pod_ip)))?;
        if let Some(datapath) = &mut self.datapath {
            inside(&self.netns, || Ok(datapath.set_pod(pod.as_fd(), network)?))?;
        }
        Ok(())
    }

    /// The namespace of a pod.
    pub fn pod(&self, ip: Ipv4Addr) -> &str {
        self.pod_netns
            .iter()
            .find(|(known, _)| *known == ip)
            .map(|(_, netns)| netns.as_str())
            .expect("the pod exists")
    }

    /// Runs netlink work in the node's namespace.
    pub fn with_network<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Network) -> Result<T> + Send,
    ) -> Result<T> {
        inside(&self.netns, move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(async {
                    let network = Network::open()?;
                    work(&network).await
                })
        })
    }

    /// The sum of one statistic.
    pub fn stat(&self, name: &str) -> Result<u64> {
        let stats = self.datapath.as_ref().context("not open")?.stats()?;
        Ok(stats
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, value)| *value))
    }
}

/// Tries until it succeeds or patience ends.
pub fn eventually(mut what: impl FnMut() -> Result<()>) -> Result<()> {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        match what() {
            Err(_) if std::time::Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// The whole lab.
pub struct Lab {
    _one: MutexGuard<'static, ()>,
    prefix: String,
    pub client: String,
    pub one: Node,
    pub two: Node,
    bpf: PathBuf,
    cgroup: PathBuf,
    home_cgroup: PathBuf,
    pub servers: Vec<Server>,
}

impl Lab {
    /// A lab with both datapaths open and this process among the processes of node-1.
    pub fn new() -> Result<Self> {
        let mut lab = Self::bare()?;
        lab.one.open()?;
        lab.two.open()?;
        Ok(lab)
    }

    /// A lab whose datapaths are not open yet.
    pub fn bare() -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the kernel tests load eBPF programs and make namespaces: run them as root"
        );
        let one = ONE_LAB.lock();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kt{}-{serial}", std::process::id());
        let cgroup_mount = cgroup_mount()?;
        let home_cgroup = cgroup_mount.join(own_cgroup()?.trim_start_matches('/'));
        let cgroup = cgroup_mount.join(format!("knarr-test-{prefix}"));
        let bpf = std::env::temp_dir().join(format!("knarr-test-{prefix}"));
        std::fs::create_dir_all(&bpf)?;
        run(&["mount", "-t", "bpf", "bpf", &bpf.display().to_string()])?;
        let lab = Self {
            _one: one,
            client: format!("{prefix}-c"),
            one: Node::new(&prefix, 1, &bpf, &cgroup),
            two: Node::new(&prefix, 2, &bpf, &cgroup),
            prefix,
            bpf,
            cgroup,
            home_cgroup,
            servers: Vec::new(),
        };
        lab.build()?;
        Ok(lab)
    }

    fn build(&self) -> Result<()> {
        for node in [&self.one, &self.two] {
            std::fs::create_dir_all(&node.cgroup)?;
            std::fs::create_dir_all(&node.bpf_root)?;
        }
        let switch = format!("{}-s", self.prefix);
        run(&["ip", "netns", "add", &switch])?;
        run(&["ip", "-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        run(&["ip", "-n", &switch, "link", "set", "br0", "up"])?;
        let hosts = [
            (&self.client, CLIENT_IP),
            (&self.one.netns, self.one.ip),
            (&self.two.netns, self.two.ip),
        ];
        for (netns, ip) in hosts {
            let port = format!("p{}", ip.octets()[3]);
            run(&["ip", "netns", "add", netns])?;
            run(&[
                "ip", "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                "netns", netns,
            ])?;
            run(&[
                "ip", "-n", &switch, "link", "set", &port, "master", "br0", "up",
            ])?;
            run(&[
                "ip",
                "-n",
                netns,
                "addr",
                "add",
                &format!("{ip}/24"),
                "dev",
                "eth0",
            ])?;
            run(&["ip", "-n", netns, "link", "set", "lo", "up"])?;
            run(&["ip", "-n", netns, "link", "set", "eth0", "up"])?;
        }
        let cluster = "10.244.0.0/16".parse()?;
        let services = "10.96.0.0/12".parse()?;
        for (node, other) in [(&self.one, &self.two), (&self.two, &self.one)] {
            let number = other.ip.octets()[3];
            let route = NodeRoute {
                pod_cidr: format!("10.244.{number}.0/24").parse()?,
                via: other.ip,
            };
            node.with_network(async |network| {
                network.prepare_node(&[cluster], &[services]).await?;
                network.sync_routes(&[route], Strangers::Remove).await?;
                Ok(())
            })?;
        }
        self.enter(&self.one)
    }

    /// Runs `work` as a process of the client, which is no process of any node.
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        move_to(&self.home_cgroup)?;
        let result = inside(&self.client, work);
        self.enter(&self.one)?;
        result
    }

    /// Makes this process one of the node's.
    pub fn enter(&self, node: &Node) -> Result<()> {
        move_to(&node.cgroup)
    }

    /// Adds a pod to node `1` or `2` with servers that answer its name on TCP and UDP 8080.
    pub fn pod(&mut self, node: u8, host: u8) -> Result<Ipv4Addr> {
        let ip = Ipv4Addr::new(10, 244, node, host);
        let netns = if node == 1 {
            self.one.add_pod(ip)?
        } else {
            self.two.add_pod(ip)?
        };
        self.servers.push(Server::start(&netns, ip, 8080)?);
        Ok(ip)
    }

    /// Runs in both tables, then plans and applies in both.
    pub fn both(&mut self, change: impl Fn(&mut ServiceTable)) -> Result<()> {
        for node in [&mut self.one, &mut self.two] {
            change(&mut node.table);
            if node.datapath.is_some() {
                node.sync()?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.servers.clear();
        self.one.datapath = None;
        self.two.datapath = None;
        let _home = move_to(&self.home_cgroup);
        let mut namespaces: Vec<String> = Vec::new();
        for node in [&self.one, &self.two] {
            namespaces.extend(node.pod_netns.iter().map(|(_, netns)| netns.clone()));
            namespaces.push(node.netns.clone());
        }
        namespaces.push(self.client.clone());
        namespaces.push(format!("{}-s", self.prefix));
        for netns in namespaces {
            let _gone = run(&["ip", "netns", "del", &netns]);
        }
        let _gone = run(&["umount", &self.bpf.display().to_string()]);
        let _gone = std::fs::remove_dir(&self.bpf);
        for directory in [&self.one.cgroup, &self.two.cgroup, &self.cgroup] {
            if let Err(error) = std::fs::remove_dir(directory) {
                eprintln!("cannot remove {}: {error}", directory.display());
            }
        }
    }
}

fn move_to(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    std::fs::write(&path, std::process::id().to_string())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn cgroup_mount() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .context("no cgroup v2 hierarchy is mounted")
}

fn own_cgroup() -> Result<String> {
    let all = std::fs::read_to_string("/proc/self/cgroup")?;
    all.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
        .context("this process is in no cgroup v2")
}

/// Answers `NAME PEER` to each TCP connection and each UDP datagram.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn start(netns: &str, ip: Ipv4Addr, port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let (tcp, udp) = inside(netns, || {
            Ok((TcpListener::bind(address)?, UdpSocket::bind(address)?))
        })?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(Duration::from_millis(50)))?;
        let tcp_stop = Arc::clone(&stop);
        let udp_stop = Arc::clone(&stop);
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&tcp, ip, &tcp_stop)),
            std::thread::spawn(move || serve_udp(&udp, ip, &udp_stop)),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, ip: Ipv4Addr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, peer)) => {
                let _sent = stream.set_nonblocking(false);
                let _sent = stream.write_all(format!("{ip} {peer}").as_bytes());
            }
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn serve_udp(socket: &UdpSocket, ip: Ipv4Addr, stop: &AtomicBool) {
    let mut buffer = vec![0_u8; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let answer = if len > 100 {
                // A large question is sent back whole, to show that it arrived.
                buffer[..len].to_vec()
            } else {
                format!("{ip} {peer}").into_bytes()
            };
            let _sent = socket.send_to(&answer, peer);
        }
    }
}

/// What a server said: its own address, and the peer that it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub server: Ipv4Addr,
    pub peer: SocketAddr,
}

fn parse(text: &str) -> Result<Answer> {
    let (server, peer) = text
        .split_once(' ')
        .with_context(|| format!("the server said {text:?}"))?;
    Ok(Answer {
        server: server.parse()?,
        peer: peer.parse()?,
    })
}

/// Connects and reads the answer.
pub fn ask_tcp(to: impl Into<SocketAddr>) -> Result<Answer> {
    let to = to.into();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)
        .with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text)
}

/// Connects a UDP socket, asks and reads the answer.
pub fn ask_udp(to: impl Into<SocketAddr>) -> Result<Answer> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to.into())?;
    socket.send(b"who?")?;
    let mut buffer = [0_u8; 200];
    let len = socket.recv(&mut buffer)?;
    parse(std::str::from_utf8(&buffer[..len])?)
}

/// A Service `default/web` on `VIP`, port 80 to 8080.
pub fn service(protocol: ServiceProtocol) -> DesiredService {
    DesiredService {
        name: ServiceName::new("default", "web"),
        cluster_ips: vec![IpAddr::V4(VIP)],
        ports: vec![DesiredPort {
            name: String::new(),
            protocol,
            port: 80,
            node_port: Some(NODE_PORT),
        }],
        affinity_seconds: 0,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

/// A ready endpoint of `default/web`; its node follows from its address.
pub fn endpoint(ip: Ipv4Addr) -> DesiredEndpoint {
    DesiredEndpoint {
        service: ServiceName::new("default", "web"),
        port_name: String::new(),
        address: IpAddr::V4(ip),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        node_name: format!("node-{}", ip.octets()[2]),
        pod: format!("default/pod-{}", ip.octets()[3]),
    }
}

/// The address of the Service.
pub fn vip() -> SocketAddr {
    SocketAddr::from((VIP, 80))
}
