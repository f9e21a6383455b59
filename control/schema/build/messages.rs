// SPDX-License-Identifier: Apache-2.0
//! Reads the protobuf messages of k8s-pb from its sources: numbers and types of fields, and upstream's markers
//! (`+patchStrategy`, `+listType`, `+default` and so on) in their comments.
//!
//! It does not know JSON or schemas; `markers.rs` compares the two. A package's source is parsed when a message of it
//! is asked for, because most packages are never needed.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use syn::{Attribute, Expr, Fields, GenericArgument, Item, Lit, LitStr, Meta, PathArguments, Type};

use crate::later::LATER;

/// Where the fields in [`LATER`] are.
const CORE: &str = "io.k8s.api.core.v1";

/// How many values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    One,
    Many,
    /// A map from strings.
    Map,
}

/// The protobuf type of a field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wire {
    Bool,
    Int32,
    Int64,
    Double,
    Text,
    Bytes,
    /// A message, by its name as [`Messages::get`] takes it.
    Message(String),
    /// k8s-pb does not have the field: see [`LATER`].
    Unknown,
}

/// One field of a message.
#[derive(Debug)]
pub struct Field {
    /// Name and value of each marker, in the order of the comment.
    pub markers: Vec<(String, String)>,
    pub tag: u32,
    pub count: Count,
    pub wire: Wire,
}

/// The fields of a message by their [`folded`] names.
pub type Message = BTreeMap<String, Field>;

/// The messages of a package by their folded names.
type Package = HashMap<String, Rc<Message>>;

/// The messages of k8s-pb.
pub struct Messages {
    source: PathBuf,
    packages: RefCell<HashMap<String, Rc<Package>>>,
}

/// A name without what Rust, protobuf and JSON spell differently: `HTTPGetAction` and `HttpGetAction`, `host_ip` and
/// `hostIP`.
pub fn folded(name: &str) -> String {
    name.trim_start_matches("r#")
        .replace('_', "")
        .to_lowercase()
}

impl Messages {
    /// The messages below a source folder.
    pub fn below(source: PathBuf) -> Self {
        Self {
            source,
            packages: RefCell::default(),
        }
    }

    /// The message of a definition, e.g. `io.k8s.api.core.v1.PodSpec`. Only the last part of the name is folded.
    pub fn get(&self, name: &str) -> Result<Option<Rc<Message>>, Box<dyn Error>> {
        let (package, message) = name.rsplit_once('.').unwrap_or_default();
        let known = self.packages.borrow().get(package).cloned();
        let package = match known {
            Some(package) => package,
            None => {
                let read = Rc::new(self.read(package)?);
                let mut packages = self.packages.borrow_mut();
                packages.insert(package.to_owned(), Rc::clone(&read));
                read
            }
        };
        Ok(package.get(&folded(message)).cloned())
    }

    fn read(&self, package: &str) -> Result<Package, Box<dyn Error>> {
        let path = package.strip_prefix("io.k8s.").unwrap_or(package);
        let path: Vec<&str> = path.split('.').collect();
        let mut file = self.source.clone();
        // Rust does not take the `-` of `apiextensions-apiserver`.
        file.extend(path.iter().map(|part| part.replace('-', "_")));
        file.push("mod.rs");
        let mut messages: HashMap<String, Message> = HashMap::new();
        // Some types of the API machinery, such as `version.Info`, have no message.
        if file.exists() {
            let text = fs::read_to_string(&file)?;
            for item in syn::parse_file(&text)?.items {
                if let Item::Struct(item) = item {
                    let fields = fields(&item.fields, &path)
                        .map_err(|error| format!("{}: {}: {error}", file.display(), item.ident))?;
                    messages.insert(folded(&item.ident.to_string()), fields);
                }
            }
        }
        if package == CORE {
            add_later(&mut messages)?;
        }
        let shared = messages.into_iter().map(|(name, m)| (name, Rc::new(m)));
        Ok(shared.collect())
    }
}

fn add_later(messages: &mut HashMap<String, Message>) -> Result<(), String> {
    for (message, name, tag, text) in LATER {
        let known = text.split_whitespace().filter_map(|m| m.split_once('='));
        let field = Field {
            markers: known
                .map(|(marker, value)| (marker.to_owned(), value.to_owned()))
                .collect(),
            tag,
            count: Count::One,
            wire: Wire::Unknown,
        };
        let fields = messages.entry(folded(message)).or_default();
        if fields.values().any(|field| field.tag == tag) {
            return Err(format!(
                "number {tag} of {message}.{name} is taken in k8s-pb"
            ));
        }
        if fields.insert(folded(name), field).is_some() {
            return Err(format!("{message}.{name} is in k8s-pb now"));
        }
    }
    Ok(())
}

