// SPDX-License-Identifier: Apache-2.0
//! From an object's JSON to its protobuf message, in one pass without a tree.
//!
//! What JSON leaves out is left out here too. Go writes most of that as zeros; who reads the message gets the same.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize as _;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::wire::{FIXED64, VARINT, put_bytes, put_key, put_message, put_number, put_varint};
use crate::scalar::{self, Precision};
use crate::types::{Definition, Property, SchemaRef, Schemas, Shape, Type};

/// JSON that is no object of the kind.
#[derive(Debug, thiserror::Error)]
#[error("an object cannot be written as protobuf")]
pub struct EncodeError(#[source] serde_json::Error);

impl SchemaRef {
    /// The message of one object of this kind, whose JSON has been checked when it was decoded.
    pub fn encode_protobuf(&self, json: &[u8]) -> Result<Vec<u8>, EncodeError> {
        // A message is shorter than JSON: it has numbers for names.
        let mut out = Vec::with_capacity(json.len());
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        self.put_object(&mut deserializer, &mut out)?;
        Ok(out)
    }

    /// As [`encode_protobuf`](Self::encode_protobuf), from a tree.
    pub fn encode_protobuf_value(&self, object: &Value) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.put_object(object, &mut out)?;
        Ok(out)
    }

    fn put_object<'de, D: Deserializer<'de, Error = serde_json::Error>>(
        &self,
        deserializer: D,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let message = Message {
            schemas: &self.schemas,
            definition: self.schemas.definition(self.index),
            out,
        };
        deserializer.deserialize_map(message).map_err(EncodeError)
    }
}

/// Writes the fields of an object.
struct Message<'a> {
    schemas: &'a Schemas,
    definition: &'a Definition,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        // Messages that Go embeds, by their numbers: their fields are scattered over the object.
        let mut embedded: Vec<(u32, Vec<u8>)> = Vec::new();
        while let Some(property) = fields.next_key_seed(Name(self.definition))? {
            let Some(property) = property.filter(|property| property.tag != 0) else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            let out = match property.inline_tag {
                0 => &mut *self.out,
                tag => {
                    let known = embedded.iter().position(|(embedded, _)| *embedded == tag);
                    let at = known.unwrap_or_else(|| {
                        embedded.push((tag, Vec::new()));
                        embedded.len() - 1
                    });
                    &mut embedded[at].1
                }
            };
            fields.next_value_seed(Field {
                schemas: self.schemas,
                type_: &property.type_,
                tag: property.tag,
                list: if property.wrapped {
                    List::Wrapped
                } else {
                    List::Repeated
                },
                null: Null::Absent,
                out,
            })?;
        }
        for (tag, message) in embedded {
            put_bytes(self.out, tag, &message);
        }
        Ok(())
    }
}

/// Finds the property that a name in JSON stands for.
struct Name<'a>(&'a Definition);

impl<'a, 'de> DeserializeSeed<'de> for Name<'a> {
    type Value = Option<&'a Property>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Name<'a> {
    type Value = Option<&'a Property>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.property(name))
    }
}

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    /// The field occurs once for each item.
    Repeated,
    /// The field is a message whose field 1 does.
    Wrapped,
}

/// What a null stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Null {
    /// The field is not there.
    Absent,
    /// The type's zero value: an item has a place even so.
    Zero,
}

/// Writes one field of a message, or one item of a list that is one.
struct Field<'a> {
    schemas: &'a Schemas,
    type_: &'a Type,
    tag: u32,
    list: List,
    null: Null,
    out: &'a mut Vec<u8>,
}

