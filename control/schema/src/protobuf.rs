// SPDX-License-Identifier: Apache-2.0
//! From Kubernetes' protobuf to the same trees that JSON decodes to, driven by the schemas.
//!
//! `kubectl create namespace` and other typed clients send protobuf. Answers stay JSON, which every such client
//! accepts as well. Wire format: `apimachinery/pkg/runtime/serializer/protobuf` (v1.37), proto2 without groups.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::decode::DecodeError;
use crate::types::{Definition, Property, SchemaRef, Schemas, Shape, Type};

/// What a Kubernetes protobuf body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// Nesting that no real object reaches.
const DEPTH_MAX: usize = 100;

/// Numbers and booleans that are pointers in Kubernetes' Go types: there a zero is something else than nothing, and it
/// is on the wire only when somebody set it. Every other zero is on the wire always and means nothing.
const POINTERS: [&str; 50] = [
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "blockOwnerDeletion",
    "capacity",
    "collisionCount",
    "controller",
    "defaultMode",
    "defaultUser",
    "deletionGracePeriodSeconds",
    "enableServiceLinks",
    "expirationSeconds",
    "fsGroup",
    "gracePeriodSeconds",
    "hostProcess",
    "hostUsers",
    "immutable",
    "leaseDurationSeconds",
    "leaseTransitions",
    "lun",
    "maxExpirationSeconds",
    "minDomains",
    "mode",
    "optional",
    "orphanDependents",
    "partition",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "recursiveReadOnlyMounts",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "started",
    "supplementalGroupsPolicy",
    "terminating",
    "terminatingReplicas",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
    "tolerationSeconds",
    "user",
    "userNamespaces",
];

/// A body without its wrapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What the sender says it is; may be empty.
    pub api_version: String,
    /// The kind the sender says it is; may be empty.
    pub kind: String,
    /// The object's own message.
    pub raw: &'a [u8],
}

/// Whether a body is Kubernetes' protobuf.
pub fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

