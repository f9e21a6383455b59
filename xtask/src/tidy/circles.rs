// SPDX-License-Identifier: Apache-2.0
//! Circles between the modules of one crate: a module that uses another one which uses it again.
//!
//! A module and the modules in its folder are one thing in several files: a parent may use its children, and a child may use
//! its parent. What counts are arrows between modules beside each other. `a::x` that uses `b::y` makes an arrow from `a` to
//! `b`, in the folder that holds both. A re-export is followed to the module that defines the item. Tests are left out.
//!
//! Only paths are seen (`modules`): a method of a type that is called without naming the type's module makes no arrow.

mod modules;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use modules::{Crate, ModuleId};

use super::{Finding, Source};

/// An arrow from one module to another beside it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    /// The module that holds both.
    within: ModuleId,
    from: ModuleId,
    to: ModuleId,
}

/// Where an arrow was first seen.
struct Place<'a> {
    file: &'a Path,
    /// The path as it stands in the code.
    text: String,
}

pub fn check(sources: &[Source], target_roots: &[PathBuf]) -> Vec<Finding> {
    let rust: BTreeMap<&Path, &str> = sources
        .iter()
        .filter(|source| source.is_rust())
        .map(|source| (source.path.as_path(), source.text.as_str()))
        .collect();
    let crates = target_roots
        .iter()
        .filter_map(|root| Crate::read(root, &rust));
    crates.flat_map(|modules| circles(&modules)).collect()
}

/// One finding for each circle in the crate.
fn circles(modules: &Crate) -> Vec<Finding> {
    let mut arrows: BTreeMap<Arrow, Place<'_>> = BTreeMap::new();
    for (user, path, used) in modules.uses() {
        if let Some((within, from, to)) = modules.beside(user, used) {
            let arrow = Arrow { within, from, to };
            arrows.entry(arrow).or_insert_with(|| Place {
                file: modules.file(user),
                text: path.join("::"),
            });
        }
    }
    let mut next: BTreeMap<ModuleId, BTreeSet<ModuleId>> = BTreeMap::new();
    for arrow in arrows.keys() {
        next.entry(arrow.from).or_default().insert(arrow.to);
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for start in next.keys() {
        if seen.contains(start) {
            continue;
        }
        let Some(circle) = shortest_circle(*start, &next) else {
            continue;
        };
        // All modules that lead here and are led to from here are one knot. It is one finding.
        let reached = reachable(*start, &next);
        seen.extend(
            reached
                .into_iter()
                .filter(|module| reachable(*module, &next).contains(start)),
        );
        found.push(finding(modules, &circle, &arrows));
    }
    found
}

/// All modules that arrows lead to from this one, over any number of others.
fn reachable(start: ModuleId, next: &BTreeMap<ModuleId, BTreeSet<ModuleId>>) -> BTreeSet<ModuleId> {
    let mut reached = BTreeSet::new();
    let mut open = vec![start];
    while let Some(module) = open.pop() {
        for to in next.get(&module).into_iter().flatten() {
            if reached.insert(*to) {
                open.push(*to);
            }
        }
    }
    reached
}

/// The shortest way from a module back to itself; it begins and ends with the module.
fn shortest_circle(
    start: ModuleId,
    next: &BTreeMap<ModuleId, BTreeSet<ModuleId>>,
) -> Option<Vec<ModuleId>> {
    let mut came_from: BTreeMap<ModuleId, ModuleId> = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(module) = open.pop_front() {
        for to in next.get(&module).into_iter().flatten() {
            if *to == start {
                let mut circle = vec![start, module];
                while let Some(before) = came_from.get(circle.last()?) {
                    circle.push(*before);
                }
                circle.reverse();
                return Some(circle);
            }
            if !came_from.contains_key(to) {
                came_from.insert(*to, module);
                open.push_back(*to);
            }
        }
    }
    None
}

fn finding(modules: &Crate, circle: &[ModuleId], arrows: &BTreeMap<Arrow, Place<'_>>) -> Finding {
    let names: Vec<String> = circle.iter().map(|module| modules.name(*module)).collect();
    let mut places = Vec::new();
    let mut first = None;
    for pair in circle.windows(2) {
        let &[from, to] = pair else { continue };
        let found = arrows
            .iter()
            .find(|(arrow, _)| arrow.from == from && arrow.to == to);
        if let Some((_, Place { file, text })) = found {
            first.get_or_insert(*file);
            places.push(format!("{} names {text}", file.display()));
        }
    }
    let message = format!(
        "modules use each other in a circle, {} ({}): neither can be read or tested without the other, so move what both need into a module below both",
        names.join(" -> "),
        places.join("; ")
    );
    Finding::new(first.unwrap_or(Path::new("")), 0, message)
}

#[cfg(test)]
mod tests;
