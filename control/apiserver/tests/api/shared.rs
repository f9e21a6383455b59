// SPDX-License-Identifier: Apache-2.0
//! Two API servers over one store, over each of the store's engines: what one of them acknowledges, the other one
//! shows, and no address or port is given twice. And stores that no version of today has written.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::{join, join_all};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use knarr_apiserver::{ApiConfig, ApiServer, CacheEventKind, Client, DeleteParams, ListParams};
use knarr_store::{Op, Range, Store, Txn};
use serde_json::{Value, json};

use crate::engines::{self, Engine};
use crate::harness::{EchoLogs, Ranges};

/// Services that each server creates at once.
const SERVICES: usize = 30;
const IPS: &str = "/registry/ranges/serviceips/";
const PORTS: &str = "/registry/ranges/servicenodeports/";

async fn api_over(store: Arc<dyn Store>) -> ApiServer {
    let config = ApiConfig::new(Arc::new(Ranges), Arc::new(EchoLogs));
    ApiServer::open(store, config).await.expect("an API server")
}

async fn two_servers(engine: &Engine) -> [ApiServer; 2] {
    let stores = [Arc::clone(&engine.store), Arc::clone(&engine.other)];
    join_all(stores.map(api_over))
        .await
        .try_into()
        .expect("two")
}

fn service(name: &str, spec: Value) -> Service {
    let mut service = json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        service["spec"][field.as_str()] = value.clone();
    }
    serde_json::from_value(service).expect("a Service")
}

fn cluster_ip(service: &Service) -> String {
    let spec = service.spec.as_ref().expect("a spec");
    spec.cluster_ip.clone().expect("an address")
}

fn node_port(service: &Service) -> i32 {
    let spec = service.spec.as_ref().expect("a spec");
    spec.ports.as_ref().expect("ports")[0]
        .node_port
        .expect("a node port")
}

async fn keys(store: &dyn Store, prefix: &'static str) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = store.range(Range::prefix(prefix)).await.expect("read");
    let pair = |kv: &knarr_store::KeyValue| (text(&kv.key[prefix.len()..]), text(&kv.value));
    found.kvs.iter().map(pair).collect()
}

async fn delete(client: &Client, name: &str) {
    let params = DeleteParams::default();
    let deleted = client.delete::<Service>(Some("default"), name, &params);
    deleted.await.expect("deleted");
}

async fn no_address_is_given_twice(engine: Engine) {
    let servers = two_servers(&engine).await;
    let clients = servers.each_ref().map(ApiServer::client);
    let watches = clients.each_ref().map(|client| {
        let cache = client.cache_of::<Service>().expect("a kind");
        cache.watch().1
    });
    let creations = (0..SERVICES).flat_map(|n| {
        clients.iter().enumerate().map(move |(server, client)| {
            let made = service(&format!("s{server}-{n}"), json!({"type": "NodePort"}));
            async move { client.create(&made).await.expect("created") }
        })
    });
    let made = join_all(creations).await;
    let ips: BTreeSet<_> = made.iter().map(cluster_ip).collect();
    let ports: BTreeSet<_> = made.iter().map(node_port).collect();
    assert_eq!((ips.len(), ports.len()), (made.len(), made.len()));
    let names: BTreeSet<_> = made.iter().map(|s| s.metadata.name.clone()).collect();
    for (client, mut watch) in clients.iter().zip(watches) {
        let listed: Vec<Service> = client
            .list(Some("default"), &ListParams::default())
            .await
            .expect("a list");
        let listed: BTreeSet<_> = listed.into_iter().map(|s| s.metadata.name).collect();
        assert_eq!(listed, names, "each lists what both have made");
        let mut seen = BTreeSet::new();
        while seen.len() < names.len() {
            let event = watch.next().await.expect("an event");
            assert_eq!(event.kind, CacheEventKind::Added);
            assert!(seen.insert(Some(event.object.meta.name.to_string())));
        }
        assert_eq!(seen, names, "each watch has seen every one, once");
    }
    let stored = keys(&*engine.store, IPS).await;
    let stored: BTreeSet<_> = stored.into_iter().map(|(ip, _)| ip).collect();
    assert_eq!(
        stored, ips,
        "the store says what is given, and nothing else"
    );
    assert_eq!(keys(&*engine.store, PORTS).await.len(), ports.len());
}

async fn of_two_that_ask_for_one_address_one_gets_it(engine: Engine) {
    let servers = two_servers(&engine).await;
    let [a, b] = servers.each_ref().map(ApiServer::client);
    for round in 0..5 {
        let spec = json!({
            "type": "NodePort", "clusterIP": "10.96.0.77",
            "ports": [{"port": 80, "nodePort": 30077}],
        });
        let [first, second] =
            ["a", "b"].map(|name| service(&format!("{name}{round}"), spec.clone()));
        let (first, second) = join(a.create(&first), b.create(&second)).await;
        let (made, refused) = match (first, second) {
            (Ok(made), Err(refused)) | (Err(refused), Ok(made)) => (made, refused),
            other => panic!("one and only one gets it: {other:?}"),
        };
        assert_eq!(refused.code(), 422);
        let shown = refused.to_string();
        let whole = r#"spec.clusterIPs: Invalid value: ["10.96.0.77"]: failed to allocate IP 10.96.0.77: provided IP is already allocated"#;
        assert!(shown.contains(whole), "{shown}");
        let whole =
            "spec.ports[0].nodePort: Invalid value: 30077: provided port is already allocated";
        assert!(shown.contains(whole), "{shown}");
        // The other server may delete it, and it is free at once for both.
        let name = made.metadata.name.expect("a name");
        let other = if name.starts_with('a') { &b } else { &a };
        delete(other, &name).await;
        assert!(keys(&*engine.store, "/registry/ranges/").await.is_empty());
    }
}

