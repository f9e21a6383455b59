// SPDX-License-Identifier: Apache-2.0
//! Schemas in memory: one compact tree for each definition, inflated once from what `build.rs` made.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, OnceLock};

use flate2::read::DeflateDecoder;
use serde_json::Value;

use crate::scalar::Precision;

mod rules;

pub use rules::TooSmall;

use rules::{AllRules, Rules};

const TYPES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/types.deflate"));
const COMPONENTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/components.deflate"));
pub(crate) const REFERENCE: &str = "#/components/schemas/";

/// Index of a definition.
pub(crate) type Index = u32;

/// What a value may be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    /// Another definition.
    Definition(Index),
    Map(Box<Type>),
    List(Box<Type>),
    String,
    /// Base64.
    Bytes,
    /// RFC 3339.
    Time(Precision),
    Quantity,
    IntOrString,
    Int32,
    Int64,
    Number,
    Boolean,
    /// Any JSON, kept as it is.
    Any,
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PatchRule {
    pub(crate) merge: bool,
    pub(crate) replace: bool,
    pub(crate) merge_key: Option<Box<str>>,
    /// The other keys of the list, where the merge key alone does not tell its elements apart.
    pub(crate) more_keys: Box<[Box<str>]>,
}

/// A field of an object.
#[derive(Debug)]
pub(crate) struct Property {
    pub(crate) name: Box<str>,
    pub(crate) type_: Type,
    pub(crate) patch: PatchRule,
    /// Whether an object without it is not whole.
    pub(crate) required: bool,
    /// Whether false, 0 and "" say something other than nothing at all: it is a pointer in Go.
    pub(crate) keeps_zero: bool,
    /// Its number in protobuf; 0 where that is not known.
    pub(crate) tag: u32,
    /// The number of the message that holds it in protobuf, where JSON has it one level further up; else 0.
    pub(crate) inline_tag: u32,
    /// Whether it is a list that protobuf has in a message of its own.
    pub(crate) wrapped: bool,
}

impl Property {
    /// Whether leaving an empty list or map, or a false, 0 or "" out changes nothing: Kubernetes writes none (`omitempty`),
    /// except where the field is required or a pointer.
    pub(crate) fn says_nothing(&self, value: &Value) -> bool {
        let is_zero = match (&self.type_, value) {
            (Type::List(_), Value::Array(list)) => return list.is_empty(),
            (Type::Map(_), Value::Object(map)) => return map.is_empty(),
            (Type::Boolean, Value::Bool(value)) => !value,
            (Type::Int32 | Type::Int64, Value::Number(number)) => number.as_i64() == Some(0),
            (Type::String, Value::String(text)) => text.is_empty(),
            _ => false,
        };
        is_zero && !self.keeps_zero
    }
}

/// An object with named fields, or a type that has a name.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) name: Box<str>,
    pub(crate) shape: Shape,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// Sorted by name.
    Object(Box<[Property]>),
    Other(Type),
}

impl Definition {
    /// `DeploymentSpec`
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    pub(crate) fn property(&self, name: &str) -> Option<&Property> {
        let Shape::Object(properties) = &self.shape else {
            return None;
        };
        let at = properties
            .binary_search_by(|property| (*property.name).cmp(name))
            .ok()?;
        Some(&properties[at])
    }
}

/// Group, version and kind.
type KindNames = (Box<str>, Box<str>, Box<str>);

/// The schemas of the built-in kinds, or of these and others.
#[derive(Debug, Default)]
pub struct Schemas {
    /// What these schemas add to; its definitions have the first indices.
    base: Option<Arc<Schemas>>,
    pub(crate) definitions: Vec<Definition>,
    /// Sorted by names.
    kinds: Vec<(KindNames, Index)>,
    /// Of the built-in definitions; others have none.
    pub(crate) rules: Arc<AllRules>,
    /// OpenAPI components besides the built-in ones, as `build.rs` writes those.
    documents: String,
}

/// The schema of one kind.
#[derive(Debug, Clone)]
pub struct SchemaRef {
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) index: Index,
}

