// SPDX-License-Identifier: Apache-2.0
//! What a pod sends has the pod's own address, or it arrives nowhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use knarr_datapath::{PodNetwork, TcHook};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::lab::{Lab, PATIENCE, ask_tcp, inside, run};

const PORT: u16 = 9_000;
/// An address of the pods' range that no pod has.
const NOBODYS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 77);
/// An address of the world.
const WORLDS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 9);

/// Where datagrams are to arrive, or not.
fn receiver(netns: &str) -> Result<UdpSocket> {
    let socket = inside(netns, || Ok(UdpSocket::bind(("0.0.0.0", PORT))?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends a datagram from each address in turn; those that arrived, by their source. `own` is the last: what was sent
/// before it has arrived by then, or never will.
fn arrived(
    netns: &str,
    forged: &[Ipv4Addr],
    own: Ipv4Addr,
    to: Ipv4Addr,
    at: &UdpSocket,
) -> Result<Vec<IpAddr>> {
    inside(netns, || {
        for from in forged.iter().chain([&own]) {
            let socket = UdpSocket::bind((*from, 0)).with_context(|| format!("binding {from}"))?;
            socket.send_to(b"me", (to, PORT))?;
        }
        Ok(())
    })?;
    let mut sources = Vec::new();
    loop {
        let (_, from) = at
            .recv_from(&mut [0; 8])
            .context("the pod's own never came")?;
        sources.push(from.ip());
        if from.ip() == own {
            return Ok(sources);
        }
    }
}

fn assume(netns: &str, addresses: &[Ipv4Addr]) -> Result<()> {
    for address in addresses {
        let address = format!("{address}/32");
        run(&["ip", "-n", netns, "address", "add", &address, "dev", "eth0"])?;
    }
    Ok(())
}

/// Tags in the order of the frame, each of VLAN 0, which means no VLAN at all.
const VLAN_TAGS: [&[u16]; 7] = [
    &[],
    &[S_TAG],
    &[C_TAG],
    &[S_TAG, C_TAG],
    &[C_TAG, C_TAG],
    &[S_TAG, S_TAG],
    &[S_TAG, C_TAG, C_TAG],
];
/// 802.1ad.
const S_TAG: u16 = 0x88a8;
/// 802.1Q.
const C_TAG: u16 = 0x8100;

fn link_address(link: &str) -> Result<LinkAddr> {
    let all = nix::ifaddrs::getifaddrs()?.filter(|found| found.interface_name == link);
    all.filter_map(|found| found.address?.as_link_addr().copied())
        .next()
        .with_context(|| format!("{link} has no hardware address"))
}

fn hardware_address(netns: &str, link: &str) -> Result<[u8; 6]> {
    let address = inside(netns, || link_address(link))?;
    address.addr().context("an Ethernet address")
}

/// Sends a datagram to [`PORT`] as a whole frame from `eth0` of this namespace.
fn send_frame(gateway: [u8; 6], tags: &[u16], from: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    const TAG_OF_NO_VLAN: [u8; 2] = [0, 0];
    const IPV4: [u8; 2] = [0x08, 0x00];
    let eth0 = link_address("eth0")?;
    let mut header = [
        0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum: u32 = header
        .chunks_exact(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let mut frame = Vec::new();
    frame.extend(gateway);
    frame.extend(eth0.addr().context("an Ethernet address")?);
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(TAG_OF_NO_VLAN);
    }
    frame.extend(IPV4);
    frame.extend(header);
    // UDP, without a checksum.
    frame.extend([PORT.to_be_bytes(), PORT.to_be_bytes(), [0, 10], [0, 0]].concat());
    frame.extend(b"me");
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    sendto(socket.as_raw_fd(), &frame, &eth0, MsgFlags::empty())?;
    Ok(())
}

fn network_of(pod: Ipv4Addr) -> PodNetwork {
    PodNetwork {
        host_ifname: PodNetwork::host_ifname(&format!("{:012x}", u32::from(pod))),
        pod_ip: pod,
    }
}

fn only_its_own_address_leaves_a_pod(hook: TcHook) -> Result<()> {
    let mut lab = Lab::bare()?;
    lab.one.hook = hook;
    lab.one.open()?;
    lab.two.open()?;
    let (a, b, c) = (lab.pod(1, 2)?, lab.pod(1, 3)?, lab.pod(2, 2)?);
    let forged = [NOBODYS, WORLDS];
    assume(lab.one.pod(a), &forged)?;
    let places = [
        (lab.one.pod(b), b),
        (lab.two.pod(c), c),
        (lab.one.netns.as_str(), lab.one.ip),
    ];
    for (netns, to) in places {
        let at = receiver(netns)?;
        let sources = arrived(lab.one.pod(a), &forged, a, to, &at)?;
        ensure!(sources == [IpAddr::V4(a)], "{hook:?}, at {to}: {sources:?}");
    }
    let dropped = lab.one.stat("source_spoofed")?;
    ensure!(dropped >= 6, "{dropped}");
    let at = receiver(lab.two.pod(c))?;
    let gateway = hardware_address(&lab.one.netns, &network_of(a).host_ifname)?;
    inside(lab.one.pod(a), || {
        for tags in VLAN_TAGS {
            send_frame(gateway, tags, NOBODYS, c)?;
        }
        Ok(())
    })?;
    let sources = arrived(lab.one.pod(a), &[], a, c, &at)?;
    ensure!(
        sources == [IpAddr::V4(a)],
        "{hook:?}, with VLAN tags: {sources:?}"
    );
    let dropped = lab.one.stat("source_spoofed")? - dropped;
    ensure!(dropped >= VLAN_TAGS.len() as u64, "{dropped}");
    // And a pod does not speak as another one.
    lab.servers.clear();
    run(&[
        "ip",
        "-n",
        lab.one.pod(b),
        "address",
        "del",
        &format!("{b}/32"),
        "dev",
        "eth0",
    ])?;
    assume(lab.one.pod(a), &[b])?;
    let sources = arrived(lab.one.pod(a), &[b], a, c, &at)?;
    ensure!(sources == [IpAddr::V4(a)], "{sources:?}");
    Ok(())
}

#[test]
fn only_its_own_address_leaves_a_pod_by_tcx() -> Result<()> {
    only_its_own_address_leaves_a_pod(TcHook::Auto)
}

#[test]
fn only_its_own_address_leaves_a_pod_by_classic_tc() -> Result<()> {
    only_its_own_address_leaves_a_pod(TcHook::Classic)
}

#[test]
fn a_pod_is_held_to_its_address_without_an_agent_and_by_the_next_one() -> Result<()> {
    let mut lab = Lab::new()?;
    let (a, b) = (lab.pod(1, 2)?, lab.pod(1, 3)?);
    assume(lab.one.pod(a), &[NOBODYS])?;
    let at = receiver(lab.one.pod(b))?;
    let sources = |lab: &Lab| arrived(lab.one.pod(a), &[NOBODYS], a, b, &at);
    let own = [IpAddr::V4(a)];

    lab.one.datapath = None;
    ensure!(sources(&lab)? == own, "no agent");
    lab.one.open()?;
    ensure!(
        sources(&lab)? == own,
        "an agent that has not adopted it yet"
    );
    lab.one.know_pod(&network_of(a))?;
    ensure!(sources(&lab)? == own, "adopted");

    // A pod that was started by an agent without the program.
    lab.one.datapath = None;
    let links = knarr_datapath::pins::pin_root(&lab.one.bpf_root).join("links");
    let pin_of = |pod: Ipv4Addr| links.join(format!("knarr_pod-{:08x}", u32::from(pod)));
    let pin = pin_of(a);
    std::fs::remove_file(&pin).with_context(|| pin.display().to_string())?;
    lab.one.open()?;
    ensure!(sources(&lab)?.len() == 2, "nothing holds it");
    lab.one.know_pod(&network_of(a))?;
    ensure!(
        sources(&lab)? == own,
        "adopted by an agent with the program"
    );

    // Its end.
    lab.one.with_network(async |network| {
        network
            .pod_network_remove(&network_of(a).host_ifname)
            .await?;
        Ok(())
    })?;
    lab.one.datapath().forget_pod(a)?;
    ensure!(!pin.exists(), "the pin outlives the pod");
    ensure!(pin_of(b).exists());
    lab.one.datapath().retain_pods(&[])?;
    ensure!(!pin_of(b).exists());
    Ok(())
}

#[test]
fn a_pod_that_gets_the_address_of_another_one_is_held_to_it() -> Result<()> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    lab.servers.clear();
    // Its link goes without a word to the datapath, and another pod has the address next.
    let old = network_of(pod);
    lab.one.with_network(async |network| {
        network.pod_network_remove(&old.host_ifname).await?;
        Ok(())
    })?;
    let file = std::fs::File::open(format!("/run/netns/{}", lab.one.pod(pod)))?;
    let next = PodNetwork {
        host_ifname: PodNetwork::host_ifname("abcdef012345"),
        pod_ip: pod,
    };
    lab.one.with_network(async |network| {
        use std::os::fd::AsFd;
        network.pod_network_add(file.as_fd(), &next).await?;
        Ok(())
    })?;
    lab.one.know_pod(&next)?;
    let _server = crate::lab::Server::start(lab.one.pod(pod), pod, 8_080)?;
    inside(&lab.one.netns, || ask_tcp((pod, 8_080)))?;
    assume(lab.one.pod(pod), &[NOBODYS])?;
    let at = receiver(&lab.one.netns)?;
    let sources = arrived(lab.one.pod(pod), &[NOBODYS], pod, lab.one.ip, &at)?;
    ensure!(sources == [IpAddr::V4(pod)], "{sources:?}");
    Ok(())
}

#[test]
fn of_ipv6_only_link_local_leaves_a_pod() -> Result<()> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    let netns = lab.one.pod(pod);
    let link = network_of(pod).host_ifname;
    let link_local = |netns: &str, link: &str| -> Result<String> {
        let shown = run(&[
            "ip", "-n", netns, "-6", "-brief", "address", "show", "dev", link,
        ])?;
        let found = shown
            .split_whitespace()
            .find(|word| word.starts_with("fe80::"));
        let address = found.with_context(|| format!("no link-local address: {shown:?}"))?;
        Ok(address.split('/').next().unwrap_or_default().to_owned())
    };
    let to = link_local(&lab.one.netns, &link)?;
    let own = link_local(netns, "eth0")?;
    // Addresses of a link are tentative for a second.
    for (netns, link) in [(netns, "eth0"), (lab.one.netns.as_str(), link.as_str())] {
        crate::lab::eventually(|| {
            let shown = run(&["ip", "-n", netns, "-6", "address", "show", "dev", link])?;
            ensure!(!shown.contains("tentative"), "{shown}");
            Ok(())
        })?;
    }
    run(&[
        "ip",
        "-n",
        netns,
        "address",
        "add",
        "2001:2::77/64",
        "dev",
        "eth0",
        "nodad",
    ])?;
    let at = inside(&lab.one.netns, || Ok(UdpSocket::bind(("::", PORT))?))?;
    at.set_read_timeout(Some(PATIENCE))?;
    inside(netns, || {
        let scope = nix::net::if_::if_nametoindex("eth0")?;
        let to = std::net::SocketAddrV6::new(to.parse()?, PORT, 0, scope);
        for (from, scope) in [("2001:2::77", 0), (own.as_str(), scope)] {
            let from = std::net::SocketAddrV6::new(from.parse()?, 0, 0, scope);
            UdpSocket::bind(SocketAddr::V6(from))?.send_to(b"me", SocketAddr::V6(to))?;
        }
        Ok(())
    })?;
    let (_, first) = at.recv_from(&mut [0; 8]).context("link-local never came")?;
    ensure!(first.ip() == own.parse::<IpAddr>()?, "{first}");
    ensure!(lab.one.stat("source_spoofed")? > 0);
    Ok(())
}
