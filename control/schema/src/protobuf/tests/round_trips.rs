// SPDX-License-Identifier: Apache-2.0
//! Random objects of every definition, through protobuf and back; and through the messages of k8s-pb, which come from
//! upstream's own descriptions.

use std::sync::Arc;

use prost::Message;
use serde_json::{Map, Value, json};

use crate::scalar::Precision;
use crate::types::{Definition, Property, SchemaRef, Schemas, Shape, Type};

#[path = "../../../build/later.rs"]
mod later;

/// Objects of each definition.
const ROUNDS: u64 = 15;

/// Numbers that look random and are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Makes objects.
struct Maker<'a> {
    schemas: &'a Schemas,
    random: Random,
    /// Which fields are never set.
    skipped: fn(&Definition, &str) -> bool,
}

/// Fields that have no number.
fn unnumbered(definition: &Definition, field: &str) -> bool {
    let named =
        |(name, unnumbered): &(&str, &str)| *name == &*definition.name && *unnumbered == field;
    later::UNNUMBERED.iter().any(named) || ["apiVersion", "kind"].contains(&field)
}

/// Fields that k8s-pb does not have yet.
fn later_or_unnumbered(definition: &Definition, field: &str) -> bool {
    let short = definition.short_name();
    let named = |(name, later, ..): &(&str, &str, u32, &str)| *name == short && *later == field;
    later::LATER.iter().any(named) || unnumbered(definition, field)
}

impl Maker<'_> {
    fn object(&mut self, definition: &Definition, depth: u32) -> Value {
        let Shape::Object(properties) = &definition.shape else {
            panic!("{} is no object", definition.name);
        };
        let mut object = Map::new();
        for property in properties {
            if (self.skipped)(definition, &property.name) {
                continue;
            }
            // Deep parts are thinner, or one Pod would have thousands of fields.
            let set = self.random.below(100) < if depth < 3 { 60 } else { 25 };
            if set || property.required {
                let value = self.field(property, depth);
                object.insert(property.name.to_string(), value);
            }
        }
        Value::Object(object)
    }

    fn field(&mut self, property: &Property, depth: u32) -> Value {
        self.value(&property.type_, depth)
    }

    fn value(&mut self, type_: &Type, depth: u32) -> Value {
        let schemas = self.schemas;
        match schemas.plain(type_) {
            Type::Definition(index) => self.object(schemas.definition(*index), depth + 1),
            Type::Map(item) => {
                let count = 1 + self.random.below(3);
                let entries = (0..count).map(|n| (format!("key-{n}"), self.value(item, depth + 1)));
                Value::Object(entries.collect())
            }
            Type::List(item) => {
                let count = 1 + self.random.below(2);
                (0..count).map(|_| self.value(item, depth + 1)).collect()
            }
            Type::String => self
                .random
                .of(&["", "a", "TCP", "grüße 🚢", "\u{0}\n"])
                .into(),
            Type::Bytes => self.random.of(&["", "AA==", "aGVsbG8=", "/w=="]).into(),
            Type::Time(Precision::Seconds) => {
                let times = [
                    "1969-12-31T23:59:59Z",
                    "1970-01-01T00:00:00Z",
                    "2026-01-02T03:04:05Z",
                ];
                self.random.of(&times).into()
            }
            Type::Time(Precision::Micros) => {
                let times = ["1969-12-31T23:59:59.999999Z", "2026-01-02T03:04:05.000000Z"];
                self.random.of(&times).into()
            }
            Type::Quantity => self.random.of(&["0", "1500m", "64Mi", "-5", "12e6"]).into(),
            Type::IntOrString => match self.random.below(2) {
                0 => self.random.of(&[0, 80, -1, i32::MAX, i32::MIN]).into(),
                _ => self.random.of(&["", "25%", "http"]).into(),
            },
            Type::Int32 => self.random.of(&[0, 1, -1, 300, i32::MAX, i32::MIN]).into(),
            Type::Int64 => self.random.of(&[0, 1, -1, 300, i64::MAX, i64::MIN]).into(),
            Type::Number => self.random.of(&[0.0, 0.5, -1e300]).into(),
            Type::Boolean => (self.random.below(2) == 1).into(),
            Type::Any => json!({"f:metadata": {"f:labels": {}}, "list": [null, 1.5, -3, "x"]}),
        }
    }

    /// An object as decoding leaves it.
    fn decoded(&mut self, schema: &SchemaRef) -> Value {
        let definition = self.schemas.definition(schema.index);
        let object = self.object(definition, 0);
        let decoded = schema.decode_value(object).expect("an object of the kind");
        assert_eq!(decoded.unknown, [""; 0]);
        decoded.value
    }
}

