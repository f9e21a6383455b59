// SPDX-License-Identifier: Apache-2.0
//! YAML as a JSON tree, within bounds: an alias (`*name`) stands for all that its anchor (`&name`) names, so a body of
//! a few bytes could become a tree that fills the memory.
//!
//! Called by the codec, on one whole document. How deep it nests is bounded by the YAML library.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::codec::BODY_BYTES_MAX;

/// What a body comes to with its aliases written out: its texts' bytes, and one for each value. Without aliases that is
/// never more than the body has, so this much could have been sent in the first place.
const EXPANDED_BYTES_MAX: usize = BODY_BYTES_MAX;

/// Reads one document.
pub(in crate::codec) fn parse(body: &[u8]) -> Result<Value, serde_yaml_ng::Error> {
    let left = Cell::new(EXPANDED_BYTES_MAX);
    let number_bytes = if may_repeat(body) {
        longest_number(body)
    } else {
        1
    };
    let tree = Tree {
        left: &left,
        number_bytes,
    };
    tree.deserialize(serde_yaml_ng::Deserializer::from_slice(body))
}

/// Whether there can be an alias: both signs also have other meanings.
fn may_repeat(body: &[u8]) -> bool {
    body.contains(&b'&') && body.contains(&b'*')
}

/// The length of the longest number there can be. Each repetition is read anew, and a number is seen only after that:
/// one of a megabyte, repeated, would be no memory and hours of work.
fn longest_number(body: &[u8]) -> usize {
    let is_part = |byte: &u8| byte.is_ascii_hexdigit() || b"xXoO.+-_".contains(byte);
    let runs = body.split(|byte| !is_part(byte)).map(<[u8]>::len);
    runs.max().unwrap_or(0).max(1)
}

/// A value that takes what it comes to from what is left.
#[derive(Clone, Copy)]
struct Tree<'a> {
    left: &'a Cell<usize>,
    /// What one number comes to.
    number_bytes: usize,
}

impl Tree<'_> {
    fn take<E: Error>(self, bytes: usize) -> Result<(), E> {
        match self.left.get().checked_sub(bytes) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(E::custom(format!(
                "the aliases (`*name`) in it stand for more than {EXPANDED_BYTES_MAX} bytes: repeat less, or send JSON"
            ))),
        }
    }

    fn number<E: Error>(self, number: impl Into<Value>) -> Result<Value, E> {
        self.take(self.number_bytes)?;
        Ok(number.into())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.take(1)?;
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.number(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.number(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.number(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.take(1 + value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.take(1)?;
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.take(1)?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.take(1)?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            self.take(name.len())?;
            object.insert(name, members.next_value_seed(self)?);
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests;
