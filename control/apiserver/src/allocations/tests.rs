// SPDX-License-Identifier: Apache-2.0
//! What the keys say, and what a write under way keeps from others. What servers do with both is in `tests/api/shared.rs`.

use serde_json::json;

use super::*;

const IP: Item = Item::Address(IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 5)));
const PORT: Item = Item::Port(30001);

fn put(item: Item, owner: &'static str) -> Event {
    Event::Put {
        key: item.key().into(),
        value: owner.into(),
    }
}

fn is_held(all: &Allocations, item: Item) -> bool {
    all.0.lock().held.contains_key(&item)
}

#[test]
fn a_key_says_which_item_it_is_about() {
    let v6 = Item::Address("fd00::5".parse().expect("an address"));
    for item in [IP, PORT, v6] {
        assert_eq!(Item::of_key(item.key().as_bytes()), Some(item));
        assert!(item.key().starts_with(PREFIX));
    }
    for other in [
        "/registry/ranges/serviceips/nonsense",
        "/registry/ranges/servicenodeports/70000",
        "/registry/ranges/other/1",
        "/registry/services/default/a",
    ] {
        assert_eq!(Item::of_key(other.as_bytes()), None, "{other}");
    }
}

#[test]
fn of_two_owners_one_can_leave() {
    let one = Owners::one("default/a");
    let both = one.with("default/b");
    assert_eq!(Owners::parse(&both.to_value()), both);
    assert!(both.has("default/b") && !one.has("default/b"));
    assert_eq!(both.without("default/b"), Some(one.clone()));
    assert_eq!(one.without("default/a"), None);
    assert!(!Owners::parse(b"\xff").has(""));
}

#[test]
fn what_is_held_follows_the_keys_of_the_store() {
    let all = Allocations::default();
    all.observe(&put(IP, "default/a"), 3);
    assert!(is_held(&all, IP) && !is_held(&all, PORT));
    all.observe(
        &Event::Delete {
            key: IP.key().into(),
        },
        4,
    );
    assert!(!is_held(&all, IP));
    all.observe(&put(IP, "default/a"), 5);
    all.fill(&[KeyValue {
        key: PORT.key().into(),
        value: "default/b".into(),
        mod_revision: Revision(6),
    }]);
    assert!(!is_held(&all, IP) && is_held(&all, PORT));
}

#[tokio::test]
async fn what_a_write_picks_is_not_free_until_it_failed_or_the_caches_show_it() {
    let all = Allocations::default();
    let (progress, seen) = watch::channel(6);
    let pick = || {
        let mut picks = Picks {
            taken: Arc::clone(&all.0),
            items: Vec::new(),
            progress: seen.clone(),
        };
        picks.pick(&mut all.0.lock(), IP);
        Box::new(picks)
    };
    let is_free = || all.0.lock().is_free(IP);
    let (first, second) = (pick(), pick());
    drop(first);
    assert!(!is_free(), "the second one's still");
    second.keep(7);
    tokio::task::yield_now().await;
    assert!(!is_free());
    progress.send_replace(7);
    while !is_free() {
        tokio::task::yield_now().await;
    }
    pick().keep(7);
    assert!(is_free(), "the caches show it already");
}

#[test]
fn a_service_holds_its_addresses_its_node_ports_and_the_health_port_that_it_needs() {
    let mut service = json!({
        "metadata": {"namespace": "default", "name": "a"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30009,
            "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
            "ports": [
                {"port": 53, "protocol": "TCP", "nodePort": 30001},
                {"port": 53, "protocol": "UDP", "nodePort": 30001},
                {"port": 80},
            ],
        },
    });
    let health = Item::Port(30009);
    assert_eq!(items_of(&service), BTreeSet::from([IP, PORT, health]));
    value::set(&mut service, "spec.externalTrafficPolicy", "Cluster");
    assert_eq!(items_of(&service), BTreeSet::from([IP, PORT]));
    value::set(&mut service, "spec.clusterIPs", json!(["None"]));
    assert_eq!(items_of(&service), BTreeSet::from([PORT]));
}
