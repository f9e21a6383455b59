// SPDX-License-Identifier: Apache-2.0
//! Maps that are being replaced by larger ones, and what comes in the middle of it.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use knarr_datapath::MapSizes;
use knarr_ebpf_common::{AffinityEntry, AffinityKey};
use knarr_services::ServiceProtocol;

use crate::lab::{Lab, PATIENCE, ask_tcp, endpoint, inside, run, service, vip};

/// An entry of the map as plain bytes.
type Key = [u8; size_of::<AffinityKey>()];
type Value = [u8; size_of::<AffinityEntry>()];

/// The entries of the map that is about to take the place of `AFFINITY`; none where there is no such map.
fn copied(growing: &Path) -> Option<usize> {
    let map = Map::LruHashMap(MapData::from_pin(growing).ok()?);
    let map = HashMap::<_, Key, Value>::try_from(map).ok()?;
    Some(map.keys().flatten().count())
}

#[test]
fn a_purge_in_the_middle_of_a_copy_reaches_the_copy() -> Result<()> {
    let mut lab = Lab::bare()?;
    let limits = MapSizes::default();
    lab.one.sizes = limits;
    lab.one.open()?;
    let pods = (2..6)
        .map(|host| lab.pod(1, host))
        .collect::<Result<Vec<Ipv4Addr>>>()?;
    let netns = lab.one.netns.clone();
    let rename = |from: &str, to: &str| -> Result<()> {
        run(&["ip", "-n", &netns, "link", "set", from, "down"])?;
        run(&["ip", "-n", &netns, "link", "set", from, "name", to])?;
        run(&["ip", "-n", &netns, "link", "set", to, "up"])?;
        Ok(())
    };
    // Without the uplink no map grows, so that the small one has entries when it does.
    rename("eth0", "away")?;
    let mut sticky = service(ServiceProtocol::Tcp);
    sticky.affinity_seconds = 60;
    lab.one.table.set_service(sticky);
    let ask = |lab: &Lab, client: usize, server: usize| -> Result<()> {
        let answer = inside(lab.one.pod(pods[client]), || ask_tcp(vip()))?;
        ensure!(answer.server == pods[server], "{answer:?}");
        Ok(())
    };
    // Two clients of a pod that leaves the Service, and two of the one that takes its place.
    lab.one.table.set_endpoint(endpoint(pods[0]));
    lab.one.sync()?;
    for client in [0, 1] {
        ask(&lab, client, 0)?;
    }
    let reader = lab.one.datapath().inspector();
    let gone: HashSet<u32> = reader
        .affinities()?
        .iter()
        .map(|(_, e)| e.backend)
        .collect();
    ensure!(gone.len() == 1, "{gone:?}");
    lab.one.table.remove_endpoint(&endpoint(pods[0]).key());
    lab.one.table.set_endpoint(endpoint(pods[1]));
    lab.one.sync()?;
    for client in [2, 3] {
        ask(&lab, client, 1)?;
    }
    let before = reader.affinities()?;
    let mut wanted: Vec<AffinityKey> = before
        .iter()
        .filter(|(_, entry)| !gone.contains(&entry.backend))
        .map(|(key, _)| *key)
        .collect();
    wanted.sort_unstable();
    ensure!(before.len() == 4 && wanted.len() == 2, "{before:?}");

    rename("away", "eth0")?;
    lab.one.table.set_endpoint(endpoint(pods[2]));
    let growing = knarr_datapath::pins::pin_root(&lab.one.bpf_root).join("growing/AFFINITY");
    std::thread::scope(|scope| -> Result<()> {
        let node = &mut lab.one;
        let grower = scope.spawn(move || node.sync());
        let deadline = Instant::now() + PATIENCE;
        // All is copied, and the programs that use the copy are still to be loaded.
        while copied(&growing) != Some(before.len()) {
            ensure!(
                Instant::now() < deadline,
                "no map grows: {:?}",
                copied(&growing)
            );
            std::thread::yield_now();
        }
        reader.purge_backends(&gone)?;
        grower.join().expect("the growing thread ends")?;
        Ok(())
    })?;
    let size = reader.room()?.affinity;
    ensure!(size == limits.affinity, "{size}");
    let mut after: Vec<AffinityKey> = reader.affinities()?.iter().map(|(key, _)| *key).collect();
    after.sort_unstable();
    ensure!(after == wanted, "{after:?} instead of {wanted:?}");
    Ok(())
}