impl SchemaRef {
    /// Whether the kind has a protobuf message: those that are made while the program runs have none.
    #[must_use]
    pub fn has_message(&self) -> bool {
        let base = self.schemas.base.as_ref();
        base.is_none_or(|base| (self.index as usize) < base.definitions.len())
    }
}

/// Inflates one of the blobs that `build.rs` made. They are part of the program, so they are well-formed.
fn inflate(blob: &[u8]) -> String {
    let mut text = String::new();
    let read = DeflateDecoder::new(blob).read_to_string(&mut text);
    read.expect("the built-in schemas were compressed by build.rs");
    text
}

impl Schemas {
    /// The built-in schemas, inflated at the first call.
    pub fn builtin() -> Arc<Self> {
        static BUILTIN: OnceLock<Arc<Schemas>> = OnceLock::new();
        Arc::clone(BUILTIN.get_or_init(|| Arc::new(Self::read(&inflate(TYPES)))))
    }

    /// The schema of a kind; the group is empty for core.
    pub fn kind(self: &Arc<Self>, group: &str, version: &str, kind: &str) -> Option<SchemaRef> {
        Some(SchemaRef {
            schemas: Arc::clone(self),
            index: self.index(group, version, kind)?,
        })
    }

    pub(crate) fn index(&self, group: &str, version: &str, kind: &str) -> Option<Index> {
        let named = |(names, _): &(KindNames, Index)| {
            (&*names.0, &*names.1, &*names.2).cmp(&(group, version, kind))
        };
        match self.kinds.binary_search_by(named) {
            Ok(at) => Some(self.kinds[at].1),
            Err(_) => self.base.as_ref()?.index(group, version, kind),
        }
    }

    /// One line for each definition: its name, a tab, its JSON. They are parsed one by one, so that never a tree of all
    /// of them stands in memory.
    fn read(text: &str) -> Self {
        let mut lines: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .collect();
        lines.sort_unstable_by_key(|(name, _)| *name);
        let names = lines.iter().map(|(name, _)| *name);
        let index: HashMap<&str, Index> = names.zip(0..).collect();
        let mut schemas = Self {
            definitions: Vec::with_capacity(lines.len()),
            ..Self::default()
        };
        let mut rules = HashMap::new();
        for ((name, json), at) in lines.into_iter().zip(0..) {
            let schema: Value =
                serde_json::from_str(json).expect("the built-in schemas were written by build.rs");
            let names = schema["x-kubernetes-group-version-kind"].as_array();
            for kind in names.into_iter().flatten() {
                let part = |key: &str| kind[key].as_str().unwrap_or_default().into();
                let names = (part("group"), part("version"), part("kind"));
                schemas.kinds.push((names, at));
            }
            let definition = definition(name, &schema, &index);
            if let Some(some) = Rules::read(&definition, &schema) {
                rules.insert(at, some);
            }
            schemas.definitions.push(definition);
        }
        schemas.rules = Arc::new(AllRules::new(&schemas.definitions, rules));
        schemas.kinds.sort_unstable();
        schemas.kinds.shrink_to_fit();
        schemas
    }

    /// Nothing yet but what `base` has.
    pub(crate) fn over(base: Arc<Self>) -> Self {
        Self {
            rules: Arc::clone(&base.rules),
            base: Some(base),
            ..Self::default()
        }
    }

    /// Adds a kind: its definitions, of which `root` is the kind's own, and the lines of its OpenAPI components.
    pub(crate) fn add(
        &mut self,
        (group, version, kind): (&str, &str, &str),
        root: Index,
        definitions: Vec<Definition>,
        documents: &str,
    ) {
        let names = (group.into(), version.into(), kind.into());
        self.kinds.push((names, root));
        self.kinds.sort_unstable();
        self.definitions.extend(definitions);
        self.documents.push_str(documents);
    }

    /// How many definitions there are, the base's among them.
    pub(crate) fn len(&self) -> Index {
        let base = self.base.as_ref().map_or(0, |base| base.definitions.len());
        Index::try_from(base + self.definitions.len())
            .expect("definitions are counted in thousands")
    }

