// SPDX-License-Identifier: Apache-2.0
//! From JSON to a tree whose types are right.
//!
//! One pass with the schema beside it. Unknown fields are left out and listed, duplicate fields are listed (the last
//! one counts, as in Kubernetes), nulls and empty lists and maps that say nothing are left out, and quantities, times
//! and base64 come back in the form that Kubernetes writes. Messages are worded as those of Kubernetes' decoder
//! (`sigs.k8s.io/json`), whose text `kubectl` shows.

use std::cell::RefCell;
use std::fmt;

use knarr_base::quantity::{ParseQuantityError, Quantity};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::place::{Place, Step};
use crate::scalar;
use crate::types::{Definition, SchemaRef, Schemas, Shape, Type};

/// Nesting that no real object reaches; deeper JSON is an attack on the stack.
const DEPTH_MAX: usize = 100;
/// Unknown and duplicate fields that are listed, as in `sigs.k8s.io/json`; a body of nothing else would make a long
/// answer.
const PROBLEMS_MAX: usize = 100;

/// A decoded object and what was wrong with it but can be overlooked.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object without unknown fields.
    pub value: Value,
    /// `unknown field "spec.foo"`, at most 100.
    pub unknown: Vec<String>,
    /// `duplicate field "spec.replicas"`, at most 100.
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
        /// Field path in the object, e.g. `spec.containers[0].name`; empty for the object itself.
        path: String,
        /// The whole message.
        message: String,
    },
}

/// What a pass collects.
#[derive(Default)]
struct Found {
    unknown: Vec<String>,
    duplicate: Vec<String>,
    error: Option<DecodeError>,
}

impl SchemaRef {
    /// Decodes one object of this kind.
    pub fn decode(&self, json: &[u8]) -> Result<Decoded, DecodeError> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let decoded = self.pass(&mut deserializer);
        if let Err(DecodeError::Syntax { .. }) = decoded {
            return decoded;
        }
        // What is no JSON at all is that first of all, wherever a wrong type stands.
        let rest = match &decoded {
            Ok(_) => deserializer.end(),
            Err(_) => serde_json::from_slice::<IgnoredAny>(json).map(|_| ()),
        };
        rest.map_err(|error| syntax(&error))?;
        decoded
    }

    /// Checks and completes a tree as [`decode`](Self::decode) does bytes.
    pub fn decode_value(&self, value: Value) -> Result<Decoded, DecodeError> {
        self.pass(value)
    }

    fn pass<'de, D: Deserializer<'de, Error = serde_json::Error>>(
        &self,
        deserializer: D,
    ) -> Result<Decoded, DecodeError> {
        let found = RefCell::new(Found::default());
        let seed = Seed {
            schemas: &self.schemas,
            type_: &Type::Definition(self.index),
            place: &Place::ROOT,
            found: &found,
        };
        let value = seed.deserialize(deserializer);
        let found = found.into_inner();
        match value {
            Ok(value) => Ok(Decoded {
                value: value.unwrap_or_else(|| Value::Object(Map::new())),
                unknown: found.unknown,
                duplicate: found.duplicate,
            }),
            Err(error) => Err(found.error.unwrap_or_else(|| syntax(&error))),
        }
    }
}

fn syntax(error: &serde_json::Error) -> DecodeError {
    let message = if error.is_eof() {
        "unexpected end of JSON input".to_owned()
    } else {
        error.to_string()
    };
    DecodeError::Syntax { message }
}

/// What the next value has to be, and where it stands.
struct Seed<'a> {
    schemas: &'a Schemas,
    type_: &'a Type,
    place: &'a Place<'a>,
    found: &'a RefCell<Found>,
}

impl<'a> Seed<'a> {
    fn definition(&self) -> Option<&'a Definition> {
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

    /// `json_type` is Go's word for what stands there instead.
    fn wrong<E: Error>(&self, json_type: &str) -> E {
        // Quantities read themselves, and have one message for everything.
        if *self.plain() == Type::Quantity {
            return self.malformed(ParseQuantityError.to_string());
        }
        let go_type = go_type(self.schemas, self.type_);
        let message = match self.place.go_field() {
            Some(field) => format!(
                "json: cannot unmarshal {json_type} into Go struct field {field} of type {go_type}"
            ),
            None => format!("json: cannot unmarshal {json_type} into Go value of type {go_type}"),
        };
        self.malformed(message)
    }

    fn malformed<E: Error>(&self, message: String) -> E {
        let path = self.place.to_string();
        self.found.borrow_mut().error = Some(DecodeError::Type { path, message });
        E::custom("type")
    }

    /// The place of a value inside this one.
    fn inside<'b, E: Error>(&'b self, step: Step<'b>) -> Result<Place<'b>, E> {
        if self.place.depth() == DEPTH_MAX {
            self.found.borrow_mut().error = Some(DecodeError::Syntax {
                message: format!("exceeded max depth of {DEPTH_MAX}"),
            });
            return Err(E::custom("depth"));
        }
        Ok(self.place.step(step))
    }

    fn at<'b>(&'b self, place: &'b Place<'b>, type_: &'b Type) -> Seed<'b> {
        Seed {
            schemas: self.schemas,
            type_,
            place,
            found: self.found,
        }
    }

    fn unknown(&self, place: &Place<'_>) {
        note(&mut self.found.borrow_mut().unknown, || {
            format!("unknown field {:?}", place.to_string())
        });
    }

