// SPDX-License-Identifier: Apache-2.0
//! One way through the write pipeline: what each step does, for a creation, an update and a deletion.
//!
//! Only `write.rs` calls the steps, in the order that it has. What a step needs to know of one operation is in
//! `create.rs`, `update.rs` and `delete.rs`.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use knarr_store::{Compare, Op};
use serde_json::Value;

use super::{Next, Source, Step, Write, create, delete, update};
use crate::admission::{Admission, DryRun, Effects, Operation, Part};
use crate::core::Core;
use crate::field::FieldErrors;
use crate::object::{Object, encode};
use crate::registry::{Candidate, Kind, meta};
use crate::verbs::commit::Swapped;
use crate::verbs::{Gone, MODIFIED, Written, in_view, served};
use crate::{ApiError, clock, value};

/// What is known of a write so far.
pub(super) struct Attempt<'a> {
    core: &'a Core,
    write: Write<'a>,
    /// The stored kind.
    stored: &'a Kind,
    /// The old object and the next one, as the chain sees them.
    admission: Admission<'a>,
    effects: Effects,
    /// The version that was read; none at a creation.
    current: Option<Arc<Object>>,
    /// What is to be stored; `None` where the object is removed.
    bytes: Option<Bytes>,
    end: Option<End>,
}

/// How an attempt ends.
pub(super) enum End {
    Written(Written),
    /// Another write came first. This is the refusal if there is no further attempt.
    Overtaken(ApiError),
    /// Another write took an address or port that this creation had chosen. This is the refusal if there is no
    /// further choice.
    Outrun(ApiError),
}

impl<'a> Attempt<'a> {
    pub(super) fn new(core: &'a Core, write: Write<'a>, operation: Operation) -> Self {
        let stored = write.kind.stored();
        let options = write.options;
        Self {
            core,
            write,
            stored,
            admission: Admission {
                server: core,
                requested: write.kind,
                kind: stored,
                operation,
                part: write.part,
                namespace: write.namespace,
                name: Cow::Borrowed(write.name),
                dry_run: options.dry_run,
                manager: &options.manager,
                caller: &options.caller,
                old: None,
                object: None,
            },
            effects: Effects::default(),
            current: None,
            bytes: None,
            end: None,
        }
    }

    /// Takes a next object.
    pub(super) fn put(&mut self, next: Next) {
        self.admission.object = Some(next.object);
        self.effects.warnings.extend(next.warnings);
    }

    pub(super) fn is_over(&self) -> bool {
        self.end.is_some()
    }

    pub(super) fn end(self) -> Option<End> {
        self.end
    }

    /// Does one step.
    pub(super) async fn step(&mut self, step: Step, source: &Source<'_>) -> Result<(), ApiError> {
        match step {
            Step::Read => self.read().await,
            Step::Next => self.next(source),
            Step::Prepare => self.prepare(),
            Step::Mutate => {
                let chain = &self.core.admission;
                chain.mutate(&mut self.admission, &mut self.effects).await
            }
            Step::Generation => {
                self.count_generation();
                Ok(())
            }
            Step::Validate => self.validate(),
            Step::Review => {
                let chain = &self.core.admission;
                chain.validate(&self.admission, &mut self.effects).await
            }
            Step::Allocate => self.allocate().await,
            Step::ManagedFields => {
                self.manage_fields();
                Ok(())
            }
            Step::Encode => {
                self.encode();
                Ok(())
            }
            Step::Commit => self.commit().await,
        }
    }

    async fn read(&mut self) -> Result<(), ApiError> {
        if self.admission.operation == Operation::Create {
            return Ok(());
        }
        let Write {
            kind,
            namespace,
            name,
            ..
        } = self.write;
        let current = self
            .core
            .current(kind, namespace, name)
            .await?
            .ok_or_else(|| ApiError::not_found(&kind.group, &kind.plural, name))?;
        self.admission.old = Some(current.value());
        self.current = Some(current);
        Ok(())
    }