/// The fields of a struct that stands in the module with this path.
fn fields(fields: &Fields, module: &[&str]) -> syn::Result<Message> {
    let mut message = Message::new();
    for field in fields {
        let Some(name) = &field.ident else { continue };
        let Some(prost) = Prost::of(&field.attrs)? else {
            continue;
        };
        let count = match (prost.map.is_some(), prost.repeated) {
            (true, _) => Count::Map,
            (false, true) => Count::Many,
            (false, false) => Count::One,
        };
        let spelled = prost.map.as_deref().unwrap_or(&prost.type_);
        let wire = match spelled {
            "bool" => Wire::Bool,
            "int32" => Wire::Int32,
            "int64" => Wire::Int64,
            "double" => Wire::Double,
            "string" => Wire::Text,
            "bytes" => Wire::Bytes,
            "message" => Wire::Message(message_name(&field.ty, module)?),
            other => {
                let text = format!("{other} is no type that Kubernetes' messages have");
                return Err(syn::Error::new_spanned(name, text));
            }
        };
        let field = Field {
            markers: markers(&field.attrs),
            tag: prost.tag,
            count,
            wire,
        };
        message.insert(folded(&name.to_string()), field);
    }
    Ok(message)
}

/// What `#[prost(...)]` says of a field.
#[derive(Default)]
struct Prost {
    tag: u32,
    /// `string`, `message` and so on.
    type_: String,
    /// The type of a map's values.
    map: Option<String>,
    repeated: bool,
}

impl Prost {
    fn of(attributes: &[Attribute]) -> syn::Result<Option<Self>> {
        let Some(attribute) = attributes.iter().find(|a| a.path().is_ident("prost")) else {
            return Ok(None);
        };
        let mut found = Self::default();
        attribute.parse_nested_meta(|meta| {
            let Some(name) = meta.path.get_ident().map(ToString::to_string) else {
                return Ok(());
            };
            match name.as_str() {
                "tag" => {
                    found.tag = meta
                        .value()?
                        .parse::<LitStr>()?
                        .value()
                        .parse()
                        .map_err(|_| meta.error("a number"))?
                }
                "btree_map" => {
                    let types = meta.value()?.parse::<LitStr>()?.value();
                    let (_, value) = types.split_once(',').unwrap_or_default();
                    found.map = Some(value.trim().to_owned());
                }
                // `bytes = "vec"` says how Rust holds it.
                "bytes" => {
                    meta.value()?.parse::<LitStr>()?;
                    found.type_ = name;
                }
                // Kubernetes' numbers are not packed, but a reader takes both forms.
                "packed" => drop(meta.value()?.parse::<LitStr>()?),
                "repeated" => found.repeated = true,
                "optional" | "boxed" => {}
                _ => found.type_ = name,
            }
            Ok(())
        })?;
        Ok(Some(found))
    }
}

/// The name of the message that a field's Rust type holds: what stands innermost, resolved from the module.
fn message_name(type_: &Type, module: &[&str]) -> syn::Result<String> {
    let Type::Path(path) = type_ else {
        return Err(syn::Error::new_spanned(type_, "a path"));
    };
    let path = &path.path;
    if let Some(last) = path.segments.last()
        && let PathArguments::AngleBracketed(arguments) = &last.arguments
        && let Some(GenericArgument::Type(inner)) = arguments.args.last()
    {
        return message_name(inner, module);
    }
    let mut parts = module.to_vec();
    let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
    for name in &names {
        if name == "super" {
            parts.pop();
        } else {
            parts.push(name);
        }
    }
    Ok(format!("io.k8s.{}", parts.join(".")))
}

fn markers(attributes: &[Attribute]) -> Vec<(String, String)> {
    let comments = attributes.iter().filter_map(|attribute| {
        let Meta::NameValue(pair) = &attribute.meta else {
            return None;
        };
        match &pair.value {
            Expr::Lit(literal) if pair.path.is_ident("doc") => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        }
    });
    comments
        .filter_map(|comment| {
            let marker = comment.trim().strip_prefix('+')?;
            let (name, value) = marker.split_once('=').unwrap_or((marker, ""));
            Some((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}