    fn duplicate(&self, place: &Place<'_>) {
        note(&mut self.found.borrow_mut().duplicate, || {
            format!("duplicate field {:?}", place.to_string())
        });
    }

    fn fields<'de, A: MapAccess<'de>>(
        &self,
        definition: &Definition,
        mut fields: A,
    ) -> Result<Value, A::Error> {
        let mut object = Map::new();
        // Fields that have been read; a null leaves no trace in the object.
        let mut seen: Vec<&str> = Vec::new();
        while let Some(name) = fields.next_key::<String>()? {
            let place = self.inside(Step::Field(&name, definition.short_name()))?;
            let Some(property) = definition.property(&name) else {
                fields.next_value::<IgnoredAny>()?;
                self.unknown(&place);
                continue;
            };
            let value = fields.next_value_seed(self.at(&place, &property.type_))?;
            if seen.contains(&&*property.name) {
                self.duplicate(&place);
            } else {
                seen.push(&property.name);
            }
            match value.filter(|value| property.required || !property.says_nothing(value)) {
                Some(value) => object.insert(name, value),
                None => object.shift_remove(&name),
            };
        }
        Ok(Value::Object(object))
    }

    fn entries<'de, A: MapAccess<'de>>(
        &self,
        item: &Type,
        mut entries: A,
    ) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = self.inside(Step::Key(&key))?;
            let value = entries.next_value_seed(self.at(&place, item))?;
            if object.contains_key(&key) {
                self.duplicate(&place);
            }
            // A null in a map is the zero value, as in Go.
            object.insert(key, value.unwrap_or_else(|| zero(self.schemas, item)));
        }
        Ok(Value::Object(object))
    }
}

fn note(list: &mut Vec<String>, problem: impl FnOnce() -> String) {
    if list.len() < PROBLEMS_MAX {
        let problem = problem();
        if !list.contains(&problem) {
            list.push(problem);
        }
    }
}

/// The name of a type in Kubernetes' Go sources, as far as messages show it.
fn go_type(schemas: &Schemas, type_: &Type) -> String {
    match type_ {
        Type::Definition(index) => match &schemas.definition(*index).shape {
            Shape::Object(_) => format!("v1.{}", schemas.definition(*index).short_name()),
            Shape::Other(type_) => go_type(schemas, type_),
        },
        Type::Map(item) => match go_type(schemas, item).as_str() {
            "resource.Quantity" => "v1.ResourceList".to_owned(),
            item => format!("map[string]{item}"),
        },
        Type::List(item) => format!("[]{}", go_type(schemas, item)),
        // Times read their text, and int-or-string its number, with a decoder of their own.
        Type::String | Type::Time(_) => "string".to_owned(),
        Type::Int32 | Type::IntOrString => "int32".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
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
            Type::Int32 | Type::IntOrString if i32::try_from(value).is_err() => {
                Err(self.wrong(&format!("number {value}")))
            }
            Type::Int32 | Type::Int64 | Type::IntOrString | Type::Number | Type::Any => {
                Ok(Some(value.into()))
            }
            Type::Quantity => self.visit_str(&value.to_string()),
            _ => Err(self.wrong("number")),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => match self.plain() {
                Type::Any | Type::Number => Ok(Some(value.into())),
                Type::Quantity => self.visit_str(&value.to_string()),
                Type::Int32 | Type::Int64 | Type::IntOrString => {
                    Err(self.wrong(&format!("number {value}")))
                }
                _ => Err(self.wrong("number")),
            },
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        match self.plain() {
            Type::Number | Type::Any => Ok(Number::from_f64(value).map(Value::Number)),
            Type::Quantity => self.visit_str(&value.to_string()),
            Type::Int32 | Type::Int64 | Type::IntOrString => {
                Err(self.wrong(&format!("number {value:?}")))
            }
            _ => Err(self.wrong("number")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        let text = match self.plain() {
            Type::String | Type::IntOrString | Type::Any => Ok(value.to_owned()),
            Type::Bytes => scalar::base64(value),
            Type::Time(precision) => scalar::time(value, *precision),
            Type::Quantity => {
                let parsed = value.parse::<Quantity>();
                parsed
                    .map(|quantity| quantity.to_string())
                    .map_err(|error| error.to_string())
            }
            _ => return Err(self.wrong("string")),
        };
        match text {
            Ok(text) => Ok(Some(Value::String(text))),
            Err(message) => Err(self.malformed(message)),
        }
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        match self.plain() {
            Type::String | Type::IntOrString | Type::Any => Ok(Some(Value::String(value))),
            _ => self.visit_str(&value),
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
            let place = self.inside(Step::Item(list.len()))?;
            match items.next_element_seed(self.at(&place, item))? {
                // A null in a list is the zero value, as in Go.
                Some(value) => list.push(value.unwrap_or_else(|| zero(self.schemas, item))),
                None => return Ok(Some(Value::Array(list))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        match (self.definition(), self.plain()) {
            (_, Type::Map(item)) => self.entries(item, fields).map(Some),
            (_, Type::Any) => self.entries(&Type::Any, fields).map(Some),
            (Some(definition), Type::Definition(_)) => self.fields(definition, fields).map(Some),
            _ => Err(self.wrong("object")),
        }
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
        Type::String | Type::Bytes | Type::Time(_) => "".into(),
        Type::Quantity => "0".into(),
        Type::IntOrString | Type::Int32 | Type::Int64 | Type::Number => 0.into(),
        Type::Boolean => false.into(),
        Type::Any => Value::Null,
    }
}

#[cfg(test)]
mod tests;
