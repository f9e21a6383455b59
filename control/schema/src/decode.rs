// SPDX-License-Identifier: Apache-2.0
//! From JSON bytes to a tree whose types are right.
//!
//! One pass over the bytes with the schema beside it. Unknown fields are left out and listed, duplicate
//! fields are listed (the last one counts, as in Kubernetes), nulls of typed fields are left out, and a
//! quantity that was written as a number becomes a string. Messages are worded as those of Kubernetes' decoder.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::scalar;
use crate::types::{Definition, SchemaRef, Schemas, Shape, Type};

/// Nesting that no real object reaches; deeper JSON is an attack on the stack.
const DEPTH_MAX: usize = 100;

/// A decoded object and what was wrong with it but can be overlooked.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object without unknown fields.
    pub value: Value,
    /// `unknown field "spec.foo"`
    pub unknown: Vec<String>,
    /// `duplicate field "spec.replicas"`
    pub duplicate: Vec<String>,
}

/// Bytes that cannot become an object of the kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is no JSON.
    #[error("{message}")]
    Syntax {
        /// What the parser found and where.
        message: String,
    },
    /// A value has the wrong type or form.
    #[error("{message}")]
    Type {
        /// Field path in the object, e.g. `spec.replicas`; empty for the object itself.
        path: String,
        /// The whole message.
        message: String,
    },
}

/// What a pass collects.
#[derive(Default)]
struct Found {
    path: String,
    /// Short names of the definitions around the current value.
    structs: Vec<String>,
    depth: usize,
    unknown: Vec<String>,
    duplicate: Vec<String>,
    error: Option<DecodeError>,
}

impl SchemaRef {
    /// Decodes one object of this kind.
    pub fn decode(&self, json: &[u8]) -> Result<Decoded, DecodeError> {
        let found = RefCell::new(Found::default());
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let seed = Seed {
            schemas: self.schemas,
            type_: &Type::Definition(self.index),
            found: &found,
        };
        let value = seed
            .deserialize(&mut deserializer)
            .and_then(|value| deserializer.end().map(|()| value));
        let found = found.into_inner();
        match value {
            Ok(value) => Ok(Decoded {
                value: value.unwrap_or_else(|| Value::Object(Map::new())),
                unknown: found.unknown,
                duplicate: found.duplicate,
            }),
            Err(error) => Err(found.error.unwrap_or_else(|| DecodeError::Syntax {
                message: error.to_string(),
            })),
        }
    }
}

struct Seed<'a> {
    schemas: &'static Schemas,
    type_: &'a Type,
    found: &'a RefCell<Found>,
}

impl<'a> Seed<'a> {
    fn with<'b>(&'b self, type_: &'b Type) -> Seed<'b>
    where
        'a: 'b,
    {
        Seed {
            schemas: self.schemas,
            type_,
            found: self.found,
        }
    }

    fn definition(&self) -> Option<&'static Definition> {
        match self.type_ {
            Type::Definition(index) => Some(self.schemas.definition(*index)),
            _ => None,
        }
    }

    /// The type behind names: a definition that is no object is what it stands for.
    fn plain(&self) -> &Type {
        match self.definition().map(|definition| &definition.shape) {
            Some(Shape::Other(type_)) => type_,
            _ => self.type_,
        }
    }

    fn wrong<E: Error>(&self, json_type: &str) -> E {
        let mut found = self.found.borrow_mut();
        let go_type = go_type(self.schemas, self.type_);
        let plain_path = without_indexes(&found.path);
        let message = match found.structs.last() {
            Some(struct_) => format!(
                "json: cannot unmarshal {json_type} into Go struct field {struct_}.{plain_path} of type {go_type}"
            ),
            None => format!("json: cannot unmarshal {json_type} into Go value of type {go_type}"),
        };
        let path = found.path.clone();
        found.error = Some(DecodeError::Type { path, message });
        E::custom("type")
    }

    fn malformed<E: Error>(&self, message: String) -> E {
        let mut found = self.found.borrow_mut();
        let path = found.path.clone();
        found.error = Some(DecodeError::Type { path, message });
        E::custom("form")
    }

    fn descend<E: Error>(&self, segment: &str) -> Result<usize, E> {
        let mut found = self.found.borrow_mut();
        if found.depth == DEPTH_MAX {
            found.error = Some(DecodeError::Syntax {
                message: format!("exceeded max depth of {DEPTH_MAX}"),
            });
            return Err(E::custom("depth"));
        }
        found.depth += 1;
        let length = found.path.len();
        if length > 0 && !segment.starts_with('[') {
            found.path.push('.');
        }
        found.path.push_str(segment);
        Ok(length)
    }

    fn ascend(&self, length: usize) {
        let mut found = self.found.borrow_mut();
        found.depth -= 1;
        found.path.truncate(length);
    }
}

fn without_indexes(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside |= *c == '[';
            let keep = !inside;
            inside &= *c != ']';
            keep
        })
        .collect()
}