    fn next(&mut self, source: &Source<'_>) -> Result<(), ApiError> {
        let kind = self.write.kind;
        let is_view = kind.is_view();
        match (source, &self.current, &self.admission.old) {
            (Source::Update(change), Some(current), Some(old)) => {
                let view = if is_view {
                    Cow::Owned(kind.strategy.as_view(old.clone()))
                } else {
                    Cow::Borrowed(old)
                };
                let mut next = change(&view)?;
                let Write {
                    namespace, name, ..
                } = self.write;
                update::check_place(kind, namespace, name, &mut next.object)?;
                update::check_identity(kind, current, &next.object)?;
                self.put(next);
            }
            (Source::Delete(options), Some(current), Some(old)) => {
                delete::check_preconditions(kind, current, options)?;
                let old = old.clone();
                match delete::plan(self.stored, current, old, options, clock::now()) {
                    delete::Plan::Remove => {}
                    delete::Plan::Write(object) => self.admission.object = Some(object),
                    delete::Plan::Nothing => {
                        self.finish(current.bytes.clone(), Some(Gone::Later));
                    }
                }
                return Ok(());
            }
            // A new object is there from the beginning.
            _ => {}
        }
        if is_view {
            let object = self.admission.object.take();
            self.admission.object = object.map(|object| kind.strategy.to_stored(object));
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), ApiError> {
        let (kind, stored) = (self.write.kind, self.stored);
        let Some(object) = &mut self.admission.object else {
            return Ok(());
        };
        match (self.admission.operation, &self.admission.old) {
            (Operation::Create, _) => {
                create::prepare(kind, stored, self.write.namespace, object)?;
                let name = value::text(object, "metadata.name").to_owned();
                self.admission.name = Cow::Owned(name);
            }
            (Operation::Update, Some(old)) => {
                update::prepare(stored, self.write.part, object, old);
            }
            (Operation::Update | Operation::Delete, _) => {}
        }
        Ok(())
    }

    fn count_generation(&mut self) {
        if self.admission.operation == Operation::Update
            && self.write.part != Part::Status
            && let (Some(new), Some(old)) = (&mut self.admission.object, &self.admission.old)
        {
            update::count_generation(self.stored.generation, new, old);
        }
    }

    fn validate(&mut self) -> Result<(), ApiError> {
        let (kind, part) = (self.write.kind, self.write.part);
        let Some(new) = &self.admission.object else {
            return Ok(());
        };
        let old = self.admission.old.as_ref();
        let mut errors = FieldErrors::default();
        let candidate = match (self.admission.operation, old) {
            (Operation::Create, _) => {
                meta::validate(self.stored, new, &mut errors);
                Some(Candidate::New(new))
            }
            (Operation::Update, Some(old)) => {
                meta::validate_update(new, old, &mut errors);
                match part {
                    Part::Main | Part::Scale => Some(Candidate::Changed { new, old }),
                    Part::Status => Some(Candidate::Status { new }),
                    // The changes check for themselves.
                    Part::Binding | Part::Finalize | Part::Eviction => None,
                }
            }
            (Operation::Update | Operation::Delete, _) => return Ok(()),
        };
        if let (Some(candidate), Some(rules)) = (candidate, kind.strategy.rules()) {
            rules.check(candidate, &mut errors).map_err(|error| {
                ApiError::internal(format!("the object is no {}: {error}", kind.kind))
            })?;
        }
        if !errors.is_empty() {
            let name = &self.admission.name;
            return Err(ApiError::invalid(&kind.group, &kind.kind, name, &errors));
        }
        if part == Part::Main {
            let warnings = self.stored.strategy.all_warnings(new, old);
            self.effects.warnings.extend(warnings);
        }
        Ok(())
    }

    async fn allocate(&mut self) -> Result<(), ApiError> {
        if !matches!(self.write.part, Part::Main | Part::Scale)
            || self.admission.operation == Operation::Delete
        {
            return Ok(());
        }
        let old = self.admission.old.as_ref();
        if let Some(object) = &mut self.admission.object {
            let picks = self.core.allocate(self.stored, object, old).await?;
            if let Some(picks) = picks {
                self.effects.hold(picks);
            }
        }
        Ok(())
    }

    /// No manager of a field is recorded yet, so what a client says of managers is dropped.
    fn manage_fields(&mut self) {
        if let Some(object) = &mut self.admission.object {
            value::remove(object, "metadata.managedFields");
        }
    }

    fn encode(&mut self) {
        let Some(new) = &mut self.admission.object else {
            return;
        };
        if let (Operation::Update, Some(old), Some(current)) =
            (self.admission.operation, &self.admission.old, &self.current)
        {
            value::copy(new, old, "metadata.resourceVersion");
            if new == old {
                let bytes = current.bytes.clone();
                self.finish(bytes, None);
                return;
            }
        }
        self.bytes = Some(encode(self.stored, new).into());
    }

    async fn commit(&mut self) -> Result<(), ApiError> {
        let store_key = self
            .stored
            .store_key(self.write.namespace, &self.admission.name);
        if self.admission.dry_run == DryRun::All {
            return self.try_only().await;
        }
        let compare = match &self.current {
            Some(current) => {
                let read = knarr_store::Revision(current.meta.resource_version);
                Compare::mod_revision(store_key.clone(), read)
            }
            None => Compare::absent(store_key.clone()),
        };
        let (op, left) = match &self.bytes {
            Some(bytes) if !self.is_finished() => {
                let op = Op::put(store_key.clone(), bytes.clone());
                (op, self.admission.object.as_ref())
            }
            _ => (Op::delete(store_key.clone()), None),
        };
        let old = self.admission.old.as_ref();
        let claims = self.core.allocations.claims(self.stored, old, left);
        let holds = std::mem::take(&mut self.effects.holds);
        let swapped = self.core.swap(claims.with(compare, op), holds).await?;
        let (seen, conflicts) = match swapped {
            Swapped::At(revision) => {
                self.finish_at(revision);
                return Ok(());
            }
            Swapped::Overtaken { seen, conflicts } => (seen, conflicts),
        };
        let is_changed = conflicts.iter().any(|key| *key == store_key);
        // The next attempt has to see what came first. A creation reads nothing but what is free.
        if self.current.is_some() || !is_changed {
            self.core.wait_for(seen).await?;
        }
        let refusal = self.refusal();
        self.end = Some(if self.current.is_none() && !is_changed {
            End::Outrun(refusal)
        } else {
            End::Overtaken(refusal)
        });
        Ok(())
    }

    /// Ends a dry run.
    async fn try_only(&mut self) -> Result<(), ApiError> {
        let Write {
            kind, namespace, ..
        } = self.write;
        match &self.current {
            None => {
                let name = &self.admission.name;
                match self.core.current(kind, namespace, name).await? {
                    Some(_) => self.end = Some(End::Overtaken(self.refusal())),
                    None => self.finish_at(0),
                }
            }
            Some(current) if self.bytes.is_some() => {
                let revision = current.meta.resource_version;
                self.finish_at(revision);
            }
            Some(current) => {
                let last = current.bytes.clone();
                self.finish(last, Some(Gone::Now));
            }
        }
        Ok(())
    }

    /// Ends with what is stored as of `revision` (0: a dry run of a creation, which has none).
    fn finish_at(&mut self, revision: u64) {
        match (&self.bytes, &self.current) {
            (Some(bytes), _) => {
                let bytes = served(bytes, revision);
                let is_deletion = self.admission.operation == Operation::Delete;
                self.finish(bytes, is_deletion.then_some(Gone::Later));
            }
            (None, Some(current)) => {
                let last = current.deleted_at(revision).bytes;
                self.finish(last, Some(Gone::Now));
            }
            (None, None) => {}
        }
    }

    /// Ends with these bytes of the stored kind.
    fn finish(&mut self, bytes: Bytes, gone: Option<Gone>) {
        let uid = match &self.current {
            Some(current) => current.meta.uid.to_string(),
            None => String::new(),
        };
        self.end = Some(End::Written(Written {
            bytes: in_view(self.write.kind, bytes),
            warnings: std::mem::take(&mut self.effects.warnings),
            uid,
            gone,
        }));
    }

    /// What a write that was overtaken is refused with.
    fn refusal(&self) -> ApiError {
        let (kind, name) = (self.write.kind, &self.admission.name);
        match self.admission.operation {
            Operation::Create => ApiError::already_exists(&kind.group, &kind.plural, name),
            Operation::Update | Operation::Delete => {
                ApiError::conflict(&kind.group, &kind.plural, name, MODIFIED)
            }
        }
    }

    /// A deleted object that nothing keeps any more goes with an update.
    fn is_finished(&self) -> bool {
        let object = self.admission.object.as_ref();
        self.admission.operation == Operation::Update
            && object.is_some_and(|object: &Value| update::is_finished(self.stored, object))
    }
}
