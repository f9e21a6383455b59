// SPDX-License-Identifier: Apache-2.0
//! From a protobuf message to the tree that the same object in JSON decodes to.
//!
//! Go writes every field that is no pointer, also where it says nothing. The tree goes through the check that JSON goes
//! through, which leaves out what says nothing and puts times and quantities into their form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::wire::{Fields, Wire, string, wrong};
use crate::decode::{DecodeError, Decoded};
use crate::scalar::{self, Precision};
use crate::types::{Definition, Property, SchemaRef, Schemas, Shape, Type};

/// Nesting that no real object reaches.
const DEPTH_MAX: usize = 100;

impl SchemaRef {
    /// Decodes one object of this kind from its message. Fields with unknown numbers are left out, as in Go.
    pub fn decode_protobuf(&self, message: &[u8]) -> Result<Decoded, DecodeError> {
        let reader = Reader {
            schemas: &self.schemas,
        };
        let definition = self.schemas.definition(self.index);
        let tree = reader.object(definition, message, 0)?;
        self.decode_value(tree)
    }
}

struct Reader<'a> {
    schemas: &'a Schemas,
}

impl Reader<'_> {
    fn object(
        &self,
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
        self.fields(properties, message, 0, depth, &mut found)?;
        Ok(Value::Object(found))
    }

    /// Reads the fields of a message into an object: the object's own (`inline` is 0), or those that the message with
    /// this number holds for it.
    fn fields(
        &self,
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
                let holds = |p: &Property| p.inline_tag == tag && tag != 0;
                let holds = inline == 0 && properties.iter().any(holds);
                if let (true, Wire::Bytes(inner)) = (holds, wire) {
                    self.fields(properties, inner, tag, depth, found)?;
                }
                continue;
            };
            self.field(property, wire, depth, found)?;
        }
        Ok(())
    }

    fn field(
        &self,
        property: &Property,
        wire: Wire<'_>,
        depth: usize,
        found: &mut Map<String, Value>,
    ) -> Result<(), DecodeError> {
        let name = &*property.name;
        match (self.schemas.plain(&property.type_), wire) {
            (Type::List(_), Wire::Bytes(message)) if property.wrapped => {
                let list = self.wrapped_list(&property.type_, message, depth)?;
                found.insert(name.to_owned(), list);
            }
            (Type::List(item), wire) => {
                let list = found
                    .entry(name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    self.items(item, wire, depth, list)?;
                }
            }
            (Type::Map(item), Wire::Bytes(entry)) => {
                let map = found
                    .entry(name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    self.entry(item, entry, depth, map)?;
                }
            }
            _ => {
                let value = self.value(&property.type_, wire, depth)?;
                if !value.is_null() {
                    found.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    fn items(
        &self,
        item: &Type,
        wire: Wire<'_>,
        depth: usize,
        list: &mut Vec<Value>,
    ) -> Result<(), DecodeError> {
        let number = matches!(
            self.schemas.plain(item),
            Type::Int32 | Type::Int64 | Type::Boolean
        );
        if let (true, Wire::Bytes(packed)) = (number, wire) {
            let mut packed = Fields(packed);
            while !packed.0.is_empty() {
                let next = Wire::Varint(packed.varint()?);
                list.push(self.value(item, next, depth)?);
            }
            return Ok(());
        }
        list.push(self.value(item, wire, depth)?);
        Ok(())
    }

    fn entry(
        &self,
        item: &Type,
        entry: &[u8],
        depth: usize,
        map: &mut Map<String, Value>,
    ) -> Result<(), DecodeError> {
        let (mut key, mut found) = (String::new(), Value::Null);
        let mut fields = Fields(entry);
        while let Some((tag, wire)) = fields.next()? {
            match (tag, wire) {
                (1, Wire::Bytes(text)) => key = string(text)?,
                (2, Wire::Bytes(message)) if matches!(self.schemas.plain(item), Type::List(_)) => {
                    // A list cannot be a map's value on the wire; it is wrapped in a message of its own.
                    found = self.wrapped_list(item, message, depth)?;
                }
                (2, wire) => found = self.value(item, wire, depth)?,
                _ => {}
            }
        }
        // A null is the zero value of the map's type, as in JSON.
        map.insert(key, found);
        Ok(())
    }

    fn wrapped_list(
        &self,
        type_: &Type,
        message: &[u8],
        depth: usize,
    ) -> Result<Value, DecodeError> {
        let mut list = Vec::new();
        if let Type::List(item) = self.schemas.plain(type_) {
            let mut fields = Fields(message);
            while let Some((tag, wire)) = fields.next()? {
                if tag == 1 {
                    self.items(item, wire, depth, &mut list)?;
                }
            }
        }
        Ok(Value::Array(list))
    }

    /// One value; null where the message says nothing, or has another type than the field.
    fn value(&self, type_: &Type, wire: Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
        Ok(match (self.schemas.plain(type_), wire) {
            (Type::String, Wire::Bytes(text)) => Value::String(string(text)?),
            (Type::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
            (Type::Boolean, Wire::Varint(bit)) => Value::Bool(bit != 0),
            // Negative numbers are sign-extended to 64 bits on the wire.
            (Type::Int32 | Type::Int64, Wire::Varint(number)) => number.cast_signed().into(),
            (Type::Number, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
            (Type::Number, Wire::Fixed32(bits)) => f64::from(f32::from_bits(bits)).into(),
            (Type::Quantity, Wire::Bytes(message)) => match first(message)? {
                Some([]) | None => Value::Null,
                Some(text) => Value::String(string(text)?),
            },
            (Type::Time(precision), Wire::Bytes(message)) => moment(message, *precision)?,
            (Type::IntOrString, Wire::Bytes(message)) => int_or_string(message)?,
            // `RawExtension`, `FieldsV1` and `JSON` hold JSON.
            (Type::Any, Wire::Bytes(message)) => match first(message)? {
                Some([]) | None => Value::Null,
                Some(json) => serde_json::from_slice(json).map_err(|e| wrong(&e.to_string()))?,
            },
            (Type::Definition(index), Wire::Bytes(message)) => {
                self.object(self.schemas.definition(*index), message, depth + 1)?
            }
            _ => Value::Null,
        })
    }
}

/// The bytes in field 1 of a message.
fn first(message: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut found = None;
    let mut fields = Fields(message);
    while let Some((tag, wire)) = fields.next()? {
        if let (1, Wire::Bytes(bytes)) = (tag, wire) {
            found = Some(bytes);
        }
    }
    Ok(found)
}

fn moment(message: &[u8], precision: Precision) -> Result<Value, DecodeError> {
    let (mut seconds, mut nanos) = (None, 0i64);
    let mut fields = Fields(message);
    while let Some((tag, wire)) = fields.next()? {
        match (tag, wire) {
            (1, Wire::Varint(number)) => seconds = Some(number.cast_signed()),
            (2, Wire::Varint(number)) => nanos = number.cast_signed(),
            _ => {}
        }
    }
    // The zero time is an empty message.
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    let out_of_range = || wrong("proto: a time is out of range");
    let nanos = u32::try_from(nanos).map_err(|_| out_of_range())?;
    let time = OffsetDateTime::from_unix_timestamp(seconds)
        .and_then(|time| time.replace_nanosecond(nanos))
        .map_err(|_| out_of_range())?;
    if !scalar::is_representable(time) {
        return Err(out_of_range());
    }
    Ok(scalar::written(time, precision).into())
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
    Ok(match kind {
        0 => number.into(),
        _ => text.into(),
    })
}