/// Takes the wrapping (`runtime.Unknown`) off a body.
pub fn open_envelope(body: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let mut fields = Fields(body.strip_prefix(MAGIC).ok_or_else(|| {
        wrong("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    })?);
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    while let Some((tag, field)) = fields.next()? {
        match (tag, field) {
            (1, Wire::Bytes(type_meta)) => {
                let mut fields = Fields(type_meta);
                while let Some((tag, field)) = fields.next()? {
                    match (tag, field) {
                        (1, Wire::Bytes(text)) => envelope.api_version = string(text)?,
                        (2, Wire::Bytes(text)) => envelope.kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

impl SchemaRef {
    /// Decodes one object of this kind from its protobuf message. Fields with unknown numbers are left out.
    pub fn decode_protobuf(&self, message: &[u8]) -> Result<Value, DecodeError> {
        let definition = self.schemas.definition(self.index);
        object(&self.schemas, definition, message, 0)
    }
}

/// One value on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message that are still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| wrong("proto: illegal tag"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| too_short())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(wrong(&format!("proto: illegal wireType {other}"))),
        };
        Ok(Some((tag, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(too_short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| too_short())
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(too_short)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(wrong("proto: integer overflow"))
    }
}

fn wrong(message: &str) -> DecodeError {
    DecodeError::Syntax {
        message: message.to_owned(),
    }
}

fn too_short() -> DecodeError {
    wrong("unexpected EOF")
}

fn string(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| wrong("proto: a string is not valid UTF-8"))
}

fn object(
    schemas: &Schemas,
    definition: &Definition,
    message: &[u8],
    depth: usize,
) -> Result<Value, DecodeError> {
    if depth == DEPTH_MAX {
        return Err(wrong("exceeded max depth"));
    }
    let Shape::Object(properties) = &definition.shape else {
        return Ok(Value::Null);
    };
    let mut found = Map::new();
    fields_of(schemas, properties, message, 0, depth, &mut found)?;
    Ok(Value::Object(found))
}

/// Reads the fields of a message into an object: the object's own (`inline` is 0), or those that the message with this
/// number holds for it.
fn fields_of(
    schemas: &Schemas,
    properties: &[Property],
    message: &[u8],
    inline: u32,
    depth: usize,
    found: &mut Map<String, Value>,
) -> Result<(), DecodeError> {
    let mut fields = Fields(message);
    while let Some((tag, wire)) = fields.next()? {
        let own = |p: &&Property| p.tag == tag && p.inline_tag == inline && tag != 0;
        let Some(property) = properties.iter().find(own) else {
            let holds = inline == 0 && properties.iter().any(|p| p.inline_tag == tag && tag != 0);
            if let (true, Wire::Bytes(inner)) = (holds, wire) {
                fields_of(schemas, properties, inner, tag, depth, found)?;
            }
            continue;
        };
        let name = &*property.name;
        match plain(schemas, &property.type_) {
            Type::List(item) => {
                let list = found
                    .entry(name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else { continue };
                list_items(schemas, item, wire, depth, list)?;
            }
            Type::Map(item) => {
                let map = found
                    .entry(name)
                    .or_insert_with(|| Value::Object(Map::new()));
                let (Value::Object(map), Wire::Bytes(entry)) = (map, wire) else {
                    continue;
                };
                map_entry(schemas, item, entry, depth, map)?;
            }
            _ => {
                let value = value(schemas, &property.type_, wire, depth)?;
                let kept = property.required || POINTERS.contains(&name);
                let nothing = match &value {
                    Value::Null => true,
                    Value::String(text) => text.is_empty(),
                    Value::Bool(false) => !kept,
                    Value::Number(number) => number.as_f64() == Some(0.0) && !kept,
                    _ => false,
                };
                if !nothing {
                    found.insert(name.to_owned(), value);
                }
            }
        }
    }
    Ok(())
}

/// The type behind names.
fn plain<'a>(schemas: &'a Schemas, type_: &'a Type) -> &'a Type {
    match type_ {
        Type::Definition(index) => match &schemas.definition(*index).shape {
            Shape::Other(type_) => type_,
            Shape::Object(_) => type_,
        },
        _ => type_,
    }
}

fn list_items(
    schemas: &Schemas,
    item: &Type,
    wire: Wire<'_>,
    depth: usize,
    list: &mut Vec<Value>,
) -> Result<(), DecodeError> {
    let number = matches!(
        plain(schemas, item),
        Type::Int32 | Type::Int64 | Type::Boolean
    );
    if let (true, Wire::Bytes(packed)) = (number, wire) {
        let mut packed = Fields(packed);
        while !packed.0.is_empty() {
            let next = Wire::Varint(packed.varint()?);
            list.push(value(schemas, item, next, depth)?);
        }
        return Ok(());
    }
    list.push(value(schemas, item, wire, depth)?);
    Ok(())
}

fn map_entry(
    schemas: &Schemas,
    item: &Type,
    entry: &[u8],
    depth: usize,
    map: &mut Map<String, Value>,
) -> Result<(), DecodeError> {
    let (mut key, mut found) = (String::new(), None);
    let mut fields = Fields(entry);
    while let Some((tag, wire)) = fields.next()? {
        match (tag, wire) {
            (1, Wire::Bytes(text)) => key = string(text)?,
            (2, Wire::Bytes(message)) if matches!(plain(schemas, item), Type::List(_)) => {
                // A list cannot be a map's value on the wire; it is wrapped in a message of its own.
                found = Some(wrapped_list(schemas, item, message, depth)?);
            }
            (2, wire) => found = Some(value(schemas, item, wire, depth)?),
            _ => {}
        }
    }
    let empty = || match plain(schemas, item) {
        Type::String | Type::Bytes => Value::String(String::new()),
        _ => Value::Null,
    };
    map.insert(key, found.unwrap_or_else(empty));
    Ok(())
}

fn wrapped_list(
    schemas: &Schemas,
    type_: &Type,
    message: &[u8],
    depth: usize,
) -> Result<Value, DecodeError> {
    let mut list = Vec::new();
    if let Type::List(item) = plain(schemas, type_) {
        let mut fields = Fields(message);
        while let Some((tag, wire)) = fields.next()? {
            if tag == 1 {
                list_items(schemas, item, wire, depth, &mut list)?;
            }
        }
    }
    Ok(Value::Array(list))
}

fn value(
    schemas: &Schemas,
    type_: &Type,
    wire: Wire<'_>,
    depth: usize,
) -> Result<Value, DecodeError> {
    let name = match type_ {
        Type::Definition(index) => schemas.definition(*index).short_name(),
        _ => "",
    };
    Ok(match (plain(schemas, type_), wire) {
        (Type::String, Wire::Bytes(text)) => Value::String(string(text)?),
        (Type::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Type::Boolean, Wire::Varint(bit)) => Value::Bool(bit != 0),
        // Negative numbers are sign-extended to 64 bits on the wire.
        (Type::Int32 | Type::Int64, Wire::Varint(number)) => number.cast_signed().into(),
        (Type::Number, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Type::Number, Wire::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
        (Type::Quantity, Wire::Bytes(message)) => first_string(message)?,
        (Type::Time(_), Wire::Bytes(message)) => moment(message, name)?,
        (Type::IntOrString, Wire::Bytes(message)) => int_or_string(message)?,
        (Type::Definition(index), Wire::Bytes(message)) => {
            object(schemas, schemas.definition(*index), message, depth + 1)?
        }
        // Free-form JSON is only in fields that clients do not write.
        _ => Value::Null,
    })
}

/// The text in field 1 of a message.
fn first_string(message: &[u8]) -> Result<Value, DecodeError> {
    let mut text = Value::Null;
    let mut fields = Fields(message);
    while let Some((tag, wire)) = fields.next()? {
        if let (1, Wire::Bytes(bytes)) = (tag, wire) {
            text = Value::String(string(bytes)?);
        }
    }
    Ok(text)
}

fn moment(message: &[u8], name: &str) -> Result<Value, DecodeError> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    let mut fields = Fields(message);
    let mut given = false;
    while let Some((tag, wire)) = fields.next()? {
        match (tag, wire) {
            (1, Wire::Varint(number)) => (seconds, given) = (number.cast_signed(), true),
            (2, Wire::Varint(number)) => nanos = number.cast_signed(),
            _ => {}
        }
    }
    // The zero time is an empty message.
    if !given {
        return Ok(Value::Null);
    }
    let time = OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| wrong("proto: a time is out of range"))?;
    if name == "MicroTime" {
        let text = time.format(&Rfc3339).map_err(|e| wrong(&e.to_string()))?;
        let micros = nanos / 1000;
        return Ok(text.replace('Z', &format!(".{micros:06}Z")).into());
    }
    let text = time.format(&Rfc3339).map_err(|e| wrong(&e.to_string()))?;
    Ok(text.into())
}

fn int_or_string(message: &[u8]) -> Result<Value, DecodeError> {
    let (mut kind, mut number, mut text) = (0, 0i64, String::new());
    let mut fields = Fields(message);
    while let Some((tag, wire)) = fields.next()? {
        match (tag, wire) {
            (1, Wire::Varint(found)) => kind = found,
            (2, Wire::Varint(found)) => number = found.cast_signed(),
            (3, Wire::Bytes(found)) => text = string(found)?,
            _ => {}
        }
    }
    Ok(if kind == 0 {
        number.into()
    } else {
        text.into()
    })
}

#[cfg(test)]
mod tests;
