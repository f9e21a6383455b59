// SPDX-License-Identifier: Apache-2.0
//! A world for rollouts: applies a Deployment's plans and plays ReplicaSet controller and pods, in an order
//! that a seed decides.

use knarr_api::k8s_openapi::api::apps::v1::ReplicaSetStatus;

use super::*;

#[derive(Debug, Clone)]
struct Pod {
    set: String,
    available: bool,
    /// Steps until a terminating pod is gone.
    leaving: Option<u32>,
}

pub struct World {
    pub deployment: Deployment,
    pub sets: Vec<ReplicaSet>,
    pods: Vec<Pod>,
    pub now: Timestamp,
    seed: u64,
    made: i64,
    /// After every step: no more pods than the surge and no fewer available ones than the bound.
    pub watch_bounds: bool,
    pub broken_image: Option<String>,
    pub terminating_steps: u32,
}

impl World {
    pub fn new(deployment: Deployment, seed: u64) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            pods: Vec::new(),
            now: at(0),
            seed: seed.wrapping_mul(977).wrapping_add(13),
            made: 0,
            watch_bounds: false,
            broken_image: None,
            terminating_steps: 1,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.seed >> 33).unwrap() % below
    }

    pub fn seconds(&self) -> i64 {
        self.now.as_second() - at(0).as_second()
    }

    pub fn touch(&mut self) {
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    pub fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.to_owned());
        self.touch();
    }

    fn image(set: &ReplicaSet) -> String {
        let template = set.spec.template.as_ref().unwrap();
        template.spec.as_ref().unwrap().containers[0]
            .image
            .clone()
            .unwrap()
    }

    pub fn set_of(&self, image: &str) -> &ReplicaSet {
        self.sets
            .iter()
            .find(|set| Self::image(set) == image)
            .unwrap()
    }

    /// Image and size of every set, by image.
    pub fn sizes(&self) -> Vec<(String, i32)> {
        let mut sizes: Vec<_> = self
            .sets
            .iter()
            .map(|set| (Self::image(set), set.spec.replicas.unwrap()))
            .collect();
        sizes.sort();
        sizes
    }

    pub fn pods_of(&self, image: &str) -> usize {
        let uids: Vec<_> = self
            .sets
            .iter()
            .filter(|set| Self::image(set) == image)
            .filter_map(|set| set.metadata.uid.clone())
            .collect();
        self.pods
            .iter()
            .filter(|pod| uids.contains(&pod.set))
            .count()
    }

    pub fn plan(&self) -> Plan {
        let with_pods: Vec<String> = self.pods.iter().map(|pod| pod.set.clone()).collect();
        let view = View {
            deployment: &self.deployment,
            sets: &self.sets,
            sets_with_pods: &with_pods,
        };
        plan(view, self.now).unwrap()
    }

    pub fn is_idle(&self) -> bool {
        self.plan().actions.is_empty()
    }

    pub fn step_deployment(&mut self) {
        for action in self.plan().actions {
            match action {
                Action::CreateSet(mut set) => {
                    self.made += 1;
                    let uid = format!("s{}", self.made);
                    set.metadata.uid = Some(uid);
                    set.metadata.generation = Some(1);
                    set.metadata.creation_timestamp = Some(Time(at(self.made)));
                    self.sets.push(*set);
                }
                Action::UpdateSet(mut set) => {
                    let known = self
                        .sets
                        .iter_mut()
                        .find(|known| known.metadata.uid == set.metadata.uid)
                        .unwrap();
                    if known.spec != set.spec {
                        *set.metadata.generation.as_mut().unwrap() += 1;
                    }
                    *known = *set;
                }
                Action::DeleteSet(gone) => {
                    self.sets
                        .retain(|set| set.metadata.uid.as_ref() != Some(&gone.uid));
                    assert!(
                        self.pods.iter().all(|pod| pod.set != gone.uid),
                        "a set with pods was deleted"
                    );
                }
                Action::Annotate(new) => {
                    self.deployment
                        .metadata
                        .annotations
                        .get_or_insert_default()
                        .extend(new);
                    self.touch();
                }
                Action::Status(status) => self.deployment.status = Some(*status),
                Action::Event { .. } => {}
                Action::Adopt(_) | Action::Release(_) => {
                    panic!("nothing to adopt here: {action:?}")
                }
            }
        }
        self.check();
    }

    fn step_set(&mut self, index: usize) {
        let uid = self.sets[index].metadata.uid.clone().unwrap();
        let wanted = usize::try_from(self.sets[index].spec.replicas.unwrap()).unwrap();
        let own = |pod: &&mut Pod| pod.set == uid && pod.leaving.is_none();
        let mut active = self.pods.iter_mut().filter(own).count();
        while active < wanted {
            self.pods.push(Pod {
                set: uid.clone(),
                available: false,
                leaving: None,
            });
            active += 1;
        }
        // Pods that are not available go first, as the ReplicaSet controller ranks them.
        for available in [false, true] {
            for pod in self
                .pods
                .iter_mut()
                .filter(|pod| pod.set == uid && pod.leaving.is_none())
            {
                if active > wanted && pod.available == available {
                    pod.leaving = Some(self.terminating_steps);
                    active -= 1;
                }
            }
        }
        let live = self
            .pods
            .iter()
            .filter(|pod| pod.set == uid && pod.leaving.is_none());
        let available = live.clone().filter(|pod| pod.available).count();
        let count = |count: usize| i32::try_from(count).unwrap();
        self.sets[index].status = Some(ReplicaSetStatus {
            replicas: count(live.count()),
            ready_replicas: Some(count(available)),
            available_replicas: Some(count(available)),
            observed_generation: self.sets[index].metadata.generation,
            ..ReplicaSetStatus::default()
        });
        self.check();
    }

    fn step_pods(&mut self) {
        for pod in &mut self.pods {
            if let Some(steps) = &mut pod.leaving {
                *steps = steps.saturating_sub(1);
            }
        }
        self.pods.retain(|pod| pod.leaving != Some(0));
        if self.pods.is_empty() {
            return;
        }
        let at = self.random(self.pods.len());
        let set = self
            .sets
            .iter()
            .find(|set| set.metadata.uid.as_ref() == Some(&self.pods[at].set));
        let broken = set.is_some_and(|set| Some(Self::image(set)) == self.broken_image);
        self.pods[at].available |= !broken;
    }

    fn check(&self) {
        if !self.watch_bounds {
            return;
        }
        let bounds = bounds(&self.deployment);
        let replicas = self.deployment.spec.replicas.unwrap();
        let promised: i32 = self.sets.iter().map(|set| set.spec.replicas.unwrap()).sum();
        assert!(
            promised <= replicas + bounds.surge,
            "{promised} pods promised"
        );
        let live = self.pods.iter().filter(|pod| pod.leaving.is_none());
        let available = i32::try_from(live.filter(|pod| pod.available).count()).unwrap();
        assert!(
            available >= replicas - bounds.unavailable,
            "only {available} available"
        );
    }

    /// Runs random steps: `turns` of the Deployment, with others in between.
    pub fn run(&mut self, turns: u32) {
        for _ in 0..turns {
            for _ in 0..6 {
                match self.random(3) {
                    0 => self.step_pods(),
                    1 if !self.sets.is_empty() => {
                        let index = self.random(self.sets.len());
                        self.step_set(index);
                    }
                    _ => {}
                }
            }
            self.now = at(self.seconds() + 1);
            self.step_deployment();
        }
    }

    /// Runs until nothing happens any more.
    pub fn settle(&mut self) {
        for _ in 0..400 {
            self.run(1);
            let sets = self.sets.clone();
            for index in 0..self.sets.len() {
                self.step_set(index);
            }
            let rest = self
                .pods
                .iter()
                .all(|pod| pod.available && pod.leaving.is_none());
            if rest && self.sets == sets && self.is_idle() {
                return;
            }
        }
        panic!("never at rest: {:#?} {:#?}", self.sizes(), self.plan());
    }
}