fn go_type(schemas: &Schemas, type_: &Type) -> String {
    match type_ {
        Type::Definition(index) => format!("v1.{}", schemas.definition(*index).short_name()),
        Type::Map(item) => format!("map[string]{}", go_type(schemas, item)),
        Type::List(item) => format!("[]{}", go_type(schemas, item)),
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::DateTime => "v1.Time".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Number => "float64".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::Any => "interface {}".to_owned(),
    }
}

/// `None` stands for a null that is left out.
impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(matches!(self.plain(), Type::Any).then_some(Value::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        match self.plain() {
            Type::Boolean | Type::Any => Ok(Some(Value::Bool(value))),
            _ => Err(self.wrong("bool")),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        match self.plain() {
            Type::Int32 if i32::try_from(value).is_err() => {
                Err(self.wrong(&format!("number {value}")))
            }
            Type::IntOrString if i32::try_from(value).is_err() => {
                Err(self.wrong(&format!("number {value}")))
            }
            Type::Int32 | Type::Int64 | Type::IntOrString | Type::Number | Type::Any => {
                Ok(Some(value.into()))
            }
            Type::Quantity => Ok(Some(value.to_string().into())),
            _ => Err(self.wrong("number")),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => match self.plain() {
                Type::Any | Type::Number => Ok(Some(value.into())),
                Type::Quantity => Ok(Some(value.to_string().into())),
                _ => Err(self.wrong(&format!("number {value}"))),
            },
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        match self.plain() {
            Type::Number | Type::Any => Ok(Number::from_f64(value).map(Value::Number)),
            Type::Quantity => Ok(Some(value.to_string().into())),
            Type::Int32 | Type::Int64 | Type::IntOrString => {
                Err(self.wrong(&format!("number {value:?}")))
            }
            _ => Err(self.wrong("number")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        let checked = match self.plain() {
            Type::String | Type::IntOrString | Type::Any => Ok(()),
            Type::Bytes => scalar::check_base64(value),
            Type::DateTime => scalar::check_time(value),
            Type::Quantity => scalar::check_quantity(value),
            _ => return Err(self.wrong("string")),
        };
        match checked {
            Ok(()) => Ok(Some(value.into())),
            Err(message) => Err(self.malformed(message)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let item = match self.plain() {
            Type::List(item) => &**item,
            Type::Any => &Type::Any,
            _ => return Err(self.wrong("array")),
        };
        let mut list = Vec::new();
        loop {
            let length = self.descend(&format!("[{}]", list.len()))?;
            let next = items.next_element_seed(self.with(item))?;
            self.ascend(length);
            match next {
                // A null in a list is the zero value, as in Go.
                Some(value) => list.push(value.unwrap_or_else(|| zero(self.schemas, item))),
                None => return Ok(Some(Value::Array(list))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let definition = self
            .definition()
            .filter(|d| matches!(d.shape, Shape::Object(_)));
        let map_item = match (definition, self.plain()) {
            (Some(_), _) => None,
            (None, Type::Map(item)) => Some(&**item),
            (None, Type::Any) => Some(&Type::Any),
            _ => return Err(self.wrong("object")),
        };
        if let Some(definition) = definition {
            let name = definition.short_name().to_owned();
            self.found.borrow_mut().structs.push(name);
        }
        let mut object = Map::new();
        let mut seen: Vec<String> = Vec::new();
        while let Some(name) = fields.next_key::<String>()? {
            let length = self.descend(&name)?;
            let twice = seen.contains(&name);
            let known = match (definition, map_item) {
                (Some(definition), _) => definition.property(&name).map(|property| &property.type_),
                (None, item) => item,
            };
            match known {
                Some(type_) => {
                    let value = fields.next_value_seed(self.with(type_))?;
                    if twice {
                        let mut found = self.found.borrow_mut();
                        let message = format!("duplicate field {:?}", found.path);
                        found.duplicate.push(message);
                    }
                    match value {
                        Some(value) => object.insert(name.clone(), value),
                        None => object.shift_remove(&name),
                    };
                    if !twice && definition.is_some() {
                        seen.push(name);
                    }
                }
                None => {
                    fields.next_value::<serde::de::IgnoredAny>()?;
                    let mut found = self.found.borrow_mut();
                    let message = format!("unknown field {:?}", found.path);
                    if !found.unknown.contains(&message) {
                        found.unknown.push(message);
                    }
                }
            }
            self.ascend(length);
        }
        if definition.is_some() {
            self.found.borrow_mut().structs.pop();
        }
        Ok(Some(Value::Object(object)))
    }
}

fn zero(schemas: &Schemas, type_: &Type) -> Value {
    match type_ {
        Type::Definition(index) => match &schemas.definition(*index).shape {
            Shape::Object(_) => Value::Object(Map::new()),
            Shape::Other(type_) => zero(schemas, type_),
        },
        Type::Map(_) => Value::Object(Map::new()),
        Type::List(_) => Value::Array(Vec::new()),
        Type::String | Type::Bytes | Type::DateTime => "".into(),
        Type::Quantity => "0".into(),
        Type::IntOrString | Type::Int32 | Type::Int64 | Type::Number => 0.into(),
        Type::Boolean => false.into(),
        Type::Any => Value::Null,
    }
}

#[cfg(test)]
mod tests;