#[test]
fn random_objects_of_every_definition_come_through_protobuf_unchanged() {
    let schemas = Schemas::builtin();
    let mut objects = 0;
    let mut bytes = (0, 0);
    for (definition, index) in schemas.definitions.iter().zip(0..) {
        if !matches!(definition.shape, Shape::Object(_)) {
            continue;
        }
        let schema = SchemaRef {
            schemas: Arc::clone(&schemas),
            index,
        };
        let mut maker = Maker {
            schemas: &schemas,
            random: Random(u64::from(index) + 1),
            skipped: unnumbered,
        };
        for _ in 0..ROUNDS {
            let object = maker.decoded(&schema);
            let json = object.to_string();
            let message = schema.encode_protobuf(json.as_bytes()).expect("a message");
            let back = schema.decode_protobuf(&message).expect("an object").value;
            assert_eq!(back, object, "{}: {json}", definition.name);
            // From a tree it is the same message.
            let again = schema.encode_protobuf_value(&back).expect("a message");
            assert_eq!(again, message, "{}: {json}", definition.name);
            bytes = (bytes.0 + json.len(), bytes.1 + message.len());
            objects += 1;
        }
    }
    assert!(objects > 200 * ROUNDS, "{objects} objects");
    assert!(
        bytes.1 < bytes.0,
        "messages are shorter than JSON: {bytes:?}"
    );
}

/// Reads our message with k8s-pb's type, and its message with ours.
fn through<M: Message + Default>(group: &str, version: &str, kind: &str) {
    let schemas = Schemas::builtin();
    let schema = schemas.kind(group, version, kind).expect("a built-in kind");
    let mut maker = Maker {
        schemas: &schemas,
        random: Random(7),
        skipped: later_or_unnumbered,
    };
    for _ in 0..ROUNDS {
        let object = maker.decoded(&schema);
        let message = schema.encode_protobuf_value(&object).expect("a message");
        let theirs = M::decode(&*message).unwrap_or_else(|e| panic!("{kind}: {e}: {object}"));
        let back = schema
            .decode_protobuf(&theirs.encode_to_vec())
            .expect("an object");
        assert_eq!(back.value, object, "{kind}");
    }
}

#[test]
fn the_messages_of_upstreams_descriptions_hold_everything_that_ours_do() {
    use k8s_pb::api::{
        apps, authentication, authorization, autoscaling, coordination, core, discovery, events,
        policy,
    };
    use k8s_pb::apimachinery::pkg::apis::meta;
    through::<core::v1::Binding>("", "v1", "Binding");
    through::<core::v1::ConfigMap>("", "v1", "ConfigMap");
    through::<core::v1::Endpoints>("", "v1", "Endpoints");
    through::<core::v1::Event>("", "v1", "Event");
    through::<core::v1::Namespace>("", "v1", "Namespace");
    through::<core::v1::Node>("", "v1", "Node");
    through::<core::v1::Pod>("", "v1", "Pod");
    through::<core::v1::Secret>("", "v1", "Secret");
    through::<core::v1::Service>("", "v1", "Service");
    through::<core::v1::ServiceAccount>("", "v1", "ServiceAccount");
    through::<apps::v1::Deployment>("apps", "v1", "Deployment");
    through::<apps::v1::ReplicaSet>("apps", "v1", "ReplicaSet");
    through::<authentication::v1::SelfSubjectReview>(
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
    );
    through::<authorization::v1::SelfSubjectAccessReview>(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
    );
    through::<authorization::v1::SelfSubjectRulesReview>(
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
    );
    through::<authorization::v1::SubjectAccessReview>(
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
    );
    through::<autoscaling::v1::Scale>("autoscaling", "v1", "Scale");
    through::<coordination::v1::Lease>("coordination.k8s.io", "v1", "Lease");
    through::<discovery::v1::EndpointSlice>("discovery.k8s.io", "v1", "EndpointSlice");
    through::<events::v1::Event>("events.k8s.io", "v1", "Event");
    through::<policy::v1::Eviction>("policy", "v1", "Eviction");
    through::<meta::v1::APIGroup>("", "v1", "APIGroup");
    through::<meta::v1::APIGroupList>("", "v1", "APIGroupList");
    through::<meta::v1::APIResourceList>("", "v1", "APIResourceList");
    through::<meta::v1::APIVersions>("", "v1", "APIVersions");
    through::<meta::v1::DeleteOptions>("", "v1", "DeleteOptions");
    through::<meta::v1::Status>("", "v1", "Status");
    through::<meta::v1::PartialObjectMetadata>("meta.k8s.io", "v1", "PartialObjectMetadata");
    through::<meta::v1::PartialObjectMetadataList>(
        "meta.k8s.io",
        "v1beta1",
        "PartialObjectMetadataList",
    );
}