    /// The names of the own definitions.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, Index)> {
        self.definitions.iter().map(|own| &*own.name).zip(0..)
    }

    /// Every OpenAPI component, as `build.rs` writes them.
    pub(crate) fn components(&self) -> String {
        inflate(COMPONENTS) + &self.documents
    }

    pub(crate) fn definition(&self, index: Index) -> &Definition {
        let index = index as usize;
        match &self.base {
            Some(base) => match index.checked_sub(base.definitions.len()) {
                Some(own) => &self.definitions[own],
                None => &base.definitions[index],
            },
            None => &self.definitions[index],
        }
    }

    /// The type behind names: a definition that is no object is what it stands for.
    pub(crate) fn plain<'a>(&'a self, type_: &'a Type) -> &'a Type {
        match type_ {
            Type::Definition(index) => match &self.definition(*index).shape {
                Shape::Other(type_) => type_,
                Shape::Object(_) => type_,
            },
            _ => type_,
        }
    }
}

pub(crate) fn definition(name: &str, schema: &Value, index: &HashMap<&str, Index>) -> Definition {
    let shape = match schema["properties"].as_object() {
        Some(fields) => {
            let required = schema["required"].as_array();
            let mut properties: Vec<Property> = fields
                .iter()
                .map(|(name, schema)| Property {
                    name: name.as_str().into(),
                    type_: type_of(schema, index),
                    patch: patch_rule(schema),
                    required: required.is_some_and(|names| names.iter().any(|n| n == name)),
                    keeps_zero: schema["x-knarr-keeps-zero"] == true,
                    tag: number(&schema["x-knarr-protobuf-tag"]),
                    inline_tag: number(&schema["x-knarr-protobuf-inline-tag"]),
                    wrapped: schema["x-knarr-protobuf-wrapped"] == true,
                })
                .collect();
            properties.sort_by(|a, b| a.name.cmp(&b.name));
            Shape::Object(properties.into())
        }
        None if name.ends_with(".Quantity") => Shape::Other(Type::Quantity),
        None if name.ends_with(".MicroTime") => Shape::Other(Type::Time(Precision::Micros)),
        None => Shape::Other(type_of(schema, index)),
    };
    Definition {
        name: name.into(),
        shape,
    }
}

fn number(tag: &Value) -> u32 {
    let tag = tag.as_u64().and_then(|tag| u32::try_from(tag).ok());
    tag.unwrap_or_default()
}

fn type_of(schema: &Value, index: &HashMap<&str, Index>) -> Type {
    let reference = schema["$ref"]
        .as_str()
        .or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|text| text.strip_prefix(REFERENCE)) {
        return index
            .get(name)
            .map_or(Type::Any, |at| Type::Definition(*at));
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return Type::IntOrString;
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("byte")) => Type::Bytes,
        (Some("string"), Some("date-time")) => Type::Time(Precision::Seconds),
        (Some("string"), _) => Type::String,
        (Some("integer"), Some("int32")) => Type::Int32,
        (Some("integer"), _) => Type::Int64,
        (Some("number"), _) => Type::Number,
        (Some("boolean"), _) => Type::Boolean,
        (Some("array"), _) => Type::List(Box::new(type_of(&schema["items"], index))),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            Type::Map(Box::new(type_of(&schema["additionalProperties"], index)))
        }
        _ => Type::Any,
    }
}

fn patch_rule(schema: &Value) -> PatchRule {
    let strategies = schema["x-kubernetes-patch-strategy"]
        .as_str()
        .unwrap_or_default();
    let has = |name: &str| strategies.split(',').any(|strategy| strategy == name);
    let merge_key = schema["x-kubernetes-patch-merge-key"].as_str();
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    let keys = keys.into_iter().flatten().filter_map(Value::as_str);
    PatchRule {
        merge: has("merge"),
        replace: has("replace"),
        merge_key: merge_key.map(Into::into),
        more_keys: keys
            .filter(|key| merge_key.is_some_and(|merge_key| merge_key != *key))
            .map(Into::into)
            .collect(),
    }
}

#[cfg(test)]
mod tests;