impl<'a> Field<'a> {
    /// The type behind names.
    fn plain(&self) -> &'a Type {
        self.schemas.plain(self.type_)
    }

    fn wrong<E: Error>(&self, found: &str) -> E {
        E::custom(format!("{found} where the type is {:?}", self.plain()))
    }

    /// Writes a null.
    fn nothing(self) {
        if self.null == Null::Absent {
            return;
        }
        match self.plain() {
            Type::Int32 | Type::Int64 | Type::Boolean => put_number(self.out, self.tag, 0),
            Type::Number => put_double(self.out, self.tag, 0.0),
            // Empty strings, bytes, messages and lists look alike.
            _ => put_bytes(self.out, self.tag, &[]),
        }
    }

    fn int_or_string(self, kind: i64, number: i64, text: &str) {
        let mut message = Vec::with_capacity(text.len() + 16);
        put_number(&mut message, 1, kind);
        put_number(&mut message, 2, number);
        put_bytes(&mut message, 3, text.as_bytes());
        put_bytes(self.out, self.tag, &message);
    }

    fn text(self, text: &str) {
        let mut message = Vec::with_capacity(text.len() + 4);
        put_bytes(&mut message, 1, text.as_bytes());
        put_bytes(self.out, self.tag, &message);
    }

    fn moment<E: Error>(self, text: &str, precision: Precision) -> Result<(), E> {
        let time = scalar::moment(text, precision).map_err(E::custom)?;
        let micros = match precision {
            Precision::Seconds => 0,
            Precision::Micros => time.microsecond(),
        };
        let mut message = Vec::with_capacity(12);
        put_number(&mut message, 1, time.unix_timestamp());
        put_number(&mut message, 2, i64::from(micros) * 1000);
        put_bytes(self.out, self.tag, &message);
        Ok(())
    }
}

fn put_double(out: &mut Vec<u8>, tag: u32, number: f64) {
    put_key(out, tag, FIXED64);
    out.extend_from_slice(&number.to_le_bytes());
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if *self.plain() != Type::Any {
            return deserializer.deserialize_any(self);
        }
        // Free-form JSON is kept as text.
        let value = Value::deserialize(deserializer)?;
        if value.is_null() {
            self.nothing();
        } else {
            self.text(&value.to_string());
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.nothing();
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.plain() {
            Type::Boolean => {
                put_key(self.out, self.tag, VARINT);
                put_varint(self.out, u64::from(value));
                Ok(())
            }
            _ => Err(self.wrong("a boolean")),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match self.plain() {
            Type::Int32 | Type::Int64 => put_number(self.out, self.tag, value),
            Type::IntOrString => self.int_or_string(0, value, ""),
            Type::Number => put_double(self.out, self.tag, value as f64),
            Type::Quantity => self.text(&value.to_string()),
            _ => return Err(self.wrong("a number")),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.plain() {
            Type::Number => put_double(self.out, self.tag, value),
            _ => return Err(self.wrong("a fraction")),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self.plain() {
            Type::String => put_bytes(self.out, self.tag, value.as_bytes()),
            Type::Bytes => {
                let bytes = STANDARD.decode(value).map_err(E::custom)?;
                put_bytes(self.out, self.tag, &bytes);
            }
            Type::Quantity => self.text(value),
            Type::IntOrString => self.int_or_string(1, 0, value),
            // The zero time is an empty message.
            Type::Time(_) if value.is_empty() => self.nothing(),
            Type::Time(precision) => return self.moment(value, *precision),
            _ => return Err(self.wrong("a string")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Type::List(item) = self.plain() else {
            return Err(self.wrong("a list"));
        };
        let schemas = self.schemas;
        let mut put = |out: &mut Vec<u8>, tag: u32| {
            while let Some(()) = items.next_element_seed(Field {
                schemas,
                type_: item,
                tag,
                list: List::Repeated,
                null: Null::Zero,
                out: &mut *out,
            })? {}
            Ok(())
        };
        match self.list {
            List::Repeated => put(self.out, self.tag),
            List::Wrapped => put_message(self.out, self.tag, |out| put(out, 1)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let schemas = self.schemas;
        match self.plain() {
            Type::Map(item) => {
                while let Some(key) = entries.next_key::<String>()? {
                    put_message(self.out, self.tag, |out| {
                        put_bytes(out, 1, key.as_bytes());
                        entries.next_value_seed(Field {
                            schemas,
                            type_: item,
                            tag: 2,
                            list: List::Wrapped,
                            null: Null::Zero,
                            out,
                        })
                    })?;
                }
                Ok(())
            }
            Type::Definition(index) => {
                let definition = schemas.definition(*index);
                if !matches!(definition.shape, Shape::Object(_)) {
                    return Err(self.wrong("an object"));
                }
                put_message(self.out, self.tag, |out| {
                    let message = Message {
                        schemas,
                        definition,
                        out,
                    };
                    message.visit_map(entries)
                })
            }
            _ => Err(self.wrong("an object")),
        }
    }
}