async fn each_shows_at_once_what_the_other_has_acknowledged(engine: Engine) {
    let servers = two_servers(&engine).await;
    let [a, b] = servers.each_ref().map(ApiServer::client);
    for n in 0..30 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("m{n}");
        let map: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "default"}, "data": {"n": "0"}}),
        )
        .expect("a ConfigMap");
        let mut made = writer.create(&map).await.expect("created");
        let read: ConfigMap = reader
            .get(Some("default"), &name)
            .await
            .expect("there for the other one");
        assert_eq!(
            read.metadata.resource_version,
            made.metadata.resource_version
        );
        // Both change what they read: of two changes of one version one is refused.
        made.data = Some([("n".to_owned(), "1".to_owned())].into());
        let updated = writer.update(&made).await.expect("updated");
        let stale = reader.update(&made).await.expect_err("an old version");
        assert!(stale.is_conflict(), "{stale}");
        assert!(reader.update(&updated).await.is_ok());
    }
}

async fn what_changes_of_a_service_is_free_for_the_other_server(engine: Engine) {
    let servers = two_servers(&engine).await;
    let [a, b] = servers.each_ref().map(ApiServer::client);
    let port = |port: u16| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    let mut made = a.create(&service("a", port(30100))).await.expect("created");
    let taken = b.create(&service("b", port(30100))).await;
    assert_eq!(taken.expect_err("the first one's").code(), 422);
    let spec = made.spec.as_mut().expect("a spec");
    spec.ports.as_mut().expect("ports")[0].node_port = Some(30101);
    b.update(&made).await.expect("moved");
    let owners = keys(&*engine.store, PORTS).await;
    assert_eq!(owners, [("30101".to_owned(), "default/a".to_owned())]);
    b.create(&service("b", port(30100))).await.expect("free");
    let taken = a.create(&service("c", port(30101))).await;
    assert_eq!(taken.expect_err("moved there").code(), 422);
}

macro_rules! over_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::engines::embedded().await).await;
            })+
        }

        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::engines::etcd().await).await;
            })+
        }
    };
}

over_both_engines! {
    no_address_is_given_twice,
    of_two_that_ask_for_one_address_one_gets_it,
    each_shows_at_once_what_the_other_has_acknowledged,
    what_changes_of_a_service_is_free_for_the_other_server,
}

/// What an earlier version has stored, and what somebody has left who wrote past the API.
#[tokio::test]
async fn opening_writes_down_what_stored_services_hold_and_forgets_what_none_holds() {
    let engine = engines::embedded().await;
    let api = api_over(Arc::clone(&engine.store)).await;
    let client = api.client();
    for (name, ip) in [("a", "10.96.0.5"), ("b", "10.96.0.6"), ("c", "10.96.0.7")] {
        let made = service(name, json!({"clusterIP": ip}));
        client.create(&made).await.expect("created");
    }
    drop((api, client));
    // `b` gets the address of `a`, as versions without keys could do.
    let stored = engine
        .store
        .range(Range::key("/registry/services/default/b"));
    let stored = stored.await.expect("read").kvs.remove(0).value;
    let spoilt = String::from_utf8_lossy(&stored).replace("10.96.0.6", "10.96.0.5");
    let key = |ip: &str| format!("{IPS}{ip}");
    let steps = vec![
        Op::put("/registry/services/default/b", spoilt),
        Op::delete(key("10.96.0.5")),
        Op::delete(key("10.96.0.7")),
        Op::put(key("10.96.0.8"), "default/gone"),
        Op::put(key("10.96.0.9"), "default/a"),
    ];
    engine.store.txn(Txn::of(steps)).await.expect("written");

    let [api, _other] = two_servers(&engine).await;

    let pair = |ip: &str, owners: &str| (ip.to_owned(), owners.to_owned());
    let both = pair("10.96.0.5", "default/a,default/b");
    let wanted = [both, pair("10.96.0.7", "default/c")];
    assert_eq!(keys(&*engine.store, IPS).await, wanted);
    let client = api.client();
    // What one of two owners gives back stays the other's.
    delete(&client, "a").await;
    let taken = client
        .create(&service("d", json!({"clusterIP": "10.96.0.5"})))
        .await;
    assert_eq!(taken.expect_err("still b's").code(), 422);
    delete(&client, "b").await;
    let made = client
        .create(&service("d", json!({"clusterIP": "10.96.0.5"})))
        .await;
    made.expect("free");
    let revision = engine.store.current_revision().await.expect("a revision");
    drop((api, client));
    api_over(Arc::clone(&engine.store)).await;
    let after = engine.store.current_revision().await.expect("a revision");
    assert_eq!(after, revision, "where all is well nothing is written");
}