#[test]
fn a_frame_holds_a_watch_event_with_the_object_in_its_envelope() {
    let schema = Schemas::builtin()
        .kind("", "v1", "ConfigMap")
        .expect("a built-in kind");
    let object = json!({"metadata": {"name": "a"}, "data": {"k": "v"}});
    let message = schema.encode_protobuf_value(&object).expect("a message");
    let sealed = crate::seal_envelope("v1", "ConfigMap", &message);
    let mut frames = Vec::new();
    crate::put_watch_frame(&mut frames, "ADDED", &sealed);
    let (length, frame) = frames.split_first_chunk::<4>().expect("a length");
    assert_eq!(u32::from_be_bytes(*length) as usize, frame.len());
    let event =
        k8s_pb::apimachinery::pkg::apis::meta::v1::WatchEvent::decode(frame).expect("an event");
    assert_eq!(event.r#type.as_deref(), Some("ADDED"));
    let raw = event
        .object
        .and_then(|object| object.raw)
        .expect("an object");
    let unknown = raw.strip_prefix(b"k8s\0").expect("an envelope");
    let unknown =
        k8s_pb::apimachinery::pkg::runtime::Unknown::decode(unknown).expect("an envelope");
    let type_meta = unknown.type_meta.expect("a kind");
    assert_eq!(type_meta.kind.as_deref(), Some("ConfigMap"));
    assert_eq!(type_meta.api_version.as_deref(), Some("v1"));
    assert_eq!(unknown.raw.as_deref(), Some(&*message));
    let envelope = crate::open_envelope(&raw).expect("an envelope");
    assert_eq!(envelope.raw, message);
}

#[test]
fn a_list_is_its_metadata_and_its_items() {
    let schemas = Schemas::builtin();
    let schema = schemas.kind("", "v1", "Secret").expect("a built-in kind");
    let items: Vec<Value> = ["a", "b"]
        .map(|name| json!({"metadata": {"name": name}}))
        .into();
    let head = schemas.kind("meta.k8s.io", "v1", "PartialObjectMetadataList");
    let head = head.expect("a built-in kind");
    let head = head.encode_protobuf_value(&json!({"metadata": {"resourceVersion": "7"}}));
    let mut parts = vec![head.expect("a message")];
    for item in &items {
        let message = schema.encode_protobuf_value(item).expect("a message");
        parts.push(crate::list_item(&message));
    }
    let sealed = crate::seal_envelope("v1", "SecretList", &parts.concat());
    let envelope = crate::open_envelope(&sealed).expect("an envelope");
    assert_eq!(envelope.kind, "SecretList");
    let list = k8s_pb::api::core::v1::SecretList::decode(envelope.raw).expect("a list");
    assert_eq!(
        list.metadata
            .and_then(|meta| meta.resource_version)
            .as_deref(),
        Some("7")
    );
    let names: Vec<_> = list
        .items
        .iter()
        .filter_map(|s| s.metadata.as_ref()?.name.as_deref())
        .collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn json_of_another_type_is_refused() {
    let schema = Schemas::builtin()
        .kind("", "v1", "ConfigMap")
        .expect("a built-in kind");
    for json in [
        r#"{"data": 1}"#,
        r#"{"metadata": []}"#,
        r#"{"immutable": "x"}"#,
        "[]",
        "{",
    ] {
        assert!(schema.encode_protobuf(json.as_bytes()).is_err(), "{json}");
    }
}
