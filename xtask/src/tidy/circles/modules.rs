// SPDX-License-Identifier: Apache-2.0
//! The modules of one crate and the paths in them, read with `syn`. Called by `circles`, which says what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// Re-exports that lead to re-exports are followed this far; one that leads to itself is not followed for ever.
const REEXPORTS_MAX: usize = 16;

/// A module by its place in [`Crate::modules`]; the root is the first.
pub(super) type ModuleId = usize;

/// The modules of a crate.
pub(super) struct Crate {
    modules: Vec<Module>,
}

struct Module {
    name: String,
    file: PathBuf,
    parent: Option<ModuleId>,
    children: BTreeMap<String, ModuleId>,
    content: Content,
}

/// What stands in a module, its child modules left out.
#[derive(Default)]
struct Content {
    /// Names of functions, types, constants and macros.
    items: BTreeSet<String>,
    /// What `use` brings in, by the name that it has here.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths before `::*`.
    globs: Vec<Vec<String>>,
    /// Every path in the code.
    paths: BTreeSet<Vec<String>>,
    /// Modules of this file and of others, in the order of the file.
    children: Vec<Child>,
}

struct Child {
    name: String,
    /// The content of `mod name { ... }`; none for `mod name;`.
    inline: Option<Content>,
}

impl Crate {
    /// Reads a crate from its root file on. None where there is no such file, or where it is no Rust of this edition.
    pub(super) fn read(root: &Path, files: &BTreeMap<&Path, &str>) -> Option<Self> {
        let mut modules = Self {
            modules: Vec::new(),
        };
        let content = parse(files.get(root)?)?;
        let dir = root.parent().unwrap_or(Path::new("")).to_path_buf();
        modules.add(
            "crate".to_owned(),
            root.to_path_buf(),
            &dir,
            None,
            content,
            files,
        );
        Some(modules)
    }

    /// Adds a module and those below it. `dir` is the folder that its child modules lie in.
    fn add(
        &mut self,
        name: String,
        file: PathBuf,
        dir: &Path,
        parent: Option<ModuleId>,
        mut content: Content,
        files: &BTreeMap<&Path, &str>,
    ) -> ModuleId {
        let id = self.modules.len();
        let children = std::mem::take(&mut content.children);
        self.modules.push(Module {
            name,
            file: file.clone(),
            parent,
            children: BTreeMap::new(),
            content,
        });
        for Child { name, inline } in children {
            let below = dir.join(&name);
            let child_file = dir.join(format!("{name}.rs"));
            let child = match inline {
                Some(content) => {
                    self.add(name.clone(), file.clone(), &below, Some(id), content, files)
                }
                None => {
                    // A file that is not there is the compiler's to report; generated ones are not ours.
                    let Some(content) =
                        files.get(child_file.as_path()).and_then(|text| parse(text))
                    else {
                        continue;
                    };
                    self.add(name.clone(), child_file, &below, Some(id), content, files)
                }
            };
            self.modules[id].children.insert(name, child);
        }
        id
    }

    /// Every path of every module that leads to a module of this crate: user, path, used.
    pub(super) fn uses(&self) -> impl Iterator<Item = (ModuleId, &Vec<String>, ModuleId)> {
        self.modules
            .iter()
            .enumerate()
            .flat_map(move |(id, module)| {
                module
                    .content
                    .paths
                    .iter()
                    .filter_map(move |path| Some((id, path, self.resolve(id, path, 0)?)))
            })
    }

    /// The two modules beside each other that hold these two, and the module that holds both; none where one of the two
    /// holds the other.
    pub(super) fn beside(
        &self,
        user: ModuleId,
        used: ModuleId,
    ) -> Option<(ModuleId, ModuleId, ModuleId)> {
        let (above_user, above_used) = (self.line(user), self.line(used));
        let mut within = None;
        for (a, b) in above_user.iter().zip(&above_used) {
            if a != b {
                return Some((within?, *a, *b));
            }
            within = Some(*a);
        }
        None
    }

    /// The modules from the root to this one.
    fn line(&self, module: ModuleId) -> Vec<ModuleId> {
        let mut line: Vec<ModuleId> =
            std::iter::successors(Some(module), |id| self.modules[*id].parent).collect();
        line.reverse();
        line
    }

    /// The module's file.
    pub(super) fn file(&self, module: ModuleId) -> &Path {
        &self.modules[module].file
    }

    /// The module's path from the root.
    pub(super) fn name(&self, module: ModuleId) -> String {
        let line = self.line(module);
        let names: Vec<&str> = line
            .iter()
            .skip(1)
            .map(|id| self.modules[*id].name.as_str())
            .collect();
        names.join("::")
    }

