// SPDX-License-Identifier: Apache-2.0
//! Random owners, circles among them, deleted in random ways: what has to go goes, and nothing else.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

/// Objects as the API server has them, and the loop around the plan.
struct World {
    graph: Graph,
    objects: BTreeMap<String, Item>,
    /// What the plan asked to look at.
    queue: Vec<Arc<str>>,
    random: StdRng,
}

impl World {
    fn new(seed: u64, objects: Vec<Item>) -> Self {
        let mut world = Self {
            graph: Graph::default(),
            objects: BTreeMap::new(),
            queue: Vec::new(),
            random: StdRng::seed_from_u64(seed),
        };
        for object in objects {
            world.set(object);
        }
        world
    }

    fn set(&mut self, object: Item) {
        self.objects.insert(object.uid.to_string(), object.clone());
        let look = self.graph.observe(Arc::new(object));
        self.queue.extend(look);
    }

    fn change(&mut self, uid: &str, change: impl FnOnce(&mut Item)) {
        if let Some(mut object) = self.objects.get(uid).cloned() {
            change(&mut object);
            self.set(object);
        }
    }

    fn end(&mut self, uid: &str) {
        if self.objects.remove(uid).is_some() {
            let look = self.graph.remove(uid);
            self.queue.extend(look);
        }
    }

    fn delete(&mut self, uid: &str, propagation: Propagation) {
        let leaving = match propagation {
            Propagation::Foreground => Leaving::Foreground,
            // A pod takes a while to end.
            _ => Leaving::Plain,
        };
        self.change(uid, |object| {
            if object.leaving == Leaving::No {
                object.leaving = leaving;
            }
        });
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Delete { uid, propagation } => self.delete(&uid, propagation),
            Action::Disown { uid, owners } => self.change(&uid, |object| {
                let kept = object.owners.iter().filter(|o| !owners.contains(&o.uid));
                object.owners = kept.cloned().collect();
            }),
            Action::Unblock { uid, owners } => self.change(&uid, |object| {
                for owner in object.owners.iter_mut() {
                    owner.blocks &= !owners.contains(&owner.uid);
                }
            }),
            Action::Unfinalize { uid, finalizer } => {
                assert_eq!(finalizer, FOREGROUND);
                self.end(&uid);
            }
        }
    }

    /// One thing that can happen; false when nothing can.
    fn step(&mut self) -> bool {
        let ending: Vec<String> = self
            .objects
            .values()
            .filter(|object| object.leaving == Leaving::Plain)
            .map(|object| object.uid.to_string())
            .collect();
        if (self.queue.is_empty() || self.random.random_bool(0.2))
            && let Some(uid) = ending.choose(&mut self.random)
        {
            self.end(uid);
            return true;
        }
        if self.queue.is_empty() {
            return false;
        }
        let index = self.random.random_range(0..self.queue.len());
        let uid = self.queue.swap_remove(index);
        for action in self.graph.plan(&uid, &|_| OwnerKind::Namespaced) {
            self.apply(action);
        }
        true
    }
}

/// What is collected when `deleted` are: objects with owners, all of which are collected or never existed.
fn expected(objects: &[Item], deleted: &[String]) -> HashSet<String> {
    let there: HashSet<&str> = objects.iter().map(|object| &*object.uid).collect();
    let mut going: HashSet<String> = deleted.iter().cloned().collect();
    loop {
        let before = going.len();
        for object in objects {
            let mut owners = object.owners.iter();
            let goes =
                |owner: &OwnerRef| !there.contains(&*owner.uid) || going.contains(&*owner.uid);
            if !object.owners.is_empty() && owners.all(goes) {
                going.insert(object.uid.to_string());
            }
        }
        if going.len() == before {
            return going;
        }
    }
}

#[test]
fn what_has_to_go_goes_and_nothing_else() {
    let mut circles = 0;
    for seed in 0..4_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(1..9);
        let name = |index: usize| format!("o{index}");
        let objects: Vec<Item> = (0..count)
            .map(|index| {
                let owners = random.random_range(0..3);
                let mut owners: Vec<String> = (0..owners)
                    // One more than there are: an owner that never was.
                    .map(|_| name(random.random_range(0..=count)))
                    .filter(|owner| *owner != name(index))
                    .collect();
                owners.sort();
                owners.dedup();
                let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
                let mut object = item(&name(index), &owners);
                for owner in object.owners.iter_mut() {
                    owner.blocks = random.random_bool(0.8);
                }
                object
            })
            .collect();
        let deletions: Vec<(String, Propagation)> = (0..random.random_range(0..4))
            .map(|_| {
                let propagation = if random.random_bool(0.6) {
                    Propagation::Foreground
                } else {
                    Propagation::Background
                };
                (name(random.random_range(0..count)), propagation)
            })
            .collect();
        let mut world = World::new(seed, objects.clone());
        let mut left = deletions.clone();
        for step in 0.. {
            assert!(step < 1_000, "seed {seed} goes round in circles");
            let delete_now = !left.is_empty() && random.random_bool(0.2);
            if delete_now {
                let (uid, propagation) = left.remove(0);
                world.delete(&uid, propagation);
            } else if !world.step() && left.is_empty() {
                break;
            }
        }
        let deleted: Vec<String> = deletions.into_iter().map(|(uid, _)| uid).collect();
        let going = expected(&objects, &deleted);
        circles += usize::from(going.len() > 2);
        for object in &objects {
            let uid = &*object.uid;
            assert_eq!(
                going.contains(uid),
                !world.objects.contains_key(uid),
                "seed {seed}, {uid} of {objects:#?}, deleted {deleted:?}"
            );
        }
    }
    assert!(circles > 100, "the test has to have something to delete");
}