    /// The module that holds what a path means in a module; none for a path into another crate or to something local.
    fn resolve(&self, module: ModuleId, path: &[String], followed: usize) -> Option<ModuleId> {
        if followed > REEXPORTS_MAX {
            return None;
        }
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(0, rest, followed),
            "self" => self.walk(module, rest, followed),
            "super" => {
                let mut at = self.modules[module].parent?;
                let mut rest = rest;
                while let Some(("super", below)) = rest.split_first().map(|(f, r)| (f.as_str(), r))
                {
                    at = self.modules[at].parent?;
                    rest = below;
                }
                self.walk(at, rest, followed)
            }
            name if self.modules[module].children.contains_key(name) => {
                self.walk(module, path, followed)
            }
            // A single name is an item of this module, or was counted where `use` brings it in.
            name if !rest.is_empty() => {
                let import = self.modules[module].content.imports.get(name)?;
                let whole: Vec<String> = import.iter().chain(rest).cloned().collect();
                self.resolve(module, &whole, followed + 1)
            }
            _ => None,
        }
    }

    fn walk(&self, from: ModuleId, path: &[String], followed: usize) -> Option<ModuleId> {
        let mut at = from;
        for (place, name) in path.iter().enumerate() {
            let module = &self.modules[at];
            if let Some(child) = module.children.get(name) {
                at = *child;
                continue;
            }
            if module.content.items.contains(name) {
                return Some(at);
            }
            if let Some(import) = module.content.imports.get(name) {
                let whole: Vec<String> = import.iter().chain(&path[place + 1..]).cloned().collect();
                // An import from another crate is an item of the module that imports it.
                return Some(self.resolve(at, &whole, followed + 1).unwrap_or(at));
            }
            let behind_glob = module.content.globs.iter().find_map(|glob| {
                let holder = self.resolve(at, glob, followed + 1)?;
                self.modules[holder].holds(name).then_some(holder)
            });
            return match behind_glob {
                Some(holder) if holder != at => self.walk(holder, &path[place..], followed + 1),
                // A macro has made it, or it is a variant or an associated item.
                _ => Some(at),
            };
        }
        Some(at)
    }
}

impl Module {
    fn holds(&self, name: &str) -> bool {
        self.children.contains_key(name)
            || self.content.items.contains(name)
            || self.content.imports.contains_key(name)
    }
}

fn parse(text: &str) -> Option<Content> {
    let file = syn::parse_file(text).ok()?;
    Some(content_of(&file.items))
}

fn content_of(items: &[Item]) -> Content {
    let mut reader = Reader::default();
    for item in items {
        reader.visit_item(item);
    }
    reader.0
}

/// Collects what stands in one module.
#[derive(Default)]
struct Reader(Content);

impl Reader {
    fn add_use(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| -> Vec<String> {
            before.iter().cloned().chain([name.to_string()]).collect()
        };
        match tree {
            UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, before);
                }
            }
            UseTree::Glob(_) => {
                self.0.paths.insert(before.to_vec());
                self.0.globs.push(before.to_vec());
            }
            UseTree::Name(name) => {
                let path = if name.ident == "self" {
                    before.to_vec()
                } else {
                    with(&name.ident)
                };
                if let Some(last) = path.last() {
                    self.0.imports.insert(last.clone(), path.clone());
                }
                self.0.paths.insert(path);
            }
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" {
                    before.to_vec()
                } else {
                    with(&rename.ident)
                };
                self.0
                    .imports
                    .insert(rename.rename.to_string(), path.clone());
                self.0.paths.insert(path);
            }
        }
    }

    /// The arguments of a macro are words only, so a path in them is found by its `::`.
    fn add_tokens(&mut self, text: &str) {
        let spaced = text.replace("::", " :: ");
        let mut path: Vec<String> = Vec::new();
        let mut joined = false;
        for word in spaced.split(|sign: char| !sign.is_alphanumeric() && sign != '_' && sign != ':')
        {
            match word {
                "" | ":" => {}
                "::" => joined = true,
                name => {
                    // After a generic's bracket these begin a path of their own.
                    joined &= !matches!(name, "crate" | "self" | "super")
                        || path.last().is_some_and(|last| last == "super");
                    if !joined && path.len() > 1 {
                        self.0.paths.insert(std::mem::take(&mut path));
                    }
                    if !joined {
                        path.clear();
                    }
                    path.push(name.to_owned());
                    joined = false;
                }
            }
        }
        if path.len() > 1 {
            self.0.paths.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if attributes(item).iter().any(is_for_tests) {
            return;
        }
        if let Some(name) = name_of(item) {
            self.0.items.insert(name);
        }
        match item {
            Item::Mod(module) => self.0.children.push(Child {
                name: module.ident.to_string(),
                inline: module.content.as_ref().map(|(_, items)| content_of(items)),
            }),
            Item::Use(item) => self.add_use(&item.tree, &[]),
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.0.paths.insert(names.collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(&call.tokens.to_string());
        visit::visit_macro(self, call);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// `#[test]`, and `#[cfg(...)]` with the word `test`.
fn is_for_tests(attribute: &Attribute) -> bool {
    if attribute.path().is_ident("test") {
        return true;
    }
    let syn::Meta::List(list) = &attribute.meta else {
        return false;
    };
    let words = list.tokens.to_string();
    attribute.path().is_ident("cfg")
        && words
            .split(|sign: char| !sign.is_alphanumeric())
            .any(|word| word == "test")
}
